"""Every score of a run, computed from its table of predictions and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.errors import InputRejected
from tumorscope.labels import CLASSES, INDEX, NO_TUMOUR

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: The probability columns of a predictions table, in class order.
PROBABILITIES = tuple(f"p_{name}" for name in CLASSES)
#: Indices of the three tumour classes.
TUMOURS = tuple(i for i in range(len(CLASSES)) if i != NO_TUMOUR)
#: Equal-width bins of the expected calibration error, as in Guo et al. 2017.
BINS = 15

_SUM_TOLERANCE = 1e-3
_PER_CLASS = ("precision", "recall", "specificity", "f1", "auc")
_NOT_SCORES = ("n", "pictures", "patients")


def score(predictions: pd.DataFrame) -> dict[str, Any]:
    """Score one run on one part of the data.

    `predictions` has a row a slice: `label` (class name) and `p_glioma` ... `p_pituitary` (each in [0, 1], sum 1);
    `picture` and `patient` are counted where there. The answer of the model is the class of highest probability.

    Averages run over the classes present in `label`; a class that is absent has support 0 and None for what cannot be
    known, and `absent` says how often the model still chose one. All scores are in [0, 1]; `confusion` is 4 x 4,
    rows true, columns said. A class never said has precision 0. Plain data, ready for JSON.

    Raises `InputRejected` for an empty table, a missing column, an unknown label or rows that are not probabilities.
    """
    truth, probability = truth_of(predictions), probability_of(predictions)
    said = probability.argmax(axis=1)
    confusion = np.bincount(truth * len(CLASSES) + said, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)
    return {
        "n": len(truth),
        "pictures": _distinct(predictions, "picture"),
        "patients": _distinct(predictions, "patient"),
        **_overall(confusion),
        "ece": calibration_error(probability.max(axis=1), said == truth),
        "per_class": _per_class(truth, probability, confusion),
        "presence": _presence(truth, said, probability),
        "type": _type(truth, probability),
        "absent": _absent(truth, said),
        "confusion": confusion.tolist(),
    }


def flat(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """One level of keys: `accuracy`, `f1_weighted`, `auc_glioma`, `presence_auc`, `type_accuracy`, ..."""
    plain = {key: value for key, value in scores.items() if _is_score(value) and key not in _NOT_SCORES}
    for name, values in scores["per_class"].items():
        plain |= {f"{metric}_{name}": values[metric] for metric in _PER_CLASS}
    for question in ("presence", "type"):
        plain |= {
            f"{question}_{metric}": value for metric, value in scores[question].items() if not metric.startswith("n_")
        }
    return plain


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Mean and sample standard deviation of every flat score over runs (seeds).

    `n` counts the runs in which the score is defined; `mean` is None for n = 0 and `sd` for n < 2.
    """
    tables = [flat(run) for run in runs]
    keys = dict.fromkeys(key for table in tables for key in table)
    return {key: _mean_and_sd([table.get(key) for table in tables]) for key in keys}


