"""Confounding: how well the class can be told from things that are not anatomy.

A small model sees the file and the frame of every slice, never the slice: bytes, storage, size, JPEG table; brightness of
the border, share of black. It is cross-validated as a classifier would be under patient-cv (one slice a picture, a patient on
one side only). What it scores above chance, a classifier of pixels may score without having seen a tumour.

Zech et al., "Variable generalization performance of a deep learning model to detect pneumonia in chest radiographs", PLOS
Medicine 2018: a network told the hospital from the picture, and the disease from the hospital.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from tumorscope import home
from tumorscope.errors import DataNotFound
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.scores import flat, score
from tumorscope.labels import CLASSES, NO_TUMOUR
from tumorscope.protocols import Fold, folds

#: Cue to what it is in words. The first eight are facts of the file, the others of the frame around the anatomy.
CUES = {
    "bytes": "file size",
    "bytes_per_pixel": "bytes per pixel",
    "mode": "grey or colour storage",
    "format": "file format",
    "width": "width",
    "height": "height",
    "aspect": "width over height",
    "quantisation": "JPEG table",
    "border_mean": "brightness of the border",
    "border_sd": "spread of the border",
    "black": "share of pure black",
}
FRAME = ("border_mean", "border_sd", "black")
FILE = tuple(cue for cue in CUES if cue not in FRAME)
METRICS = ("balanced_accuracy", "presence_auc", "type_balanced_accuracy")
#: Presence AUC of the cues, at the lower end of its interval, from which presence counts as confounded, and partly so.
CONFOUNDED, PARTLY = 0.90, 0.60

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
    meaning : what follows for specificity, in plain sentences
    """

    scores: pd.DataFrame
    chance: dict[str, float]
    collections: pd.DataFrame
    own_storage: dict[str, float]
    slices: int
    verdict: str
    meaning: tuple[str, ...]


