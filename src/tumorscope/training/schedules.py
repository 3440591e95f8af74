"""Learning rate as a function of step and validation losses so far: nothing to store, nothing to restore."""

import math
from collections.abc import Sequence

from tumorscope.config import Schedule

#: One cycle starts at peak / 25 and ends at peak / 10,000 (Smith and Topin 2018, arXiv:1708.07120).
START_DIVISOR, END_DIVISOR = 25.0, 1e4


def rate(
    schedule: Schedule, peak: float, step: int, steps: int, per_epoch: int = 1, val_losses: Sequence[float] = ()
) -> float:
    """Learning rate of step `step` (0 to steps - 1) with largest rate `peak`.

    per_epoch : steps an epoch; val_losses : of the epochs before this one
    """
    return _planned(schedule, peak, step, steps, per_epoch) * plateau(schedule, val_losses)


def plateau(schedule: Schedule, val_losses: Sequence[float]) -> float:
    """What the rate is multiplied by after these validation losses, as Keras's ReduceLROnPlateau without a margin does it."""
    if not schedule.plateau_patience:
        return 1.0
    best, waited, cuts = math.inf, 0, 0
    for loss in val_losses:
        best, waited = (loss, 0) if loss < best else (best, waited + 1)
        if waited >= schedule.plateau_patience:
            cuts, waited = cuts + 1, 0
    return schedule.plateau_factor**cuts


def _planned(schedule: Schedule, peak: float, step: int, steps: int, per_epoch: int) -> float:
    match schedule.name:
        case "constant":
            return peak
        case "one_cycle":
            top = schedule.warmup * (steps - 1)
            if step < top:
                return _cosine(peak / START_DIVISOR, peak, step / top)
            return _cosine(peak, peak / END_DIVISOR, (step - top) / (steps - 1 - top) if steps > 1 else 0.0)
        case "cosine":  # linear rise, then half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
            top = schedule.warmup * (steps - 1)
            if step < top:
                return peak * (step + 1) / (top + 1)
            return _cosine(peak, peak * schedule.floor, (step - top) / (steps - 1 - top) if steps > 1 else 0.0)
        case "exponential":
            return peak * schedule.decay ** max(0, step // per_epoch - schedule.hold + 1)
        case _:
            return _cyclical(schedule, peak, step, schedule.period * per_epoch / 2)


def _cyclical(schedule: Schedule, peak: float, step: int, half: float) -> float:
    """Smith 2017 (arXiv:1506.01186), `half` steps up and as many down; exp_range shrinks by `decay` a cycle, step by step."""
    cycle = math.floor(1 + step / (2 * half))
    height = max(0.0, 1 - abs(step / half - 2 * cycle + 1))
    scale = {"triangular": 1.0, "triangular2": 0.5 ** (cycle - 1)}.get(
        schedule.name, schedule.decay ** (step / (2 * half))
    )
    low = peak * schedule.floor
    return low + (peak - low) * height * scale


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
