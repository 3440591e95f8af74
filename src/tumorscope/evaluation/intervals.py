"""Bootstrap intervals that resample whole patients (or pictures), since slices of one patient are not independent.

A resample is a weight per group: how often it was drawn. Every score here is a function of sums over groups, so all
resamples come out of one product of the weights (resamples, groups) with a table of counts per group.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.errors import InputRejected
from tumorscope.evaluation.scores import TUMOURS, probability_of, truth_of
from tumorscope.labels import CLASSES, NO_TUMOUR

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Scorer = Callable[[Floats], dict[str, Floats]]

#: What `bootstrap` gives when nothing is named.
HEADLINE = (
    "accuracy",
    "balanced_accuracy",
    "precision_weighted",
    "recall_weighted",
    "f1_weighted",
    "f1_macro",
    "presence_auc",
    "presence_sensitivity",
    "presence_specificity",
    "type_accuracy",
    "type_balanced_accuracy",
)
# Tumour against none ranked by 1 - p_notumor has the same area as none against tumour ranked by p_notumor.
_AUCS = {"presence_auc": NO_TUMOUR} | {f"auc_{name}": k for k, name in enumerate(CLASSES)}
_K = len(CLASSES)
_CELLS_AT_ONCE = 4_000_000


def groups_of(predictions: pd.DataFrame) -> NDArray[np.object_]:
    """What each row is resampled with: its patient where known, else its picture, else its path; (n,) of str."""
    group = "path:" + predictions["path"].astype(str)
    for column in ("picture", "patient"):
        if column in predictions:
            known = predictions[column].fillna("").astype(str)
            group = group.where(known == "", f"{column}:" + known)
    return group.to_numpy(dtype=object)


def bootstrap(
    predictions: pd.DataFrame,
    groups: Sequence[str] | NDArray[np.object_] | None = None,
    metrics: Sequence[str] = HEADLINE,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap intervals by group: {metric: (low, high)}.

    `predictions` as for `scores.score`; `groups` (rows,) defaults to `groups_of`. Metrics are the flat names of
    `scores.flat`. The calibration error is not among them: resampling inflates it, so its percentile interval can miss
    the estimate itself. With a single group there is nothing to resample and both ends are NaN, as they are for a score
    that no resample defines.

    Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapter 13.
    """
    groups = groups_of(predictions) if groups is None else groups
    if len(groups) != len(predictions):
        raise InputRejected("groups", len(groups), f"one a row is needed: {len(predictions)}", "Use groups_of.")
    return _resampled([predictions], [groups], metrics, n, seed, level)


