"""Slices as they might have been: a tumour pasted into a tumour-free slice, a tumour removed, or tumour-free tissue laid in.

In the Kaggle set tumours and tumour-free slices come from different collections, so that a network can answer by collection.
After pasting and removing, each class occurs in each collection. A network could learn the seam instead; `seam` lays
tumour-free tissue with the same seam and keeps the label.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from tumorscope.config import Augment
from tumorscope.labels import INDEX

NOTUMOR = INDEX["notumor"]
PASTE, REMOVE, SEAM = 1, 2, 3
#: Head: brighter than this share of white after a blur. Ring around a region for matching, and soft edge, in shares of a side.
HEAD, RING, EDGE = 0.06, 0.04, 0.02
#: Least pixels of a region, and least share of a removed one that tumour-free tissue from inside the head takes the place of.
LEAST, WITHIN = 4, 0.9
#: Limits of the gain that matches tissue to its new surroundings.
GAIN = (0.4, 2.5)


@dataclass(frozen=True)
class Counterfactual:
    """What is to happen to each slice of a batch of n.

    kind : int64 (n,), 0 nothing, 1 paste, 2 remove, 3 seam
    donor : int64 (n,), slice whose tumour (or whose tumour's shape) is used; tissue : int64 (n,), slice whose tissue a seam takes
    place, angle, zoom : float32 (n,), where in the head from 0 to 1 in reading order, radians, and size
    """

    kind: Tensor
    donor: Tensor
    tissue: Tensor
    place: Tensor
    angle: Tensor
    zoom: Tensor

    def to(self, device: torch.device) -> "Counterfactual":
        """The same numbers on a device."""
        return Counterfactual(*(getattr(self, one.name).to(device) for one in fields(self)))


def draw_counterfactual(augment: Augment, labels: Tensor, masked: Tensor, generator: torch.Generator) -> Counterfactual:
    """Numbers for a batch. labels int64 (n,); masked bool (n,): slices with a tumour whose mask is known."""
    count = len(labels)
    chance = torch.rand(count, generator=generator)
    seam = torch.rand(count, generator=generator) < augment.seam
    free = labels == NOTUMOR
    kind = torch.where(seam, SEAM, 0)
    kind = torch.where(free & (chance < augment.paste), PASTE, kind)
    kind = torch.where(masked & (chance < augment.remove), REMOVE, kind)
    uniform = torch.rand(3, count, generator=generator)
    donor = _one_of(masked, generator)
    if not masked.any():
        kind = torch.zeros_like(kind)
    return Counterfactual(
        kind,
        torch.where(kind == REMOVE, torch.arange(count), donor),
        # Of a slice whose mask is unknown nobody can say what its tissue is.
        _one_of(masked | free, generator),
        uniform[0],
        (2 * uniform[1] - 1) * torch.pi,
        0.7 + 0.6 * uniform[2],
    )


def apply_counterfactual(
    images: Tensor, masks: Tensor, labels: Tensor, drawn: Counterfactual
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch as drawn: images float (n, 1, s, s) in 0..255, masks float (n, 1, s, s) of 0 and 1, labels int64 (n,).

    A slice in which what was drawn finds no room comes back as it was. Pixels beyond the soft edge stay as they were.
    """
    changed = (drawn.kind > 0).nonzero().flatten()
    if not len(changed):
        return images, masks, labels
    head = _head(images)
    tissue, region, sound = _tissue_and_region(images, masks, head, drawn, changed)
    pasted = (drawn.kind[changed] == PASTE)[:, None, None, None]
    ours, inside = images[changed], head[changed]
    room = _room(region, inside, drawn.kind[changed], sound)
    laid = _lay(ours, tissue, region, inside)
    images, masks, labels = images.clone(), masks.clone(), labels.clone()
    images[changed] = torch.where(room[:, None, None, None], laid, ours)
    new_masks = torch.where(pasted, region, torch.zeros_like(region))
    keeps = ~room | (drawn.kind[changed] == SEAM)
    masks[changed] = torch.where(keeps[:, None, None, None], masks[changed], new_masks)
    new_labels = torch.where(drawn.kind[changed] == PASTE, labels[drawn.donor[changed]], NOTUMOR)
    labels[changed] = torch.where(keeps, labels[changed], new_labels)
    return images, masks, labels


def _one_of(allowed: Tensor, generator: torch.Generator) -> Tensor:
    """For every slice the index of a random allowed one; 0 where none is."""
    rows = allowed.nonzero().flatten()
    if not len(rows):
        return torch.zeros(len(allowed), dtype=torch.int64)
    return rows[torch.randint(len(rows), (len(allowed),), generator=generator)]


def _head(images: Tensor) -> Tensor:
    """Inside of the head, float (n, 1, s, s) of 0 and 1: bright after a blur, edge taken off."""
    size = images.shape[2]
    bright = (_blur(images, _odd(0.1 * size)) > HEAD * 255).float()
    return 1 - _widened(1 - bright, _odd(0.08 * size))


def _tissue_and_region(
    images: Tensor, masks: Tensor, head: Tensor, drawn: Counterfactual, rows: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """For the `rows` that change: tissue to be laid in, the region that it fills, (k, 1, s, s) each, `_replacement`'s share."""
    kind, donor = drawn.kind[rows], drawn.donor[rows]
    removed = (kind == REMOVE)[:, None, None, None]
    target = _chosen(head[rows], drawn.place[rows])
    centre = _centre(masks[donor])
    cos, sin = torch.cos(drawn.angle[rows]) / drawn.zoom[rows], torch.sin(drawn.angle[rows]) / drawn.zoom[rows]
    turn = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    offset = centre - (turn @ target[:, :, None])[:, :, 0]
    grid = F.affine_grid(torch.cat([turn, offset[:, :, None]], 2), list(images[rows].shape), align_corners=False)
    moved, shape = (_sampled(stack[donor], grid) for stack in (images, masks))
    region = torch.where(removed, masks[rows], (shape > 0.5).float())
    other = (kind == SEAM)[:, None, None, None]
    tissue = torch.where(other, images[drawn.tissue[rows]], moved)
    # A seam takes no tumour with it and covers none, soft edge included.
    tumours = torch.maximum(masks[drawn.tissue[rows]], masks[rows])
    width = _odd(4 * EDGE * images.shape[2] + 2)
    region = torch.where(other, region * (1 - _widened(tumours, width)), region)
    region = torch.where(removed, region, region * head[rows])
    replacement, sound = _replacement(images[rows], masks[rows], head[rows])
    return torch.where(removed, replacement, tissue), region, sound


def _replacement(images: Tensor, masks: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
    """Tissue for the place of a tumour, (k, 1, s, s): the other hemisphere's, or a shifted place's where the tumour crosses the
    middle; and the share of the place, (k,), that is tumour-free and of the head there.
    """
    size = images.shape[2]
    # The head's own middle, not the slice's.
    middle = _centre(head)[:, 0]
    grid = _identity(images)
    mirrored = grid.clone()
    mirrored[..., 0] = 2 * middle[:, None, None] - mirrored[..., 0]
    # Away from the tumour towards the head's middle by its own size and a little.
    away = _centre(head) - _centre(masks)
    away = away / away.norm(dim=1, keepdim=True).clamp_min(1e-3)
    across = 2 * (masks.sum(dim=(1, 2, 3)) / torch.pi).sqrt() / size * 2
    shifted = grid + (away * (1.3 * across + 2 * EDGE)[:, None])[:, None, None, :]
    options = [(_sampled(images, one), _sampled(head, one) * (1 - _sampled(masks, one))) for one in (mirrored, shifted)]
    area = masks.sum(dim=(1, 2, 3)).clamp_min(1)
    fits = [(free * masks).sum(dim=(1, 2, 3)) / area for _, free in options]
    first = fits[0] >= fits[1].clamp_max(WITHIN)
    tissue = torch.where(first[:, None, None, None], options[0][0], options[1][0])
    return tissue, torch.where(first, fits[0], fits[1])


def _room(region: Tensor, head: Tensor, kind: Tensor, sound: Tensor) -> Tensor:
    """Bool (k,): whether the region is large enough, and a removed one lies in the head, as does what replaces it."""
    area = region.sum(dim=(1, 2, 3))
    inside = (region * head).sum(dim=(1, 2, 3)) / area.clamp_min(1)
    return (area >= LEAST) & ((kind != REMOVE) | (inside >= 0.5) & (sound >= WITHIN))


def _lay(images: Tensor, tissue: Tensor, region: Tensor, head: Tensor) -> Tensor:
    """Tissue blended into the region with a soft edge, its grey matched on the ring around it."""
    size = images.shape[2]
    width = _odd(2 * RING * size)
    ring = (_widened(region, width) - region) * head
    pixels = ring.sum(dim=(1, 2, 3), keepdim=True)
    there, here = ((stack * ring).sum(dim=(1, 2, 3), keepdim=True) / pixels.clamp_min(1) for stack in (tissue, images))
    gain = torch.where(pixels > 0, here / there.clamp_min(1), torch.ones_like(pixels)).clamp(*GAIN)
    soft = _blur(_widened(region, 3), _odd(2 * EDGE * size))
    return images * (1 - soft) + (tissue * gain).clamp(0, 255) * soft


def _centre(masks: Tensor) -> Tensor:
    """Centre of gravity in -1..1, float (k, 2) as x and y; the middle where there is nothing."""
    size = masks.shape[2]
    places = (torch.arange(size, device=masks.device) * 2 + 1) / size - 1
    area = masks.sum(dim=(1, 2, 3)).clamp_min(1e-6)
    return torch.stack(
        [(masks.sum(dim=(1, 2)) * places).sum(1) / area, (masks.sum(dim=(1, 3)) * places).sum(1) / area], 1
    )


def _chosen(head: Tensor, place: Tensor) -> Tensor:
    """The pixel at `place` of the head's pixels in reading order, float (k, 2) as x and y in -1..1."""
    size = head.shape[2]
    total = head.flatten(1).cumsum(1)
    index = torch.searchsorted(total, (place.to(head.device) * total[:, -1])[:, None], right=True).flatten()
    index = index.clamp_max(size * size - 1)
    return torch.stack([((index % size) * 2 + 1) / size - 1, ((index // size) * 2 + 1) / size - 1], 1)


def _identity(images: Tensor) -> Tensor:
    plain = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    return F.affine_grid(plain, list(images.shape), align_corners=False)


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _blur(images: Tensor, width: int) -> Tensor:
    """Mean over squares of `width`, rows first and then columns, which is the same and several times faster."""
    rows = F.avg_pool2d(images, (width, 1), stride=1, padding=(width // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, width), stride=1, padding=(0, width // 2), count_include_pad=False)


def _widened(masks: Tensor, width: int) -> Tensor:
    """Maximum over squares of `width`."""
    rows = F.max_pool2d(masks, (width, 1), stride=1, padding=(width // 2, 0))
    return F.max_pool2d(rows, (1, width), stride=1, padding=(0, width // 2))


def _odd(width: float) -> int:
    return 2 * max(1, round((width - 1) / 2)) + 1
