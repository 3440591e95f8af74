"""Residual networks for small grey slices, trained from random weights (He et al. 2016, arXiv:1603.05027)."""

import torch
from torch import Tensor, nn

from tumorscope.config import Model
from tumorscope.errors import RecipeError
from tumorscope.models.registry import register


@register("compact_cnn")
def compact_cnn(model: Model, size: int, classes: int) -> nn.Module:
    """A stage of `blocks` residual blocks for each of `filters`, max-pool between stages, mean over places, dropout, linear.

    It takes any input size that its poolings leave a pixel of; the number of parameters does not depend on it.
    """
    if not model.filters or size < 2 ** (len(model.filters) - 1):
        raise RecipeError(
            f"model.filters: {list(model.filters)} for {size}x{size} input; give one to {size.bit_length()} stages"
        )
    return ResidualNetwork(tuple(model.filters), model.blocks, model.dropout, classes)


class ResidualNetwork(nn.Module):
    """Grey slices (n, 1, s, s) to logits (n, classes): their mean over places is that of the class activation map."""

    def __init__(self, filters: tuple[int, ...], blocks: int, dropout: float, classes: int) -> None:
        super().__init__()
        channels = filters[0]
        layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1, bias=False)]
        for stage, width in enumerate(filters):
            layers += [nn.MaxPool2d(2)] if stage else []
            for _ in range(blocks):
                layers.append(ResidualBlock(channels, width))
                channels = width
        self.features = nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (n, classes)."""
        return self.dense(self.dropout(self.pool(self.features(images)).flatten(1)))

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, class activation map (n, classes, h, w) after Zhou et al. 2016 (arXiv:1512.04150), embedding (n, d)."""
        features = self.features(images)
        embedding = features.mean(dim=(2, 3))
        maps = torch.einsum("nchw,kc->nkhw", features, self.dense.weight)
        return self.dense(embedding), maps, embedding


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, added to the input (widened by 1x1 where need be)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
            nn.Conv2d(filters, filters, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(channels, filters, 1, bias=False) if channels != filters else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, filters, h, w)."""
        return self.shortcut(images) + self.inner(images)
