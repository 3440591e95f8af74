"""Region models: a U-Net that says of every pixel whether it is tumour and which, and from that what the slice shows.

A slice is a tumour slice only where a region is: its presence score is that of its most tumour-like pixels, and no gradient
of "tumour or none" reaches the pixels through it: that the map learns from masks alone. Which tumour it is comes from the
features under the region, which learn from the label too. Masks of tumour-free slices are empty, so that where those are another
collection the map can still learn some of it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tumorscope.config import Model
from tumorscope.errors import RecipeError
from tumorscope.labels import CLASSES, INDEX
from tumorscope.models.registry import register

NOTUMOR = INDEX["notumor"]
TUMOURS = [index for index in range(len(CLASSES)) if index != NOTUMOR]
#: Share of a slice's pixels whose mean evidence is its presence score: about that of a small tumour.
TOP = 0.003


@register("region_unet")
def region_unet(model: Model, size: int, classes: int) -> nn.Module:
    """A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with batch norm and a slice head.

    Alone it has a level for each of `filters`, three or more, the first at the slice's own resolution. On a backbone it goes
    down with the backbone's levels, one more than there are `filters`, and up again with convolutions of `filters`, listed fine
    to coarse.
    """
    if classes != len(CLASSES):
        raise RecipeError(f"region_unet: {classes} classes; it knows {', '.join(CLASSES)}")
    filters = tuple(model.filters)
    fewest = 3 if model.backbone is None else 2
    if len(filters) < fewest or (model.backbone is None and size < 2 ** (len(filters) - 1)):
        raise RecipeError(
            f"model.filters: {list(filters)} for {size}x{size} input; give {fewest} to {size.bit_length()} levels"
        )
    if model.backbone is None:
        return RegionNetwork(Contraction(filters), filters[1:-1], model.dropout)
    from tumorscope.models.backbones import Levels, make_features
    from tumorscope.models.weights import weights_of

    levels = len(filters) + 1
    features = make_features(model.backbone, size, weights_of(model.backbone), levels)
    return RegionNetwork(Levels(model.backbone, features, levels, size), filters, model.dropout)


class Contraction(nn.Module):
    """The way down of a plain U-Net: two convolutions a level, max-pool between levels."""

    def __init__(self, filters: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = list(filters)
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, after), _convolution(after, after))
            for before, after in zip((1, *filters[:-1]), filters, strict=True)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (n, channels, h, w), fine to coarse, of scaled slices (n, 1, s, s)."""
        features = []
        for level, block in enumerate(self.down):
            images = block(F.max_pool2d(images, 2) if level else images)
            features.append(images)
        return features

    @property
    def deepest(self) -> nn.Module:
        """What makes the coarsest map."""
        return self.down[-1]


