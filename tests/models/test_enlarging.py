"""Maps enlarged with matrix products, which stand in for bilinear interpolation on a GPU."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tumorscope.models import regions
from tumorscope.models.regions import enlarged_by_products

SIDES = st.integers(1, 9)


def test_a_step_by_hand() -> None:
    """Middles of four pixels over two lie at -0.25, 0.25, 0.75 and 1.25 of the way from 0 to 4; outside it stays at the edge."""
    maps = torch.tensor([[0.0, 4.0], [0.0, 4.0]])[None, None]
    assert enlarged_by_products(maps, 2, 4)[0, 0].tolist() == [[0, 1, 3, 4]] * 2


@given(SIDES, SIDES, st.integers(1, 20), st.integers(1, 20))
def test_as_interpolation_forward_and_backward(high: int, wide: int, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(high * 9 + wide)
    maps = torch.randn(2, 3, high, wide, generator=generator, dtype=torch.float64)
    toward = torch.randn(2, 3, rows, columns, generator=generator, dtype=torch.float64)
    found = []
    for enlarge in (
        lambda one: enlarged_by_products(one, rows, columns),
        lambda one: F.interpolate(one, size=(rows, columns), mode="bilinear"),
    ):
        moved = maps.clone().requires_grad_()
        made = enlarge(moved)
        (slope,) = torch.autograd.grad((made * toward).sum(), moved)
        found.append((made.detach(), slope))
    for ours, theirs in zip(*found, strict=True):
        # Places between pixels are of float32.
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)


def test_half_precision_keeps_a_constant_map_constant_under_autocast() -> None:
    """From 3 to 7 places the weights are no short binary fractions."""
    maps = torch.full((1, 2, 3, 3), 3.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = enlarged_by_products(maps, 7, 7)
    assert made.dtype == torch.bfloat16
    assert (made == 3).all()


def test_maps_on_a_gpu_are_enlarged_to_the_rows_and_columns_of_the_others(monkeypatch) -> None:
    """A stand-in, since tests have no GPU: what is asked there, and of what."""
    asked = []
    monkeypatch.setattr(regions, "enlarged_by_products", lambda *given: asked.append(given))
    maps = SimpleNamespace(is_cuda=True, shape=torch.Size((1, 2, 3, 4)))
    regions._enlarged(maps, torch.zeros(1, 5, 6, 8))
    assert asked == [(maps, 6, 8)]
