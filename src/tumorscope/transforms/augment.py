"""Random changes of a whole batch on its device: numbers are drawn first, a deterministic function applies them.

What was drawn is kept in a `Draw`, so that any batch can be rebuilt and shown.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Augment

#: Control points a side of a bias field; coils are smooth.
COIL_POINTS = 4
#: Greys that a curve goes through, black and white among them.
CURVE_POINTS = 5
WHITE = 255.0
#: Pixels a side of a JPEG block.
BLOCK = 8
#: Steps that JPEG rounds the frequencies of a block to, at quality 50 (ITU-T T.81, table K.1, luminance).
STEPS = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)


@dataclass(frozen=True)
class Draw:
    """What happens to a batch of n slices, in this order; None is no change.

    affine : float32 (n, 2, 3), from output to input coordinates in -1..1 (x, y), as `affine_grid` takes
    bicubic : whether pixels between pixels are bicubic, else bilinear
    bias_field : float32 (n, 1, 4, 4), natural log of the gain at control points from corner to corner
    intensity : float32 (n, 3), exponent, gain and offset (share of white)
    curve : float32 (n, 5), what black, three greys evenly between, and white become, as shares of white
    blur : float32 (n,), standard deviation of a Gaussian, in pixels
    resolution : float32 (n,), pixels a side that are left, whole numbers
    noise : float32 (n, 1, s, s), in shares of white
    compression : float32 (n,), quality of a JPEG, whole numbers from 1 to 100
    cutout : float32 (n, 4), left, top, right and bottom of a square in 0..1
    mixup : weight of the slice itself and int64 (n,) which slice of the batch is laid over it
    """

    affine: Tensor | None = None
    bicubic: bool = False
    bias_field: Tensor | None = None
    intensity: Tensor | None = None
    curve: Tensor | None = None
    blur: Tensor | None = None
    resolution: Tensor | None = None
    noise: Tensor | None = None
    compression: Tensor | None = None
    cutout: Tensor | None = None
    mixup: tuple[float, Tensor] | None = None


def draw(augment: Augment, count: int, size: int, generator: torch.Generator) -> Draw | None:
    """Numbers for `count` slices of `size` x `size`, or None where the recipe changes nothing."""
    if not any(augment.model_dump().values()):
        return None
    geometry = any((augment.mirror, augment.rotate, augment.scale, augment.shift))
    return Draw(
        affine=_affine(augment, count, generator) if geometry else None,
        bicubic=augment.bicubic,
        bias_field=_spread((count, 1, COIL_POINTS, COIL_POINTS), generator) * augment.bias_field
        if augment.bias_field
        else None,
        intensity=_intensity(augment, count, generator)
        if any((augment.contrast, augment.brightness, augment.gamma))
        else None,
        curve=_curve(augment.curve, count, generator) if augment.curve else None,
        blur=torch.rand(count, generator=generator) * augment.blur * size if augment.blur else None,
        resolution=(size * (1 - augment.resolution * torch.rand(count, generator=generator))).round()
        if augment.resolution
        else None,
        noise=_noise(augment.noise, count, size, generator) if augment.noise else None,
        compression=(100 * (1 - augment.compression * torch.rand(count, generator=generator))).round()
        if augment.compression
        else None,
        cutout=_squares(augment.cutout, count, generator) if augment.cutout else None,
        mixup=_mixup(augment.mixup, count, generator) if augment.mixup else None,
    )


def apply(batch: Tensor, drawn: Draw | None) -> Tensor:
    """Float batch (n, 1, s, s) in 0..255 as drawn; what comes in from outside is black, and grey stays within 0..255."""
    if drawn is None:
        return batch
    device = batch.device
    if drawn.affine is not None:
        grid = F.affine_grid(drawn.affine.to(device), list(batch.shape), align_corners=False)
        mode = "bicubic" if drawn.bicubic else "bilinear"
        batch = F.grid_sample(batch, grid, mode=mode, padding_mode="zeros", align_corners=False)
        batch = batch.clamp(0, WHITE) if drawn.bicubic else batch  # it overshoots at edges
    if drawn.bias_field is not None:
        field = F.interpolate(drawn.bias_field.to(device), size=batch.shape[2:], mode="bicubic", align_corners=True)
        batch = batch * field.exp()
    if drawn.intensity is not None:
        exponent, gain, offset = drawn.intensity.to(device)[:, :, None, None, None].unbind(1)
        batch = WHITE * ((batch / WHITE).clamp(0, 1) ** exponent * gain + offset)
    if drawn.curve is not None:
        batch = _through_curve(batch, drawn.curve.to(device))
    if drawn.blur is not None:
        batch = blurred(batch, drawn.blur.to(device))
    if drawn.resolution is not None:
        batch = _coarsened(batch, drawn.resolution.to(device))
    if drawn.noise is not None:
        batch = batch + WHITE * drawn.noise.to(device)
    if drawn.compression is not None:
        batch = _compressed(batch.clamp(0, WHITE), drawn.compression.to(device))
    if drawn.cutout is not None:
        batch = batch * ~_inside(drawn.cutout.to(device), batch.shape[2])
    if any(
        part is not None for part in (drawn.bias_field, drawn.intensity, drawn.curve, drawn.noise, drawn.compression)
    ):
        batch = batch.clamp(0, WHITE)
    if drawn.mixup is not None:
        weight, other = drawn.mixup
        batch = weight * batch + (1 - weight) * batch[other.to(device)]
    return batch


def apply_to_masks(masks: Tensor, drawn: Draw | None) -> Tensor:
    """Masks float (n, 1, s, s) of 0 and 1 moved as their slices are; what greys, cuts out or mixes leaves them as they are."""
    if drawn is None or drawn.affine is None:
        return masks
    return (apply(masks, Draw(affine=drawn.affine)) > 0.5).float()


def mixed_loss(
    loss_of: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, drawn: Draw | None
) -> Tensor:
    """The loss of a batch as drawn: under mixup that of both labels, by weight."""
    if drawn is None or drawn.mixup is None:
        return loss_of(logits, labels)
    weight, other = drawn.mixup
    return weight * loss_of(logits, labels) + (1 - weight) * loss_of(logits, labels[other.to(labels.device)])


def _spread(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in -1..1."""
    return 2 * torch.rand(*shape, generator=generator) - 1


