"""Region models: a U-Net that says of every pixel whether it is tumour and which, and from that what the slice shows.

A slice is a tumour slice only where a region is: its presence score is that of its most tumour-like pixels, and no gradient
of the slice's label reaches the pixels through it, so that the map learns from masks alone and cannot learn the collection.
Which tumour it is comes from the features under the region.
"""

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
    """A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with a level for each of `filters`, batch norm, and a slice head."""
    step = 2 ** (len(model.filters) - 1)
    if len(model.filters) < 2 or size < step:
        raise RecipeError(
            f"model.filters: {list(model.filters)} for {size}x{size} input; give two to {size.bit_length()} levels"
        )
    if classes != len(CLASSES):
        raise RecipeError(f"region_unet: {classes} classes; it knows {', '.join(CLASSES)}")
    return RegionNetwork(tuple(model.filters), model.dropout)


class RegionNetwork(nn.Module):
    """Pixels (n, 1, s, s) to slice logits (n, 4), and with `regions=True` also to pixel logits (n, 4, s, s).

    Channels are the classes in their order; that of notumor is the background.
    """

    def __init__(self, filters: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, after), _convolution(after, after))
            for before, after in zip((1, *filters[:-1]), filters, strict=True)
        )
        self.up = nn.ModuleList(
            _convolution(below + above, above) for below, above in zip(filters[:0:-1], filters[-2::-1], strict=True)
        )
        self.pixels = nn.Conv2d(filters[0], len(CLASSES), 1)
        self.presence = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.kind = nn.Sequential(nn.Dropout(dropout), nn.Linear(filters[-1] + filters[-2], len(TUMOURS)))

    def forward(self, images: Tensor, regions: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Slice logits, which are log probabilities; with `regions` also the pixels' logits."""
        slices, pixels, _ = self.explained(images)
        return (slices, pixels) if regions else slices

    def explained(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slice logits, pixel logits, and as embedding (n, d) the features under the region."""
        features = []
        for level, block in enumerate(self.down):
            images = block(F.max_pool2d(images, 2) if level else images)
            features.append(images)
        deepest, decoded, second = features[-1], features[-1], features[-2]
        for level, (block, skip) in enumerate(zip(self.up, features[-2::-1], strict=True)):
            decoded = block(torch.cat([F.interpolate(decoded, size=skip.shape[2:], mode="bilinear"), skip], 1))
            second = decoded if level == 0 else second
        pixels = self.pixels(decoded)
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


def _convolution(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)
    )


def _under(features: Tensor, weight: Tensor) -> Tensor:
    """Mean of features (n, c, h, w) under the region, (n, c)."""
    weight = F.adaptive_avg_pool2d(weight, (features.shape[2], features.shape[3])) + 1e-6
    return (features * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
