"""Maps enlarged with matrix products, which stand in for bilinear interpolation on a GPU."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

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
        lambda given: enlarged_by_products(given, rows, columns),
        lambda given: F.interpolate(given, size=(rows, columns), mode="bilinear"),
    ):
        given_maps = maps.clone().requires_grad_()
        made = enlarge(given_maps)
        (slope,) = torch.autograd.grad((made * toward).sum(), given_maps)
        found.append((made.detach(), slope))
    for ours, theirs in zip(*found, strict=True):
        # Places between pixels are of float32.
        assert ours.numpy() == pytest.approx(theirs.numpy(), abs=1e-5)
