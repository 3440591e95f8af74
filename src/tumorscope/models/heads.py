"""Heads: from a backbone's feature map to logits."""

import torch
from torch import Tensor, nn

from tumorscope.config import Model, Texture

#: Heads that first take the mean over places, so that only means need storing and a class activation map exists.
POOLING = ("linear", "pooled")
#: Dense layers and dropout of the skin-lesion stack. The student report cites Khan et al. 2021 and gives no widths; two dense
#: layers of 512 and 256 with dropout 0.5 are our assumption.
SKIN_LESION, SKIN_LESION_DROPOUT = (512, 256), 0.5


class Head(nn.Module):
    """Features (n, channels, h, w) and texture (n, k), or None where there is none, to logits (n, classes)."""

    def __init__(self, model: Model, shape: tuple[int, int, int], classes: int, values: int = 0) -> None:
        super().__init__()
        assert model.backbone is not None
        self.kind, texture = model.backbone.head, model.backbone.texture
        features = shape[0] if self.kind in POOLING else shape[0] * shape[1] * shape[2]
        self.branch = TextureBranch(texture, values, model.dropout) if values and texture else None
        wide, narrow = self.branch.places if self.branch else (0, 0)
        layers: list[nn.Module] = []
        width = features + wide
        for dense, dropout in _stack(self.kind, model):
            layers += [nn.Linear(width, dense), nn.ReLU(), nn.Dropout(dropout)]
            width = dense
        if self.kind == "pooled":
            layers.append(nn.Dropout(model.dropout))
        self.hidden = nn.Sequential(*layers)
        self.dense = nn.Linear(width + narrow, classes)

    def forward(self, features: Tensor, texture: Tensor | None = None) -> Tensor:
        """Logits (n, classes)."""
        flat = features.mean(dim=(2, 3)) if self.kind in POOLING else features.flatten(1)
        if self.branch is None or texture is None:
            return self.dense(self.hidden(flat))
        joined = self.branch(texture)
        if self.branch.early:
            return self.dense(self.hidden(torch.cat([flat, joined], 1)))
        return self.dense(torch.cat([self.hidden(flat), joined], 1))

    def maps(self, features: Tensor) -> Tensor:
        """Class activation map (n, classes, h, w) after Zhou et al. 2016 (arXiv:1512.04150); pooling heads only."""
        return torch.einsum("nchw,kc->nkhw", features, self.dense.weight)


class TextureBranch(nn.Module):
    """Texture values (n, k) either as they are, or standardised and through a dense layer of their own."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, texture: Texture, values: int, dropout: float) -> None:
        super().__init__()
        self.early = texture.fusion == "concatenate"
        #: Values that go before the head's dense layers, and before its last one.
        self.places = (values, 0) if self.early else (0, texture.width)
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("deviation", torch.ones(values))
        self.dense = nn.Identity() if self.early else _branch(values, texture.width, dropout)

    def standardise(self, training: Tensor) -> None:
        """Take mean and deviation from the training part's values (n, k); nothing where they go in as they are."""
        if not self.early:
            self.mean.copy_(training.mean(0))
            self.deviation.copy_(training.std(0).clamp_min(1e-6))

    def forward(self, texture: Tensor) -> Tensor:
        """(n, k) or (n, width)."""
        return self.dense((texture - self.mean) / self.deviation)


def _branch(values: int, width: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(values, width), nn.ReLU(), nn.Dropout(dropout))


def _stack(kind: str, model: Model) -> list[tuple[int, float]]:
    """Width and dropout of each dense layer before the last."""
    if kind == "improved":
        return [(model.dense, model.dropout)]
    if kind == "skin_lesion":
        return [(width, SKIN_LESION_DROPOUT) for width in SKIN_LESION]
    return []
