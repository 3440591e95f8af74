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


def test_seven_epochs_constant_then_exponential_decay_by_hand():
    schedule = Schedule(name="exponential", hold=7, decay=0.9)
    values = [rate(schedule, 1.0, epoch * 10 + 9, 1000, per_epoch=10) for epoch in range(10)]
    assert values == pytest.approx([1] * 7 + [0.9, 0.81, 0.729])


def test_plateau_cuts_after_patience_epochs_without_a_lower_loss_and_counts_anew():
    schedule = Schedule(plateau_patience=2, plateau_factor=0.5)
    losses = [1.0, 0.9, 0.9, 0.95, 0.8, 0.85, 0.85, 0.85, 0.85]
    values = [rate(schedule, 1.0, 0, 10, val_losses=losses[:n]) for n in range(len(losses) + 1)]
    assert values == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_plateau_multiplies_any_other_schedule():
    both = Schedule(name="exponential", hold=1, decay=0.5, plateau_patience=1, plateau_factor=0.1)
    assert rate(both, 1.0, 2, 10, 1, [1.0, 2.0]) == pytest.approx(0.25 * 0.1)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("triangular", [0.2, 0.6, 1.0, 0.6, 0.2, 0.6, 1.0, 0.6, 0.2]),
        ("triangular2", [0.2, 0.6, 1.0, 0.6, 0.2, 0.4, 0.6, 0.4, 0.2]),
    ],
)
def test_cyclical_rates_by_hand(name, expected):
    """A cycle of four steps between 0.2 and 1."""
    schedule = Schedule(name=name, period=2, floor=0.2)
    assert [rate(schedule, 1.0, step, 100, per_epoch=2) for step in range(9)] == pytest.approx(expected)


def test_exp_range_shrinks_step_by_step():
    schedule = Schedule(name="exp_range", period=2, floor=0.2, decay=0.5)
    assert rate(schedule, 1.0, 2, 100, 2) == pytest.approx(0.2 + 0.8 * 0.5**0.5)
    assert rate(schedule, 1.0, 6, 100, 2) == pytest.approx(0.2 + 0.8 * 0.5**1.5)


def test_cosine_rises_linearly_and_ends_at_its_floor():
    schedule = Schedule(name="cosine", warmup=0.5, floor=0.1)
    values = [rate(schedule, 1.0, step, 9) for step in range(9)]
    assert values[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert values[6] == pytest.approx(0.55)
    assert values[8] == pytest.approx(0.1)
