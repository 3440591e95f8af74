"""A multi-scale fusion convolution network (MFCN) that sharpens enlarged slices, after Liu et al. 2018.

Liu, Wu, Yu, Tang, Zhang, Zhou: Fusing multi-scale information in convolution network for MR image super-resolution
reconstruction. BioMedical Engineering OnLine 17:114. A stack of units, each a main path and sub-paths of other kernel sizes whose
outputs are fused. Widths, the number of units and the sum with the enlarged slice are ours.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tumorscope.config import SuperResolution


class FusionUnit(nn.Module):
    """Two 3x3 convolutions as main path, 1x1 and 5x5 as sub-paths, fused by a 1x1 convolution over all of them."""

    def __init__(self, before: int, filters: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(before, filters, 3, padding=1), nn.ReLU(), nn.Conv2d(filters, filters, 3, padding=1)
        )
        self.fine, self.coarse = nn.Conv2d(before, filters, 1), nn.Conv2d(before, filters, 5, padding=2)
        self.fuse = nn.Conv2d(3 * filters, filters, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, c, h, w) to (n, filters, h, w)."""
        paths = torch.cat([self.main(features), self.fine(features), self.coarse(features)], 1)
        return F.relu(self.fuse(F.relu(paths)))


class FusionNetwork(nn.Module):
    """Enlarged slices (n, 1, h, w) in 0..1 to sharpened ones; what it learns is the difference. Untrained it changes nothing."""

    def __init__(self, settings: SuperResolution) -> None:
        super().__init__()
        widths = [1, *[settings.filters] * settings.units]
        self.units = nn.Sequential(*(FusionUnit(before, after) for before, after in pairwise(widths)))
        self.last = nn.Conv2d(settings.filters, 1, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, enlarged: Tensor) -> Tensor:
        """The slices with the detail that the network expects there."""
        sharpened: Tensor = enlarged + self.last(self.units(enlarged))
        return sharpened
