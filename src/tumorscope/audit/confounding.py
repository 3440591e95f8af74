"""Confounding: how well the class can be told from things that are not anatomy.

A small model sees the file and the frame of every slice, never the slice: bytes, storage, size, JPEG table; brightness of
the border, share of black. It is cross-validated as a classifier would be under patient-cv (one slice a picture, a patient on
one side only). What it scores above chance, a classifier of pixels may score without having seen a tumour.

Zech et al., "Variable generalization performance of a deep learning model to detect pneumonia in chest radiographs", PLOS
Medicine 2018: a network told the hospital from the picture, and the disease from the hospital.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from tumorscope import home
from tumorscope.errors import DataNotFound
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.scores import PROBABILITIES, flat, score
from tumorscope.labels import CLASSES, NO_TUMOUR
from tumorscope.protocols import FOLDS, groups, one_per_picture

#: Cue to what it is in words.
CUES = {
    "mode": "grey or colour storage",
    "format": "file format",
    "width": "width",
    "height": "height",
    "aspect": "width over height",
    "quantisation": "JPEG table",
    "bytes": "file size",
    "bytes_per_pixel": "bytes per pixel",
    "border_mean": "brightness of the border",
    "border_sd": "spread of the border",
    "black": "share of pure black",
}
#: Cues together. Storage knows nothing of the content; size in bytes and frame depend a little on plane and head size.
SETS = {
    "all": tuple(CUES),
    "storage": ("mode", "format", "width", "height", "aspect", "quantisation"),
    "size in bytes": ("bytes", "bytes_per_pixel"),
    "frame": ("border_mean", "border_sd", "black"),
}
METRICS = ("balanced_accuracy", "presence_auc", "type_balanced_accuracy")
#: Presence AUC of the cues, at the lower end of its interval, from which presence counts as confounded, and partly so.
CONFOUNDED, PARTLY = 0.90, 0.60

#: What each verdict means for the question "a tumour or none".
MEANING = {
    "confounded": (
        "So specificity, sensitivity and presence AUC measured on this set say how well its collections can be told apart. A "
        "model may get them all right without knowing what a tumour looks like, and no split of this set can show it. Score "
        "presence on a collection that holds both tumour and tumour-free slices."
    ),
    "partly": (
        "So a part of any presence score (specificity, sensitivity, AUC) measured on this set may come from how the slices "
        "were made and stored. Check presence on a collection that holds both tumour and tumour-free slices."
    ),
    "not found": (
        "So these cues do not give away whether there is a tumour. That is no proof: what lies in the anatomy itself (plane, "
        "age, scanner) is not looked at."
    ),
}

_STORAGE = ("format", "mode", "width", "height", "quantisation")


@dataclass(frozen=True)
class Confounding:
    """What cues alone give away.

    scores : DataFrame, a row a set of cues: cues (name), kind ("set" or "cue"), a column a metric of `METRICS` in [0, 1],
        for sets also <metric>_low and <metric>_high (95 %, bootstrapped by patient or picture)
    chance : metric to what guessing gives
    collections : DataFrame, a row a collection, a column a class: slices
    own_storage : class to the share of its slices, in [0, 1], stored (format, mode, size, JPEG table) as no slice on the
        other side of tumour against none is
    verdict : "confounded", "partly", "not found" or "unknown" (no tumour, or no tumour-free slice) for presence
    presence, type : what follows for "a tumour or none" (specificity) and for "which tumour", in plain sentences; empty
        where there is nothing to say
    """

    scores: pd.DataFrame
    chance: dict[str, float]
    collections: pd.DataFrame
    own_storage: dict[str, float]
    slices: int
    verdict: str
    presence: tuple[str, ...]
    type: tuple[str, ...]


def confounding(
    table: pd.DataFrame, images: NDArray[np.uint8], collection: "pd.Series[str] | None" = None, seed: int = 0
) -> Confounding:
    """Measure it on a catalogue's table with pictures; `images` is its pixel cache, uint8 (n, s, s).

    collection : where each slice was taken from, where more is known of it than the column `source` says

    Raises `DataNotFound` where there are too few classes, pictures or patients for five folds.
    """
    facts, trial = cues(table, images).reset_index(drop=True), _trial(table, seed)
    scores = pd.DataFrame([*_of_sets(facts, trial, seed), *_of_cues(facts, trial)])
    chance = _chance(table)
    by_collection = collections(table["source"] if collection is None else collection, table["label"])
    own = own_storage(table)
    verdict = _verdict(scores.iloc[0], by_collection)
    sets = scores[scores["kind"] == "set"].set_index("cues")
    presence = _presence_in_words(verdict, sets["presence_auc"], by_collection, own)
    about_type = _type_in_words(sets, chance["type_balanced_accuracy"])
    return Confounding(
        scores, chance, by_collection, own, len(trial.slices), verdict, tuple(presence), tuple(about_type)
    )


def cues(table: pd.DataFrame, images: NDArray[np.uint8]) -> pd.DataFrame:
    """The cues of every slice as numbers, a column each of `CUES`; mode and format by code, NaN where there is none.

    Border: the outermost pixels of `images`, uint8 (n, s, s). Black: the share of pixels with value 0.
    """
    edges = np.concatenate([images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]], axis=1)
    area = table["width"] * table["height"]
    facts = {
        "bytes": table["bytes"],
        "bytes_per_pixel": table["bytes"] / area,
        "mode": pd.factorize(table["mode"], sort=True)[0],
        "format": pd.factorize(table["format"], sort=True)[0],
        "width": table["width"],
        "height": table["height"],
        "aspect": table["width"] / table["height"],
        "quantisation": table["quantisation"],
        "border_mean": edges.mean(axis=1),
        "border_sd": edges.std(axis=1),
        "black": np.array([np.mean(image == 0) for image in images]),
    }
    return pd.DataFrame(facts, index=table.index)[list(CUES)].astype(float)


def collections(collection: "pd.Series[str]", label: "pd.Series[str]") -> pd.DataFrame:
    """Slices of every class in every collection: a row a collection, a column a class."""
    return pd.crosstab(collection, label).reindex(columns=list(CLASSES), fill_value=0).rename_axis(columns=None)


def own_storage(table: pd.DataFrame) -> dict[str, float]:
    """For every class the share of slices stored as no slice on the other side (tumour against none) is."""
    storage = table.groupby(list(_STORAGE), dropna=False).ngroup()
    healthy = table["label"] == CLASSES[NO_TUMOUR]
    shared = storage.isin(set(storage[healthy])) & storage.isin(set(storage[~healthy]))
    return {name: float((~shared[table["label"] == name]).mean()) for name in CLASSES if (table["label"] == name).any()}


@dataclass(frozen=True)
class _Trial:
    """Slices to ask about, one a picture: their rows of the table, the columns that answers need, and grouped folds."""

    slices: pd.DataFrame
    split: list[tuple[NDArray[np.int64], NDArray[np.int64]]]

    def metrics(self, model: Any, facts: pd.DataFrame) -> tuple[dict[str, float], pd.DataFrame]:
        """Scores of a model that sees `facts` alone, and its out-of-fold answers."""
        facts, labels = facts.loc[self.slices.index], self.slices["label"]
        chances = cross_val_predict(model, facts, labels, cv=self.split, method="predict_proba")
        said = pd.DataFrame(chances, self.slices.index, [f"p_{name}" for name in sorted(set(labels))])
        answers = self.slices.join(said.reindex(columns=list(PROBABILITIES), fill_value=0.0))
        scores = flat(score(answers))
        return {metric: np.nan if scores[metric] is None else float(scores[metric] or 0) for metric in METRICS}, answers


def _trial(table: pd.DataFrame, seed: int) -> _Trial:
    """Folds as patient-cv has them, with no validation part, since nothing is chosen."""
    table = table.reset_index(drop=True)
    rows = one_per_picture(table)
    slices, group = table.loc[rows, ["path", "label", "patient", "picture"]], groups(table, by_patient=True)[rows]
    smallest = slices.assign(group=group).groupby("label")["group"].nunique().min() if len(rows) else 0
    if slices["label"].nunique() < 2 or smallest < FOLDS:
        raise DataNotFound(
            f"confounding: {slices['label'].nunique()} classes, the smallest with {smallest} patients or pictures; at least 2 "
            f"classes of {FOLDS} each are needed. Add data."
        )
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return _Trial(slices, list(splitter.split(rows, slices["label"], group)))


def _of_sets(facts: pd.DataFrame, trial: _Trial, seed: int) -> Iterator[dict[str, Any]]:
    """Each of `SETS`, all cues first: a random forest with intervals."""
    for name, columns in SETS.items():
        forest = RandomForestClassifier(
            100, min_samples_leaf=5, class_weight="balanced", n_jobs=home.cores(), random_state=seed
        )
        scores, answers = trial.metrics(forest, facts[list(columns)])
        row = {"cues": name, "kind": "set", **scores}
        for metric, (low, high) in bootstrap(answers, metrics=METRICS, n=1000).items():
            row |= {f"{metric}_low": low, f"{metric}_high": high}
        yield row


def _of_cues(facts: pd.DataFrame, trial: _Trial) -> list[dict[str, Any]]:
    """Every cue alone: a decision tree, which has no more to choose than where to cut; best first."""
    leaf = max(5, len(trial.slices) // 200)
    tree = DecisionTreeClassifier(min_samples_leaf=leaf, class_weight="balanced", random_state=0)
    rows = [{"cues": cue, "kind": "cue", **trial.metrics(tree, facts[[cue]])[0]} for cue in CUES]
    return sorted(rows, key=lambda row: -float(row["balanced_accuracy"]))


def _chance(table: pd.DataFrame) -> dict[str, float]:
    present = set(table["label"])
    tumours = present - {CLASSES[NO_TUMOUR]}
    return {
        "balanced_accuracy": 1 / len(present),
        "presence_auc": 0.5,
        "type_balanced_accuracy": 1 / len(tumours) if tumours else np.nan,
    }


def _verdict(all_cues: "pd.Series[Any]", by_collection: pd.DataFrame) -> str:
    """Whether presence scores of this set can be trusted; see `Confounding`."""
    if np.isnan(all_cues["presence_auc"]):
        return "unknown"
    if not _both(by_collection).any():
        return "confounded"
    low = np.nan_to_num(all_cues["presence_auc_low"], nan=all_cues["presence_auc"])
    return "confounded" if low >= CONFOUNDED else "partly" if low >= PARTLY else "not found"


def _both(by_collection: pd.DataFrame) -> "pd.Series[bool]":
    """Which collections hold tumours and tumour-free slices."""
    healthy = by_collection[CLASSES[NO_TUMOUR]]
    return (healthy > 0) & (by_collection.sum(axis=1) > healthy)


def _presence_in_words(
    verdict: str, auc: "pd.Series[float]", by_collection: pd.DataFrame, own: dict[str, float]
) -> list[str]:
    if verdict == "unknown":
        return ["Without both tumour and tumour-free slices, presence (a tumour or none) cannot be scored."]
    measured = (
        f"Tumour is told from no tumour with an AUC of {auc['all']:.3f} without any look at the brain (0.5 is chance), and of "
        f"{auc['storage']:.3f} from the way the file is stored alone."
    )
    return [measured, *_collections_in_words(by_collection, own), MEANING[verdict]]


def _collections_in_words(by_collection: pd.DataFrame, own: dict[str, float]) -> list[str]:
    """Who comes from where, as far as it is known."""
    healthy, both = CLASSES[NO_TUMOUR], _both(by_collection)
    said = []
    if len(by_collection) > 1 and not both.any():
        said.append("No collection holds both: every tumour-free slice comes from another collection than the tumours.")
    elif len(by_collection) > 1:
        said += [_one_sided(str(name), by_collection.loc[name]) for name in by_collection.index[~both]]
    if own[healthy] >= 0.5:
        said.append(
            f"{own[healthy]:.0%} of the tumour-free slices are stored (format, colour, size, JPEG table) as no tumour slice "
            "of this set is: they were not made the same way, and most likely come from another collection."
        )
    return said


def _one_sided(name: str, counts: "pd.Series[int]") -> str:
    total, healthy = int(counts.sum()), int(counts[CLASSES[NO_TUMOUR]])
    return f"Of the {total:,} slices from {name} {'every one' if healthy else 'none'} is tumour-free."


def _type_in_words(sets: pd.DataFrame, chance: float) -> list[str]:
    """How much of a score for type the cues may account for; nothing where they are at chance."""
    score = sets["type_balanced_accuracy"]
    lows = sets["type_balanced_accuracy_low"].fillna(score)
    if not (lows[["storage", "frame"]] > chance).any():
        return []
    return [
        f"Which tumour it is can be told with a balanced accuracy of {score['storage']:.3f} from the way the file is stored, and "
        f"of {score['frame']:.3f} from the border and the share of black (chance {chance:.3f}).",
        "Border and black follow the plane and the size of the head and know nothing of a tumour: what a classifier "
        "has learnt of tumours is what it scores above these.",
    ]
