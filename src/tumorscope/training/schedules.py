"""Learning rate as a function of the step alone: nothing to store, nothing to restore."""

import math

from tumorscope.config import Schedule

#: One cycle starts at peak / 25 and ends at peak / 10,000 (Smith and Topin 2018, arXiv:1708.07120).
START_DIVISOR, END_DIVISOR = 25.0, 1e4


def rate(schedule: Schedule, peak: float, step: int, steps: int) -> float:
    """Learning rate of step `step` (0 to steps - 1) with largest rate `peak`; cosine between the corners."""
    if schedule.name == "constant":
        return peak
    top = schedule.warmup * (steps - 1)
    if step < top:
        return _cosine(peak / START_DIVISOR, peak, step / top)
    return _cosine(peak, peak / END_DIVISOR, (step - top) / (steps - 1 - top) if steps > 1 else 0.0)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
