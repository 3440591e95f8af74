"""Learning rates against corners worked out by hand, and the shape of one cycle for any length."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tumorscope.config import Schedule
from tumorscope.training.schedules import END_DIVISOR, START_DIVISOR, rate

CYCLE = Schedule(name="one_cycle", warmup=0.3)


def test_constant_is_constant():
    assert {rate(Schedule(), 0.01, step, 50) for step in range(50)} == {0.01}


def test_one_cycle_by_hand():
    """101 steps: the top is step 30; half way up and half way down the cosine is at the middle."""
    start, end = 1 / 25, 1e-4
    values = [rate(CYCLE, 1.0, step, 101) for step in (0, 15, 30, 65, 100)]
    assert values == pytest.approx([start, (start + 1) / 2, 1.0, (1 + end) / 2, end])


@given(steps=st.integers(1, 300), warmup=st.floats(0, 0.99), peak=st.floats(1e-6, 10))
def test_one_cycle_rises_once_falls_once_and_ends_at_its_end(steps, warmup, peak):
    schedule = Schedule(name="one_cycle", warmup=warmup)
    values = [rate(schedule, peak, step, steps) for step in range(steps)]
    top = values.index(max(values))
    assert max(values) <= peak * 1.0001
    assert min(values) >= peak / END_DIVISOR * 0.9999
    assert all(a <= b * 1.0001 for a, b in pairwise(values[: top + 1]))
    assert all(a * 1.0001 >= b for a, b in pairwise(values[top:]))
    if steps > 1:
        assert values[-1] == pytest.approx(peak / END_DIVISOR)
        assert values[0] == pytest.approx(peak / START_DIVISOR if warmup else peak)


def test_a_run_of_one_step_trains_at_the_peak():
    assert rate(CYCLE, 0.5, 0, 1) == 0.5