def bootstrap_over_seeds(
    tables: Sequence[pd.DataFrame],
    metrics: Sequence[str] = HEADLINE,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Intervals as those of `bootstrap` around the mean of each score over `tables`: predictions, one a seed.

    A group is drawn with all its predictions: of a slice that several tables hold the patient and picture that any of them
    knows. Every seed is scored by itself: networks differ in the scale of their
    probabilities, so that an AUC over the rows of all is below the mean of theirs.
    """
    columns = [column for column in ("patient", "picture") if all(column in table for table in tables)]
    ids = pd.concat([table[["path", *columns]] for table in tables]).replace("", None)
    known = ids.groupby("path", sort=False).first().reset_index()
    group = dict(zip(known["path"], groups_of(known), strict=True))
    groups = [table["path"].map(group).to_numpy(dtype=object) for table in tables]
    return _resampled(tables, groups, metrics, n, seed, level)


def bootstrap_means(
    table: pd.DataFrame, columns: Sequence[str], n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Intervals as those of `bootstrap` around the mean of each column, {column: (low, high)}, by `groups_of` the rows.

    Rows without a value (NaN) do not count. Both ends are NaN where a single group has values.
    """
    codes, count = _coded(groups_of(table))
    values = table[list(columns)].to_numpy(np.float64)
    known = ~np.isnan(values)
    sums, sizes = np.zeros((2, count, len(columns)))
    np.add.at(sums, codes, np.where(known, values, 0))
    np.add.at(sizes, codes, known)
    means = np.concatenate([_ratio(weights @ sums, weights @ sizes) for weights in _draws(count, count, n, seed)])
    several = (sizes > 0).sum(axis=0) > 1
    return {
        column: _percentiles(means[:, k], level) if several[k] else (np.nan, np.nan) for k, column in enumerate(columns)
    }


def paired_difference(
    pred_a: pd.DataFrame,
    pred_b: pd.DataFrame,
    metric: str = "accuracy",
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Score of `a` less score of `b` on the slices that both have, with a paired bootstrap by group.

    Slices are joined on `path`, groups read from `pred_a`. A table may hold several runs (seeds), every slice once a
    run: the scores are then over all of its rows, and the interval is over patients, not over seeds.
    `p` is the two-sided bootstrap p-value of no difference, at least 2 / (n + 1); `slices` counts the shared ones.

    Raises `InputRejected` when no slice is shared, the labels disagree or a slice comes more often than another.
    """
    _check((metric,), n, level)
    a, b = _joined(pred_a, pred_b)
    codes, paths = pd.factorize(a["path"])
    group_of_path, count = _coded(groups_of(a)[np.unique(codes, return_index=True)[1]])
    code = dict(zip(paths, group_of_path, strict=True))
    score_a, score_b = (
        _scorer(table, table["path"].map(code).to_numpy(np.int64), count, (metric,)) for table in (a, b)
    )

    def difference(weights: Floats) -> Floats:
        return score_a(weights)[metric] - score_b(weights)[metric]

    draws = np.concatenate([difference(weights) for weights in _draws(count, max(len(a), len(b)), n, seed)])
    low, high = _percentiles(draws, level) if count > 1 else (np.nan, np.nan)
    p = _two_sided(draws) if count > 1 else np.nan
    estimate = float(difference(np.ones((1, count)))[0])
    return {"difference": estimate, "low": low, "high": high, "p": p, "slices": len(paths)}


def _check(metrics: Sequence[str], n: int, level: float) -> None:
    one = np.ones((1, _K * _K))
    known = [*_confusion_scores(one), *_type_scores(one), *_AUCS]
    if unknown := [metric for metric in metrics if metric not in known]:
        raise InputRejected("metric", ", ".join(unknown), f"known are {', '.join(known)}", "Choose among them.")
    if n < 1 or not 0 < level < 1:
        raise InputRejected("bootstrap", f"n={n}, level={level}", "n >= 1 and 0 < level < 1", "Try 2000 and 0.95.")


def _resampled(
    tables: Sequence[pd.DataFrame],
    groups: Sequence[Sequence[str] | NDArray[np.object_]],
    metrics: Sequence[str],
    n: int,
    seed: int,
    level: float,
) -> dict[str, tuple[float, float]]:
    """Intervals of the mean over tables; groups : of every table's rows."""
    _check(metrics, n, level)
    codes, count = _coded(np.concatenate([np.asarray(one, dtype=object) for one in groups]))
    if count < 2:
        return dict.fromkeys(metrics, (np.nan, np.nan))
    ends = np.cumsum([len(one) for one in groups])[:-1]
    scorers = [_scorer(table, mine, count, metrics) for table, mine in zip(tables, np.split(codes, ends), strict=True)]
    blocks = [[scores(weights) for scores in scorers] for weights in _draws(count, max(map(len, groups)), n, seed)]
    return {
        metric: _percentiles(
            np.concatenate([np.mean([one[metric] for one in block], axis=0) for block in blocks]), level
        )
        for metric in metrics
    }


def _coded(groups: Sequence[str] | NDArray[np.object_]) -> tuple[Ints, int]:
    codes, names = pd.factorize(np.asarray(groups, dtype=object))
    return codes.astype(np.int64), len(names)


def _joined(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    shared = set(a["path"]) & set(b["path"])
    if not shared:
        raise InputRejected("slices in both tables", 0, "at least 1 is needed", "Compare runs on the same data.")
    a, b = a[a["path"].isin(shared)], b[b["path"].isin(shared)]
    if a["path"].value_counts().nunique() > 1 or b["path"].value_counts().nunique() > 1:
        raise InputRejected("slices", "some repeated", "each must come once a run", "Compare one part at a time.")
    both = pd.concat([a[["path", "label"]], b[["path", "label"]]])
    if (both.groupby("path")["label"].nunique() > 1).any():
        raise InputRejected("labels", "some differ", "both tables must agree", "Compare runs on the same catalogue.")
    return a, b


def _draws(groups: int, rows: int, n: int, seed: int) -> Iterator[Floats]:
    """Weights (some, groups): how often each group was drawn, in blocks that bound the memory."""
    random = np.random.default_rng(seed)
    block = max(1, _CELLS_AT_ONCE // max(groups, rows))
    for start in range(0, n, block):
        size = min(block, n - start)
        drawn = random.integers(groups, size=(size, groups)) + groups * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * groups).reshape(size, groups).astype(np.float64)


def _scorer(predictions: pd.DataFrame, codes: Ints, count: int, metrics: Sequence[str]) -> Scorer:
    """A function from weights (b, groups) to {metric: (b,)}; what does not depend on the weights is done once, here."""
    truth, probability = truth_of(predictions), probability_of(predictions)
    kind = np.array(TUMOURS)[probability[:, TUMOURS].argmax(axis=1)]
    tumour = truth != NO_TUMOUR
    four = _counts(codes, truth, probability.argmax(axis=1), count)
    three = _counts(codes[tumour], truth[tumour], kind[tumour], count)
    curves = {metric: (truth == _AUCS[metric], probability[:, _AUCS[metric]]) for metric in metrics if metric in _AUCS}

    def scores(weights: Floats) -> dict[str, Floats]:
        every = _confusion_scores(weights @ four) | _type_scores(weights @ three)
        every |= {metric: _weighted_auc(*curve, weights[:, codes]) for metric, curve in curves.items()}
        return {metric: every[metric] for metric in metrics}

    return scores


def _counts(codes: Ints, truth: Ints, said: Ints, groups: int) -> Floats:
    """Confusion counts of every group, (groups, 16)."""
    cell = codes * _K * _K + truth * _K + said
    return np.bincount(cell, minlength=groups * _K * _K).reshape(groups, _K * _K).astype(np.float64)


def _confusion_scores(cells: Floats) -> dict[str, Floats]:
    """Scores (b,) from confusion counts (b, 16), with the meaning they have in `scores.score`."""
    confusion = cells.reshape(-1, _K, _K)
    hits, support, said = np.einsum("bkk->bk", confusion), confusion.sum(axis=2), confusion.sum(axis=1)
    total, present = support.sum(axis=1, keepdims=True), support > 0
    recall, f1 = _ratio(hits, support), _ratio(2 * hits, support + said)
    precision = np.where(present & (said == 0), 0.0, _ratio(hits, said))
    specificity = _ratio(total - support - said + hits, total - support)
    scores = {"accuracy": hits.sum(axis=1) / total[:, 0], "balanced_accuracy": _mean(recall, present)}
    for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
        scores[f"{name}_weighted"], scores[f"{name}_macro"] = _mean(values, support), _mean(values, present)
        scores |= {f"{name}_{label}": np.where(present[:, k], values[:, k], np.nan) for k, label in enumerate(CLASSES)}
    scores |= {f"specificity_{label}": specificity[:, k] for k, label in enumerate(CLASSES)}
    scores["presence_sensitivity"] = scores[f"specificity_{CLASSES[NO_TUMOUR]}"]
    scores["presence_specificity"] = scores[f"recall_{CLASSES[NO_TUMOUR]}"]
    return scores


def _type_scores(cells: Floats) -> dict[str, Floats]:
    """Accuracy and balanced accuracy (b,) from the confusion counts (b, 16) of the true tumours over tumour types."""
    confusion = cells.reshape(-1, _K, _K)
    hits, support = np.einsum("bkk->bk", confusion), confusion.sum(axis=2)
    recall = _ratio(hits, support)
    return {"type_accuracy": _mean(recall, support), "type_balanced_accuracy": _mean(recall, support > 0)}


def _mean(values: Floats, weights: Floats | NDArray[np.bool_]) -> Floats:
    """Mean over classes (b,); a class of weight 0 may hold NaN."""
    return _ratio(np.where(weights > 0, values * weights, 0.0).sum(axis=1), weights.sum(axis=1))


def _ratio(above: Floats, below: Floats | Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return above / below


def _weighted_auc(positive: NDArray[np.bool_], value: Floats, weights: Floats) -> Floats:
    """Areas (b,) under the ROC curve of `value` (m,) with row weights (b, m); NaN where a side has no weight.

    A positive scores the negatives below it and half of those at its own value (Mann and Whitney 1947).
    """
    order = np.argsort(value, kind="stable")
    first = np.flatnonzero(np.diff(value[order], prepend=-np.inf))
    weights, is_positive = weights[:, order], positive[order]
    above = np.add.reduceat(weights * is_positive, first, axis=1)
    below = np.add.reduceat(weights * ~is_positive, first, axis=1)
    beaten = np.cumsum(below, axis=1) - below / 2
    return _ratio((above * beaten).sum(axis=1), above.sum(axis=1) * below.sum(axis=1))


def _percentiles(draws: Floats, level: float) -> tuple[float, float]:
    known = draws[~np.isnan(draws)]
    if not known.size:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _two_sided(difference: Floats) -> float:
    known = difference[~np.isnan(difference)]
    tail = min((known <= 0).sum(), (known >= 0).sum()) + 1
    return float(min(1.0, 2 * tail / (len(known) + 1)))