def _affine(augment: Augment, count: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(5, count, generator=generator)
    spread = 2 * uniform - 1
    angle = torch.deg2rad(spread[0] * augment.rotate)
    zoom = 1 + spread[1] * augment.scale
    side = torch.where(uniform[2] < augment.mirror, -1.0, 1.0)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = spread[3:5] * augment.shift
    rows = torch.stack([side * cos, -sin, shift[0], side * sin, cos, shift[1]], dim=1)
    return rows.reshape(count, 2, 3)


def _intensity(augment: Augment, count: int, generator: torch.Generator) -> Tensor:
    spread = _spread((count, 3), generator)
    exponent = (spread[:, 0] * augment.gamma).exp()
    return torch.stack([exponent, 1 + spread[:, 1] * augment.contrast, spread[:, 2] * augment.brightness], dim=1)


def _curve(largest: float, count: int, generator: torch.Generator) -> Tensor:
    """Black stays black, so that the background does."""
    steps = torch.linspace(0, 1, CURVE_POINTS).repeat(count, 1)
    moved = _spread((count, CURVE_POINTS - 1), generator) * largest
    return torch.cat([steps[:, :1], (steps[:, 1:] + moved).clamp(0, 1)], dim=1)


def _through_curve(batch: Tensor, curve: Tensor) -> Tensor:
    """Grey values (n, 1, s, s) in 0..255 through each slice's piecewise linear curve (n, points)."""
    place = batch.clamp(0, WHITE) * ((CURVE_POINTS - 1) / WHITE)
    below = place.floor().clamp_max(CURVE_POINTS - 2)
    index = below.long().flatten(1)
    low, high = (curve.gather(1, index + step).view_as(batch) for step in (0, 1))
    return WHITE * (low + (high - low) * (place - below))


def blurred(batch: Tensor, deviation: Tensor) -> Tensor:
    """Each slice (n, 1, s, s) under a Gaussian of its own standard deviation (n,) in pixels, edges repeated."""
    reach = max(1, math.ceil(2.5 * float(deviation.max())))
    steps = torch.arange(-reach, reach + 1, device=batch.device)
    weight = torch.exp(-0.5 * (steps / deviation[:, None].clamp_min(1e-3)) ** 2)
    weight = (weight / weight.sum(1, keepdim=True))[:, None]
    whole = batch.transpose(0, 1)
    for padding, kernel in (((reach, reach, 0, 0), weight[:, :, None]), ((0, 0, reach, reach), weight[..., None])):
        whole = F.conv2d(F.pad(whole, padding, mode="replicate"), kernel, groups=len(batch))
    return whole.transpose(0, 1)


def _coarsened(batch: Tensor, left: Tensor) -> Tensor:
    """Each slice (n, 1, s, s) shrunk to its own number of pixels a side (n,) by area, and enlarged again bilinearly."""
    size = batch.shape[2]
    place = torch.arange(size, device=batch.device)
    step = size / left[:, None, None]
    # Rows past the pixels that are left overlap nothing, and nothing is read from them.
    start = place[:, None] * step
    down = (torch.minimum(start + step, place + 1) - torch.maximum(start, place)).clamp_min(0) / step
    middle = ((place[:, None] + 0.5) / step - 0.5).clamp_min(0).minimum(left[:, None, None] - 1)
    up = (1 - (middle - place).abs()).clamp_min(0)
    both = (up @ down)[:, None]
    return both @ batch @ both.mT


def _compressed(batch: Tensor, quality: Tensor) -> Tensor:
    """Each slice (n, 1, s, s) in 0..255 as a grey JPEG of its own quality (n,) keeps it, edges repeated to whole blocks.

    The cosine transform of 8x8 blocks rounded to steps, and back (ITU-T T.81); steps at a quality are those of the Independent
    JPEG Group's library. Grey is not rounded before or after.
    """
    place = torch.arange(BLOCK, device=batch.device)
    wave = torch.cos((2 * place + 1) * place[:, None] * (math.pi / (2 * BLOCK))) * math.sqrt(2 / BLOCK)
    wave[0] /= math.sqrt(2)
    percent = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)
    steps = torch.tensor(STEPS, device=batch.device).reshape(BLOCK, 1, BLOCK)
    steps = ((steps * percent[:, None, None, None, None] + 50) / 100).floor().clamp(1, WHITE)
    size = batch.shape[2]
    whole = F.pad(batch, (0, -size % BLOCK) * 2, mode="replicate") - 128
    blocks = whole.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))[:, 0]  # (n, rows, 8, columns, 8)
    turned = torch.einsum("fy,nryck,gk->nrfcg", wave, blocks, wave)
    kept = (turned / steps).round() * steps
    back = torch.einsum("fy,nrfcg,gk->nryck", wave, kept, wave) + 128
    return back.flatten(3, 4).flatten(1, 2)[:, None, :size, :size]