class RegionNetwork(nn.Module):
    """Pixels (n, 1 or 3, s, s) to slice logits (n, 4), and with `regions=True` also to pixel logits (n, 4, s, s).

    Channels are the classes in their order; that of notumor is the background.
    encoder : gives feature maps, fine to coarse, of `channels`
    filters : of the way up, fine to coarse, for all maps but the coarsest. Where they are one fewer, the finest map goes with
        what comes from below straight into the pixels' logits: the few features that a last rectified stage makes may all be
        zero wherever the network is sure, and these pixels then have one and the same logits.
    """

    def __init__(self, encoder: Any, filters: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        channels: list[int] = encoder.channels
        skips = channels[-2::-1]
        assert len(skips) - 1 <= len(filters) <= len(skips), (channels, filters)
        self.up = nn.ModuleList(
            _convolution(below + skip, after)
            for below, skip, after in zip((channels[-1], *filters[:0:-1]), skips, filters[::-1], strict=False)
        )
        finest = skips[len(filters) :]
        kernel = 3 if finest else 1
        self.pixels = nn.Conv2d(filters[0] + sum(finest), len(CLASSES), kernel, padding=kernel // 2)
        self.presence = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.kind = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1] + filters[-1], len(TUMOURS)))

    def forward(self, images: Tensor, regions: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Slice logits, which are log probabilities; with `regions` also the pixels' logits."""
        slices, pixels, _ = self.explained(images)
        return (slices, pixels) if regions else slices

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slice logits, pixel logits, and as embedding (n, d) the features under the region."""
        features = self.encoder(images)
        deepest, decoded, second = features[-1], features[-1], features[-1]
        for level, (block, skip) in enumerate(zip(self.up, features[-2::-1], strict=False)):
            decoded = block(_joined(decoded, skip))
            second = decoded if level == 0 else second
        if len(self.up) < len(features) - 1:
            decoded = _joined(decoded, features[0])
        pixels = _enlarged(self.pixels(decoded), images)
        slices, embedding = self._slices(pixels, deepest, second)
        return slices, pixels, embedding

    def _slices(self, pixels: Tensor, deepest: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        evidence = evidence_of(pixels).detach()
        top = max(1, round(TOP * evidence[0].numel()))
        highest = evidence.flatten(1).topk(top, dim=1).values.mean(1)
        presence = F.softplus(self.presence[0]) * highest + self.presence[1]
        weight = evidence.sigmoid()[:, None]
        embedding = torch.cat([_under(deepest, weight), _under(second, weight)], 1)
        kind = self.kind(embedding).log_softmax(1)
        logits = F.logsigmoid(presence)[:, None] + kind
        free = F.logsigmoid(-presence)[:, None]
        return torch.cat([logits[:, :NOTUMOR], free, logits[:, NOTUMOR:]], 1), embedding


def evidence_of(pixels: Tensor) -> Tensor:
    """Log odds of any tumour against background, (n, h, w), of pixel logits (n, 4, h, w)."""
    return pixels[:, TUMOURS].logsumexp(1) - pixels[:, NOTUMOR]


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    """Maps with the rows and columns of `like`."""
    rows, columns = like.shape[2:]
    if maps.shape[2:] == (rows, columns):
        return maps
    # On a GPU a fraction of the time, on a CPU several times it: benchmarks/enlarging.py.
    if maps.is_cuda:
        return enlarged_by_products(maps, rows, columns)
    return F.interpolate(maps, size=(rows, columns), mode="bilinear")


def enlarged_by_products(maps: Tensor, rows: int, columns: int) -> Tensor:
    """Bilinear interpolation of maps (n, c, h, w) to (n, c, rows, columns), channels last in memory, as two matrix products.

    `F.interpolate` gives the same, and the deterministic form of its gradient sorts all pixels on a GPU.
    """
    precise = maps.to(torch.promote_types(maps.dtype, torch.float32))
    vertical = _interpolation_matrix(maps.shape[2], rows, precise)
    horizontal = _interpolation_matrix(maps.shape[3], columns, precise)
    with torch.autocast(maps.device.type, enabled=False):
        enlarged = vertical @ precise @ horizontal.mT
    return enlarged.to(maps.dtype, memory_format=torch.channels_last)


def _interpolation_matrix(before: int, after: int, like: Tensor) -> Tensor:
    """Bilinear weights (after, before) with half-pixel centres (`align_corners=False`) and repeated edges."""
    place = ((torch.arange(after, device=like.device) + 0.5) * before / after - 0.5).clamp(0, before - 1)
    weights = (1 - (place[:, None] - torch.arange(before, device=like.device)).abs()).clamp_min(0)
    return weights.to(like.dtype)


def _joined(maps: Tensor, skip: Tensor) -> Tensor:
    return torch.cat([_enlarged(maps, skip), skip], 1)


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def _under(features: Tensor, weight: Tensor) -> Tensor:
    """Mean of features (n, c, h, w) under the region, (n, c)."""
    weight = F.adaptive_avg_pool2d(weight, (features.shape[2], features.shape[3])) + 1e-6
    return (features * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
