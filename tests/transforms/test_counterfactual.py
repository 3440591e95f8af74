"""Counterfactual slices: a pasted tumour lies in the head and where its mask says, a removed one is gone, all else stays."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorscope.config import Augment
from tumorscope.labels import INDEX
from tumorscope.transforms.augment import Draw, apply, apply_to_masks, draw
from tumorscope.transforms.counterfactual import (
    PASTE,
    REMOVE,
    SEAM,
    apply_counterfactual,
    draw_counterfactual,
)

SIDE = 64
NOTUMOR, GLIOMA = INDEX["notumor"], INDEX["glioma"]


def heads(count: int) -> torch.Tensor:
    """Round heads of grey 100 with a faint texture on black."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    inside = ((x - 31.5) ** 2 + (y - 31.5) ** 2 < 27**2).float()
    noise = torch.rand(count, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return inside * (95 + 10 * noise)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two gliomas, bright discs of 200 left of the middle, and two tumour-free slices."""
    images, masks = heads(4), torch.zeros(4, 1, SIDE, SIDE)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = (x - 20) ** 2 + (y - 32) ** 2 < 6**2
    masks[:2, 0, disc] = 1
    images[:2, 0, disc] = 200
    return images, masks, torch.tensor([GLIOMA, GLIOMA, NOTUMOR, NOTUMOR])


def drawn(augment: Augment, seed: int):
    _, masks, labels = batch()
    generator = torch.Generator().manual_seed(seed)
    return draw_counterfactual(augment, labels, masks.sum(dim=(1, 2, 3)) > 0, generator)


def unlike(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return ((one - other).abs() > 1e-4).float()


def widened(mask: torch.Tensor, by: int) -> torch.Tensor:
    return torch.nn.functional.max_pool2d(mask, 2 * by + 1, stride=1, padding=by)


@given(seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_pasted_tumour_lies_in_the_head_and_where_its_mask_says(seed):
    images, masks, labels = batch()
    plan = drawn(Augment(paste=1), seed)
    assert plan.kind.tolist() == [0, 0, PASTE, PASTE]
    pasted, inside, named = apply_counterfactual(images, masks, labels, plan)
    assert torch.equal(pasted[:2], images[:2])
    for row in (2, 3):
        if named[row] == NOTUMOR:  # found no room
            assert torch.equal(pasted[row], images[row])
            continue
        assert named[row] == GLIOMA
        assert 4 <= float(inside[row].sum()) <= 1.3**2 * 113 * 1.3
        assert float((inside[row] * (images[row] == 0)).sum()) == 0  # nothing outside of the head
        # Brighter in the mask than around it, untouched beyond the soft edge.
        core = pasted[row][inside[row] > 0].mean()
        assert float(core) > 130
        assert float((unlike(pasted[row], images[row]) * (1 - widened(inside[row : row + 1], 4)[0])).sum()) == 0


@given(seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_removed_tumour_is_gone_and_pixels_beyond_the_seam_stay(seed):
    images, masks, labels = batch()
    plan = drawn(Augment(remove=1), seed)
    assert plan.kind.tolist() == [REMOVE, REMOVE, 0, 0]
    cleared, inside, named = apply_counterfactual(images, masks, labels, plan)
    assert named.tolist() == [NOTUMOR] * 4
    assert not inside.any()
    for row in (0, 1):
        was = masks[row] > 0
        assert float(cleared[row][was].max()) < 125  # tissue again, not 200
        assert float(cleared[row][was].mean()) == pytest.approx(100, abs=12)
        assert float((unlike(cleared[row], images[row]) * (1 - widened(masks[row : row + 1], 4)[0])).sum()) == 0


@pytest.mark.parametrize(("height", "gone"), [(18, True), (31.5, False)], ids=["above the middle", "in the middle"])
def test_a_tumour_across_the_middle_is_removed_where_other_tissue_is_found_for_it(height, gone):
    """A disc in both hemispheres. Tissue from further down replaces one above; for one in the middle none is found."""
    images, masks = heads(1), torch.zeros(1, 1, SIDE, SIDE)
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = (x - 31.5) ** 2 + (y - height) ** 2 < 6**2
    masks[0, 0, disc] = 1
    images[0, 0, disc] = 200
    labels = torch.tensor([GLIOMA])
    plan = draw_counterfactual(Augment(remove=1), labels, torch.tensor([True]), torch.Generator().manual_seed(0))
    cleared, inside, named = apply_counterfactual(images, masks, labels, plan)
    if gone:
        assert named.tolist() == [NOTUMOR]
        assert not inside.any()
        assert float(cleared[0, 0, disc].max()) < 125
    else:
        assert torch.equal(cleared, images)
        assert torch.equal(inside, masks)
        assert torch.equal(named, labels)


@given(seed=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_seam_changes_no_label_and_no_mask_and_carries_no_tumour(seed):
    images, masks, labels = batch()
    laid, inside, named = apply_counterfactual(images, masks, labels, drawn(Augment(seam=1), seed))
    assert torch.equal(named, labels)
    assert torch.equal(inside, masks)
    free = laid[2:]
    assert float(free.max()) < 140
    tumour = laid[:2][masks[:2] > 0]
    assert float(tumour.float().mean()) > 150


@pytest.mark.parametrize(
    ("augment", "least"), [(Augment(paste=1), 0.9), (Augment(seam=1), 0.65)], ids=["paste", "seam"]
)
def test_most_of_what_is_drawn_is_laid_and_covers_no_more_than_a_tumour_and_its_soft_edge(augment, least):
    """A disc of radius 6 at most 1.3 times as large, a pixel wider, blurred over 3: at most 10.8 from its middle.

    One of four draws of a seam takes the slice's own tissue, which changes nothing.
    """
    images, masks, labels = batch()
    covered = []
    for seed in range(40):
        laid, _, _ = apply_counterfactual(images, masks, labels, drawn(augment, seed))
        covered += [float(unlike(one, before).sum()) for one, before in zip(laid[2:], images[2:], strict=True)]
    assert sum(count > 0 for count in covered) >= least * len(covered)
    assert max(covered) <= 3.15 * 10.8**2


@given(seed=st.integers(0, 300))
@settings(max_examples=30, deadline=None)
def test_a_seam_takes_no_tissue_of_a_slice_whose_mask_is_unknown(seed):
    """Its tumour would be laid in and called none."""
    labels = torch.tensor([GLIOMA, GLIOMA, NOTUMOR, GLIOMA])
    masked = torch.tensor([True, False, False, False])
    drawn_ = draw_counterfactual(Augment(seam=1.0), labels, masked, torch.Generator().manual_seed(seed))
    assert set(drawn_.tissue.tolist()) <= {0, 2}


def test_each_change_comes_at_its_rate_and_only_where_it_can():
    labels = torch.tensor([GLIOMA, NOTUMOR] * 5000)
    masked = torch.arange(10_000) % 4 == 0  # half of the gliomas
    plan = draw_counterfactual(
        Augment(paste=0.3, remove=0.2, seam=0.1), labels, masked, torch.Generator().manual_seed(0)
    )
    share = [
        float((plan.kind[rows] == kind).float().mean()) for rows, kind in ((labels == NOTUMOR, PASTE), (masked, REMOVE))
    ]
    assert share == pytest.approx([0.3, 0.2], abs=0.02)
    assert not (plan.kind[labels == GLIOMA] == PASTE).any()
    assert not (plan.kind[~masked] == REMOVE).any()
    assert masked[plan.donor].all()
    rest = (plan.kind != PASTE) & (plan.kind != REMOVE)
    assert float((plan.kind[rest] == SEAM).float().mean()) == pytest.approx(0.1, abs=0.02)


def test_nothing_is_drawn_where_no_mask_is_known():
    plan = draw_counterfactual(
        Augment(paste=1, remove=1), torch.tensor([GLIOMA, NOTUMOR]), torch.zeros(2, dtype=bool), torch.Generator()
    )
    assert not plan.kind.any()


@given(seed=st.integers(0, 200), bicubic=st.booleans())
@settings(max_examples=30, deadline=None)
def test_masks_follow_every_geometric_change_of_their_slices(seed, bicubic):
    """A slice that is its own mask stays so, but for edges where it is bicubic, and its disc lies where the map says; what cuts
    out or greys moves no mask.
    """
    _, masks, _ = batch()
    masks = masks[:2]
    geometry = {"mirror": 0.5, "rotate": 30, "scale": 0.2, "shift": 0.2}
    augment = Augment(**geometry, bicubic=bicubic, cutout=0.3, noise=0.1)
    plan = draw(augment, 2, SIDE, torch.Generator().manual_seed(seed))
    moved = apply_to_masks(masks, plan)
    slices = (apply(masks * 255, Draw(affine=plan.affine, bicubic=bicubic)) > 127.5).float()
    assert float((moved - slices).abs().sum()) <= (0.05 * float(masks.sum()) if bicubic else 0)
    # What lies at p was at A p + t: so the disc's middle, and its area divided by the determinant of A.
    turn, shift = plan.affine[:, :, :2], plan.affine[:, :, 2]
    before = torch.tensor([20, 32]) * 2 / SIDE + 1 / SIDE - 1
    expected = torch.linalg.solve(turn, before - shift)
    for row in range(2):
        y, x = (moved[row, 0] > 0).nonzero().unbind(1)
        found = torch.stack([x, y]).double().mean(1) * 2 / SIDE + 1 / SIDE - 1
        assert float((found - expected[row]).abs().max()) < 0.5 * 2 / SIDE
        area = float(masks[row].sum() / torch.linalg.det(turn[row]).abs())
        assert float(moved[row].sum()) == pytest.approx(area, rel=0.1)
