"""Random changes of a whole batch on its device: numbers are drawn first, a deterministic function applies them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Augment


@dataclass(frozen=True)
class Draw:
    """An affine map a slice: float32 (n, 2, 3), from output to input coordinates in -1..1 (x, y), as `affine_grid` takes."""

    affine: Tensor


def draw(augment: Augment, count: int, generator: torch.Generator) -> Draw | None:
    """Numbers for `count` slices, or None where the recipe changes nothing."""
    if not any((augment.mirror, augment.rotate, augment.scale, augment.shift)):
        return None
    uniform = torch.rand(5, count, generator=generator)
    spread = 2 * uniform - 1
    angle = torch.deg2rad(spread[0] * augment.rotate)
    zoom = 1 + spread[1] * augment.scale
    side = torch.where(uniform[2] < augment.mirror, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = spread[3:5] * augment.shift
    rows = torch.stack([side * cos, -sin, shift[0], side * sin, cos, shift[1]], dim=1)
    return Draw(rows.reshape(count, 2, 3))


def apply(batch: Tensor, drawn: Draw | None) -> Tensor:
    """Float batch (n, channels, height, width) under the drawn maps; what comes in from outside is black."""
    if drawn is None:
        return batch
    grid = F.affine_grid(drawn.affine.to(batch.device), list(batch.shape), align_corners=False)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