def calibration_bins(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> tuple[Ints, Floats, Floats]:
    """Count, mean accuracy and mean confidence, each (bins,), of the slices in ((m - 1) / bins, m / bins].

    `confidence` (n,) is the probability of the answer given, `correct` (n,) whether it was right. Empty bins hold NaN.
    """
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        accuracy = np.bincount(place, weights=correct, minlength=bins) / count
        mean_confidence = np.bincount(place, weights=confidence, minlength=bins) / count
    return count.astype(np.int64), accuracy, mean_confidence


def calibration_error(confidence: Floats, correct: NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: mean gap of accuracy and confidence over the bins, weighted by their slices.

    Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, equation 3.
    """
    count, accuracy, mean_confidence = calibration_bins(confidence, correct, bins)
    return float(np.nansum(count * np.abs(accuracy - mean_confidence)) / count.sum())


def set_coverage(inside: NDArray[np.bool_], label: pd.Series, source: pd.Series) -> dict[str, Any]:
    """How often prediction sets hold the truth, by class and by source where known, each with its n; in a source by class too.

    inside : bool (n,), whether a slice's set holds its class; label, source : of each slice
    """
    named = source.fillna("").astype(str).to_numpy()
    classes = label.to_numpy()
    return {
        "by class": _coverage(inside, classes),
        "by source": {
            name: {**whole, "by class": _coverage(inside[named == name], classes[named == name])}
            for name, whole in _coverage(inside[named != ""], named[named != ""]).items()
        },
    }


def _coverage(inside: NDArray[np.bool_], groups: NDArray[Any]) -> dict[str, dict[str, Any]]:
    return {
        str(name): {"n": int((groups == name).sum()), "coverage": float(inside[groups == name].mean())}
        for name in np.unique(groups)
    }


def worst_mistakes(predictions: pd.DataFrame, count: int = 15) -> pd.DataFrame:
    """The wrong answers given with the highest probability, worst first.

    Rows of `predictions` (index kept) with the further columns `predicted` (class name) and `probability` of that answer.
    """
    truth, probability = truth_of(predictions), probability_of(predictions)
    said = probability.argmax(axis=1)
    table = predictions.assign(predicted=np.array(CLASSES)[said], probability=probability.max(axis=1))
    return table[said != truth].sort_values("probability", ascending=False, kind="stable").head(count)


def truth_of(predictions: pd.DataFrame) -> Ints:
    """True class index (n,) of each row; raises `InputRejected` for an empty table or an unknown label."""
    _require(predictions, ("label", *PROBABILITIES))
    if unknown := set(predictions["label"]) - set(CLASSES):
        raise InputRejected("label", sorted(map(str, unknown)), f"known are {', '.join(CLASSES)}", "Map it first.")
    return np.asarray(predictions["label"].map(INDEX), dtype=np.int64)


def probability_of(predictions: pd.DataFrame) -> Floats:
    """Probabilities (n, 4) in class order; raises `InputRejected` where a row is not a distribution."""
    _require(predictions, PROBABILITIES)
    probability = predictions[list(PROBABILITIES)].to_numpy(np.float64)
    gap = np.abs(probability.sum(axis=1) - 1)
    bad = ~(gap <= _SUM_TOLERANCE) | (probability < 0).any(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        limit = f"row {row} must be four values of at least 0 with sum 1"
        raise InputRejected("probabilities", probability[row].tolist(), limit, "Apply softmax before writing them.")
    return probability


def auc_of(positive: NDArray[np.bool_], value: Floats) -> float | None:
    """Area under the ROC curve of `value` for `positive`; None where one side is empty.

    The share of pairs of a positive and another in which the positive is higher, a tie counting half (Mann and Whitney 1947).
    """
    ours, others = int(positive.sum()), int((~positive).sum())
    if not ours or not others:
        return None
    _, place, count = np.unique(value, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2
    return float((rank[place][positive].sum() - ours * (ours + 1) / 2) / (ours * others))


def _require(predictions: pd.DataFrame, columns: Sequence[str]) -> None:
    if missing := [name for name in columns if name not in predictions]:
        limit = f"needed are {', '.join(columns)}"
        raise InputRejected("predictions without", ", ".join(missing), limit, "Give a table as `train` writes it.")
    if predictions.empty:
        raise InputRejected("predictions", "0 rows", "at least 1 is needed", "Choose a part that has slices.")


def _overall(confusion: Ints) -> dict[str, float]:
    support = confusion.sum(axis=1)
    present = support > 0
    values = {name: each[present] for name, each in _by_class(confusion).items()}
    scores = {
        "accuracy": float(np.trace(confusion) / support.sum()),
        "balanced_accuracy": float(values["recall"].mean()),
    }
    for average, weights in (("weighted", support[present]), ("macro", None)):
        scores |= {f"{name}_{average}": float(np.average(each, weights=weights)) for name, each in values.items()}
    return scores


def _by_class(confusion: Ints) -> dict[str, Floats]:
    """Precision, recall and F1, each (classes,); 0 where nothing is there to divide by."""
    hits, support, said = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "precision": hits / np.maximum(said, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + said, 1),
    }


def _per_class(truth: Ints, probability: Floats, confusion: Ints) -> dict[str, dict[str, Any]]:
    values, supports = _by_class(confusion), confusion.sum(axis=1)
    table = {}
    for k, support in enumerate(supports):
        precision, recall, f1 = (float(values[name][k]) if support else None for name in ("precision", "recall", "f1"))
        table[CLASSES[k]] = {
            "precision": precision,
            "recall": recall,
            "specificity": _specificity(confusion, k),
            "f1": f1,
            "auc": auc_of(truth == k, probability[:, k]),
            "support": int(support),
        }
    return table


def _specificity(confusion: Ints, k: int) -> float | None:
    """Share of the slices of other classes that were not called class `k`."""
    others = np.delete(confusion, k, axis=0)
    return float(1 - others[:, k].sum() / others.sum()) if others.sum() else None


def _presence(truth: Ints, said: Ints, probability: Floats) -> dict[str, float | int | None]:
    """Tumour or none: the probability of a tumour is 1 - p_notumor, the answer that of the four-class model."""
    tumour, called = truth != NO_TUMOUR, said != NO_TUMOUR
    return {
        "auc": auc_of(tumour, -probability[:, NO_TUMOUR]),  # ranks as 1 - p does, without rounding ties
        "sensitivity": _share(called[tumour]),
        "specificity": _share(~called[~tumour]),
        "n_tumour": int(tumour.sum()),
        "n_notumor": int((~tumour).sum()),
    }


def _type(truth: Ints, probability: Floats) -> dict[str, float | int | None]:
    """Which tumour, given one: the true tumours alone, over the three tumour probabilities.

    Dividing those by their sum leaves the highest one where it is, so the division is not made.
    """
    rows = truth != NO_TUMOUR
    right, said = truth[rows], np.array(TUMOURS)[probability[rows][:, TUMOURS].argmax(axis=1)]
    recalls = [(said[right == k] == k).mean() for k in np.unique(right)]
    return {
        "accuracy": _share(said == right),
        "balanced_accuracy": float(np.mean(recalls)) if recalls else None,
        "n_tumour": int(rows.sum()),
    }


def _absent(truth: Ints, said: Ints) -> dict[str, Any]:
    classes = [k for k in range(len(CLASSES)) if k not in truth]
    return {"classes": [CLASSES[k] for k in classes], "said_share": float(np.isin(said, classes).mean())}


def _share(hits: NDArray[np.bool_]) -> float | None:
    return float(hits.mean()) if hits.size else None


def _distinct(predictions: pd.DataFrame, column: str) -> int | None:
    """How many distinct known values a column has; None where it is not there or nothing is known."""
    known = predictions[column].fillna("").astype(str) if column in predictions else pd.Series(dtype=str)
    return known[known != ""].nunique() or None


def _is_score(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def _mean_and_sd(values: Sequence[float | None]) -> dict[str, float | int | None]:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    return {
        "mean": float(known.mean()) if known.size else None,
        "sd": float(known.std(ddof=1)) if known.size > 1 else None,
        "n": int(known.size),
    }