def confounding(
    table: pd.DataFrame, images: NDArray[np.uint8], collection: "pd.Series[str] | None" = None, seed: int = 0
) -> Confounding:
    """Measure it on a catalogue's table with pictures; `images` is its pixel cache, uint8 (n, s, s).

    collection : where each slice was taken from, where more is known of it than the column `source` says

    Raises `DataNotFound` where there are too few classes, pictures or patients for five folds.
    """
    if table["label"].nunique() < 2:
        raise DataNotFound(
            f"confounding: one class only ({', '.join(table['label'].unique())}); nothing to tell apart."
        )
    facts = cues(table, images)
    split = folds("patient-cv", table, seed)
    scores = pd.DataFrame([*_of_sets(facts, table, split, seed), *_of_cues(facts, table, split)])
    chance = _chance(table)
    by_collection = collections(table["source"] if collection is None else collection, table["label"])
    own = own_storage(table)
    verdict = _verdict(scores.iloc[0], by_collection)
    meaning = in_words(verdict, scores.iloc[0], chance, by_collection, own)
    return Confounding(
        scores, chance, by_collection, own, sum(len(fold.test) for fold in split), verdict, tuple(meaning)
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
    storage = table[list(_STORAGE)].astype(str).agg("|".join, axis=1)
    healthy = table["label"] == CLASSES[NO_TUMOUR]
    shared = storage.isin(set(storage[healthy])) & storage.isin(set(storage[~healthy]))
    return {name: float((~shared[table["label"] == name]).mean()) for name in CLASSES if (table["label"] == name).any()}


def _of_sets(facts: pd.DataFrame, table: pd.DataFrame, split: Sequence[Fold], seed: int) -> Iterator[dict[str, Any]]:
    """All cues, those of the file, those of the frame: a random forest each, with intervals."""
    for name, columns in (("all cues", list(CUES)), ("file", list(FILE)), ("frame", list(FRAME))):
        forest = RandomForestClassifier(
            200, min_samples_leaf=5, class_weight="balanced", n_jobs=home.cores(), random_state=seed
        )
        answers = _predict(forest, facts[columns], table, split)
        row = {"cues": name, "kind": "set", **_metrics(answers)}
        intervals = bootstrap(answers, metrics=METRICS, n=1000)
        row |= {f"{metric}_{end}": value for metric in METRICS for end, value in _ends(intervals[metric])}
        yield row


def _of_cues(facts: pd.DataFrame, table: pd.DataFrame, split: Sequence[Fold]) -> list[dict[str, Any]]:
    """Every cue alone: a decision tree, which has no more to choose than where to cut; best first."""
    leaf = max(5, len(table) // 200)
    rows = []
    for cue in CUES:
        tree = DecisionTreeClassifier(min_samples_leaf=leaf, class_weight="balanced", random_state=0)
        rows.append({"cues": cue, "kind": "cue", **_metrics(_predict(tree, facts[[cue]], table, split))})
    return sorted(rows, key=lambda row: -row["balanced_accuracy"])


def _predict(model: Any, facts: pd.DataFrame, table: pd.DataFrame, split: Sequence[Fold]) -> pd.DataFrame:
    """Out-of-fold predictions of every tested slice; the model has nothing to choose, so validation slices train too."""
    labels = table["label"].to_numpy()
    parts = []
    for fold in split:
        known = np.concatenate([fold.train, fold.validation])
        model.fit(facts.iloc[known], labels[known])
        said = pd.DataFrame(model.predict_proba(facts.iloc[fold.test]), columns=model.classes_)
        said = said.reindex(columns=list(CLASSES), fill_value=0.0).add_prefix("p_")
        told = table.iloc[fold.test][["path", "label", "patient", "picture"]].reset_index(drop=True)
        parts.append(pd.concat([told, said], axis=1))
    return pd.concat(parts, ignore_index=True)


def _metrics(answers: pd.DataFrame) -> dict[str, float]:
    scores = flat(score(answers))
    return {metric: np.nan if scores[metric] is None else float(scores[metric]) for metric in METRICS}  # type: ignore[arg-type]


def _ends(interval: tuple[float, float]) -> zip:  # type: ignore[type-arg]
    return zip(("low", "high"), interval, strict=True)


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


def in_words(
    verdict: str,
    all_cues: "pd.Series[Any]",
    chance: dict[str, float],
    by_collection: pd.DataFrame,
    own: dict[str, float],
) -> list[str]:
    """What the figures mean for specificity and for type, in plain sentences."""
    if verdict == "unknown":
        return [
            "Without both tumour and tumour-free slices, presence (a tumour or none) cannot be scored here.",
            *_type_in_words(all_cues, chance),
        ]
    measured = (
        f"From file and frame alone, without any anatomy, tumour is told from no tumour with an AUC of "
        f"{all_cues['presence_auc']:.3f} (0.5 is chance)."
    )
    return [measured, *_collections_in_words(by_collection, own), MEANING[verdict], *_type_in_words(all_cues, chance)]


#: What each verdict means for the question "a tumour or none".
MEANING = {
    "confounded": (
        "So specificity, sensitivity and presence AUC measured on this set say how well its collections can be told apart. A "
        "model may get them all right without knowing what a tumour looks like, and no split of this set can show it. Score "
        "presence on another set, where one collection holds both tumour and tumour-free slices."
    ),
    "partly": (
        "So a part of any presence score (specificity, sensitivity, AUC) measured on this set may come from how the slices were "
        "made and stored. Check presence on another set, where one collection holds both tumour and tumour-free slices."
    ),
    "not found": (
        "So these cues do not give tumour or none away. That is no proof: cues in the anatomy itself (plane, age, "
        "scanner) are not looked at."
    ),
}


def _collections_in_words(by_collection: pd.DataFrame, own: dict[str, float]) -> list[str]:
    """Who comes from where, as far as it is known."""
    healthy = CLASSES[NO_TUMOUR]
    said = []
    if len(by_collection) > 1 and not _both(by_collection).any():
        said.append("No collection holds both: every tumour-free slice comes from another collection than the tumours.")
    elif len(by_collection) > 1:
        one_sided = by_collection.index[~_both(by_collection)]
        said += [_one_sided(str(name), by_collection.loc[name]) for name in one_sided]
    if own[healthy] >= 0.5:
        said.append(
            f"{own[healthy]:.0%} of the tumour-free slices are stored (format, colour, size, JPEG table) as no tumour slice "
            "of this set is: they were not made the same way, and most likely come from another collection."
        )
    return said


def _one_sided(name: str, counts: "pd.Series[int]") -> str:
    total, healthy = int(counts.sum()), int(counts[CLASSES[NO_TUMOUR]])
    return f"Of the {total:,} slices of {name} {'every one is' if healthy else 'none is'} tumour-free."


def _type_in_words(all_cues: "pd.Series[Any]", chance: dict[str, float]) -> list[str]:
    low, floor = all_cues["type_balanced_accuracy_low"], chance["type_balanced_accuracy"]
    if not low > floor:
        return []
    return [
        f"Which tumour it is can be told from the same cues with a balanced accuracy of {all_cues['type_balanced_accuracy']:.3f} "
        f"(chance {floor:.3f}): read scores for type against that, not against chance."
    ]
