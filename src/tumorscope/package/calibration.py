"""Temperature, offsets and prediction sets from out-of-fold predictions, and how they do on folds they were not set on."""

from typing import Any

import numpy as np
import pandas as pd

from tumorscope.evaluation.scores import BINS, calibration_bins, calibration_error, set_coverage
from tumorscope.inference.classifier import calibrated
from tumorscope.labels import CLASSES, INDEX
from tumorscope.training.fold import PROBABILITIES

#: Of prediction sets: those that a package can be asked for, and the one it answers with.
ERROR_RATES, ERROR_RATE = (0.01, 0.05, 0.10, 0.20), 0.10


def calibration(held: pd.DataFrame) -> dict[str, Any]:
    """Temperature, offsets and conformal thresholds of out-of-fold predictions, and how they do on folds they were not set on.

    held : a row a slice with label, fold and probabilities; where it has a column source, coverage is given for each one too
    """
    logits, truth, fold = _logits(held), held["label"].map(INDEX).to_numpy(), held["fold"].to_numpy()
    fits = fits_of_folds(held)
    crossed = answered(held, fits)[PROBABILITIES].to_numpy()
    sets = np.zeros((len(ERROR_RATES), *logits.shape), bool)
    for one, fitted in fits.items():
        rest, mine = fold != one, fold == one
        known = calibrated(logits[rest], *fitted)
        for index, rate in enumerate(ERROR_RATES):
            limits = np.array(list(thresholds(known, truth[rest], rate).values()))
            sets[index, mine] = 1 - crossed[mine] <= limits
    temperature, offsets = fit_calibration(logits, truth)
    final = calibrated(logits, temperature, offsets)
    return {
        "temperature": temperature,
        "offsets": dict(zip(CLASSES, offsets.tolist(), strict=True)),
        "calibration": {
            **_scores_of(crossed, truth),
            "uncalibrated": _scores_of(calibrated(logits), truth),
            "temperatures_of_folds": [temperature for temperature, _ in fits.values()],
            "bins": _bins_of(crossed, truth),
        },
        "conformal": {
            "error_rate": ERROR_RATE,
            "rates": {
                f"{rate:g}": {"thresholds": thresholds(final, truth, rate), **_sets_of(sets[index], truth, held)}
                for index, rate in enumerate(ERROR_RATES)
            },
        },
    }


def fits_of_folds(held: pd.DataFrame) -> dict[int, tuple[float, np.ndarray]]:
    """By fold of out-of-fold predictions the temperature and offsets that the other folds give."""
    logits, truth, fold = _logits(held), held["label"].map(INDEX).to_numpy(), held["fold"].to_numpy()
    return {int(one): fit_calibration(logits[fold != one], truth[fold != one]) for one in np.unique(fold)}


def answered(predictions: pd.DataFrame, fits: dict[int, tuple[float, np.ndarray]]) -> pd.DataFrame:
    """Predictions of several folds with probabilities as a package would give them, each fold's by its fit."""
    logits, fold = _logits(predictions), predictions["fold"].to_numpy()
    chances = np.empty_like(logits)
    for one, fitted in fits.items():
        chances[fold == one] = calibrated(logits[fold == one], *fitted)
    return predictions.assign(**dict(zip(PROBABILITIES, chances.T, strict=True)))


def _logits(predictions: pd.DataFrame) -> np.ndarray:
    return np.log(predictions[PROBABILITIES].to_numpy().clip(1e-12))


def _bins_of(chances: np.ndarray, truth: np.ndarray) -> list[dict[str, float]]:
    """What the reliability diagram shows: bins of the answer's probability that hold slices."""
    count, right, said = calibration_bins(chances.max(axis=1), chances.argmax(axis=1) == truth)
    return [
        {
            "above": float(index / BINS),
            "slices": int(count[index]),
            "right": float(right[index]),
            "said": float(said[index]),
        }
        for index in np.flatnonzero(count)
    ]


def _sets_of(sets: np.ndarray, truth: np.ndarray, held: pd.DataFrame) -> dict[str, Any]:
    """How often sets bool (n, classes) hold the truth, by class and source, and how many classes they hold."""
    source = held["source"] if "source" in held else pd.Series("", held.index)
    found = set_coverage(sets[np.arange(len(truth)), truth], held["label"], source)
    return {
        "coverage": {name: one["coverage"] for name, one in found["by class"].items()},
        "slices": {name: one["n"] for name, one in found["by class"].items()},
        "by_source": found["by source"],
        "mean_size": float(sets.sum(axis=1).mean()),
    }


def _scores_of(chances: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Expected calibration error, and what the most likely class is worth."""
    answer, free = chances.argmax(axis=1), INDEX["notumor"]
    hits = [float((answer[truth == k] == k).mean()) for k in np.unique(truth)]
    return {
        "expected_calibration_error": calibration_error(chances.max(axis=1), answer == truth),
        "accuracy": float((answer == truth).mean()),
        "balanced_accuracy": float(np.mean(hits)),
        "missed_tumours": float((answer[truth != free] == free).mean()),
    }


def fit_calibration(logits: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """The temperature, and the offsets float64 (classes,) with mean 0, with the least negative log-likelihood of the truth.

    Each class counts the same, however many slices it has, so that no set's shares are carried into another's answers. A class
    that never comes keeps offset 0.
    """
    from scipy.optimize import minimize

    seen = np.unique(truth)
    rows, weight = np.arange(len(truth)), 1 / (np.bincount(truth)[truth] * len(seen))

    def unpacked(values: np.ndarray) -> tuple[float, np.ndarray]:
        offsets = np.zeros(logits.shape[1])
        offsets[seen] = values[1:] - values[1:].mean()
        return float(np.exp(values[0].clip(-3, 3))), offsets

    def loss(values: np.ndarray) -> float:
        return -float((weight * np.log(calibrated(logits, *unpacked(values))[rows, truth].clip(1e-12))).sum())

    return unpacked(minimize(loss, np.zeros(1 + len(seen)), method="L-BFGS-B").x)


def thresholds(chances: np.ndarray, truth: np.ndarray, error_rate: float = ERROR_RATE) -> dict[str, float]:
    """By class, the score 1 - p below which it stays in the set: the ceil((n + 1)(1 - rate))-th smallest of its n slices."""
    found = {}
    for k, name in enumerate(CLASSES):
        scores = np.sort(1 - chances[truth == k, k])
        rank = int(np.ceil((len(scores) + 1) * (1 - error_rate)))
        found[name] = float(scores[rank - 1]) if rank <= len(scores) else 1.0
    return found
