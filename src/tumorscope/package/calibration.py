"""Temperature and prediction sets of a package, from out-of-fold predictions, and how they do on folds they were not set on."""

from typing import Any

import numpy as np
import pandas as pd

from tumorscope.evaluation.scores import calibration_error
from tumorscope.inference.classifier import calibrated
from tumorscope.labels import CLASSES, INDEX
from tumorscope.training.fold import PROBABILITIES

#: Of prediction sets.
ERROR_RATE = 0.10


def calibration(held: pd.DataFrame) -> dict[str, Any]:
    """Temperature and conformal thresholds of out-of-fold predictions, and how they do on folds that they were not set on."""
    logits = np.log(held[PROBABILITIES].to_numpy().clip(1e-12))
    truth, fold = held["label"].map(INDEX).to_numpy(), held["fold"].to_numpy()
    errors, inside, sizes = [], np.zeros(len(held), bool), np.zeros(len(held))
    crossed = np.zeros_like(logits)
    for one in np.unique(fold):
        rest, mine = fold != one, fold == one
        heat = fit_temperature(logits[rest], truth[rest])
        limits = np.array(list(thresholds(calibrated(logits[rest], heat), truth[rest]).values()))
        crossed[mine] = calibrated(logits[mine], heat)
        sets = 1 - crossed[mine] <= limits
        inside[mine], sizes[mine] = sets[np.arange(mine.sum()), truth[mine]], sets.sum(axis=1)
        errors.append(heat)
    temperature = fit_temperature(logits, truth)
    return {
        "temperature": temperature,
        "calibration": {
            "expected_calibration_error": _error_of(crossed, truth),
            "uncalibrated": _error_of(calibrated(logits, 1.0), truth),
            "temperatures_of_folds": errors,
        },
        "conformal": {
            "error_rate": ERROR_RATE,
            "thresholds": thresholds(calibrated(logits, temperature), truth),
            "coverage": {name: float(inside[truth == k].mean()) for k, name in enumerate(CLASSES)},
            "mean_size": float(sizes.mean()),
        },
    }


def _error_of(chances: np.ndarray, truth: np.ndarray) -> float:
    return calibration_error(chances.max(axis=1), chances.argmax(axis=1) == truth)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The temperature with the least negative log-likelihood of the true classes."""
    from scipy.optimize import minimize_scalar

    def loss(log_heat: float) -> float:
        chances = calibrated(logits, float(np.exp(log_heat)))
        return -float(np.log(chances[np.arange(len(truth)), truth].clip(1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x))


def thresholds(chances: np.ndarray, truth: np.ndarray, error_rate: float = ERROR_RATE) -> dict[str, float]:
    """By class, the score 1 - p below which it stays in the set: the ceil((n + 1)(1 - rate))-th smallest of its n slices."""
    found = {}
    for k, name in enumerate(CLASSES):
        scores = np.sort(1 - chances[truth == k, k])
        rank = int(np.ceil((len(scores) + 1) * (1 - error_rate)))
        found[name] = float(scores[rank - 1]) if rank <= len(scores) else 1.0
    return found