def _noise(largest: float, count: int, size: int, generator: torch.Generator) -> Tensor:
    deviation = largest * torch.rand(count, 1, 1, 1, generator=generator)
    return deviation * torch.randn(count, 1, size, size, generator=generator)


def _squares(largest: float, count: int, generator: torch.Generator) -> Tensor:
    """Squares with sides up to `largest`, whole inside the slice."""
    uniform = torch.rand(3, count, generator=generator)
    side = uniform[0] * largest
    left, top = uniform[1] * (1 - side), uniform[2] * (1 - side)
    return torch.stack([left, top, left + side, top + side], dim=1)


def _inside(squares: Tensor, size: int) -> Tensor:
    """Bool (n, 1, size, size): pixels whose middle lies in the square."""
    middle = (torch.arange(size, device=squares.device) + 0.5) / size
    left, top, right, bottom = squares[:, :, None].unbind(1)
    across, down = (left <= middle) & (middle < right), (top <= middle) & (middle < bottom)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _mixup(a: float, count: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """The weight from Beta(a, a), at least a half: the other half is the same by symmetry."""
    seed = int(torch.randint(2**62, (1,), generator=generator))  # torch draws no Beta from a generator, numpy does
    weight = float(np.random.default_rng(seed).beta(a, a))
    return max(weight, 1 - weight), torch.randperm(count, generator=generator)
