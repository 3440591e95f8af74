"""Leakage of the published split: which test slices training holds again, by class; and the memoriser under every protocol."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.audit.memoriser import memorise
from tumorscope.errors import DataNotFound
from tumorscope.evaluation.intervals import bootstrap
from tumorscope.evaluation.scores import score
from tumorscope.labels import CLASSES, INDEX
from tumorscope.protocols import PROTOCOLS, Fold, folds

#: Kind of copy to the column that shows it, the most obvious first.
KINDS = {"bytes": "sha256", "pixels": "pixels_sha256", "picture": "picture", "patient": "patient"}
#: What the memoriser is scored by; each with `_low` and `_high`.
METRICS = ("accuracy", "balanced_accuracy")
_COUNTS = ["slices", "pictures", "patients"]
_COLUMNS = ["protocol", "mirrors", *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high")), *_COUNTS, "note"]
Progress = Callable[[int, int], None]


def leakage(table: pd.DataFrame) -> pd.DataFrame:
    """Test slices that training holds again, a row a class and a last row "all"; empty without a published split.

    test : test slices
    bytes, pixels, picture, patient : of these, with the same file, the same decoded pixels, the same picture (mirrored,
        turned and re-encoded copies too) or their patient in training; a slice counts under every kind that it has
    only_bytes, only_pixels, only_picture, only_patient : the same, each slice under the first kind alone
    new : of no kind, so that test = only_bytes + only_pixels + only_picture + only_patient + new
    patient_unknown : of the new ones, without a patient id: some may be of a training patient
    """
    train, test = (np.flatnonzero(table["split"] == part) for part in ("train", "test"))
    if not len(train) or not len(test):
        return pd.DataFrame()
    label = table["label"].to_numpy()[test]
    seen = {kind: _shared(table[column], train, test) for kind, column in KINDS.items()}
    nameless = (table["patient"] == "").to_numpy()[test]
    of_class = {name: label == name for name in CLASSES if (label == name).any()}
    return pd.DataFrame(
        [_count(name, rows, seen, nameless) for name, rows in (of_class | {"all": np.ones(len(test), bool)}).items()]
    )


def copies(table: pd.DataFrame) -> pd.DataFrame:
    """How often slices repeat within each split and class: slices, distinct files and pixels, pictures, patients known."""

    def count(part: pd.DataFrame) -> dict[str, int]:
        distinct = {name: part[column].replace("", np.nan).nunique() for name, column in KINDS.items()}
        return {"slices": len(part), **distinct}

    rows = [
        {"split": split, "class": name, **count(part)}
        for (split, name), part in table.groupby(["split", "label"], sort=True)
    ]
    return pd.DataFrame([*rows, {"split": "all", "class": "all", **count(table)}])


def patient_counts(table: pd.DataFrame) -> dict[str, int]:
    """Slices with a patient id, patients, patients with test slices, and how many of those have training slices too."""
    known = table[table["patient"] != ""]
    train, test = (set(known.loc[known["split"] == part, "patient"]) for part in ("train", "test"))
    counts = {"slices": len(known), "patients": known["patient"].nunique()}
    return counts | {"test_patients": len(test), "test_patients_in_training": len(test & train)}


def memorisers(
    table: pd.DataFrame, images: NDArray[np.uint8], seeds: Sequence[int] = (0,), progress: Progress | None = None
) -> pd.DataFrame:
    """The memoriser under every protocol that the table allows, with and without mirrors, a row each.

    images : the pixel cache at `memoriser.SIZE`, uint8 (n, s, s)

    Columns: protocol, mirrors, accuracy and balanced_accuracy over the pooled test slices of all seeds, each with
    <score>_low and <score>_high (95 %, bootstrapped by patient or picture), slices, pictures, patients (where known) and
    note. A protocol that the table does not allow has one row without scores and the reason as its note.
    """
    images, labels = np.asarray(images), np.asarray(table["label"].map(INDEX), np.int64)
    rows = []
    for done, protocol in enumerate(PROTOCOLS, start=1):
        try:
            made = [fold for seed in seeds for fold in allowed(protocol, table, seed)]
        except DataNotFound as error:
            rows.append({"protocol": protocol, "mirrors": False, "note": str(error)})
        else:
            about = {"protocol": protocol, "note": _note(protocol, table)}
            rows += [{**about, "mirrors": m, **_scored(table, images, labels, made, m)} for m in (False, True)]
        if progress:
            progress(done, len(PROTOCOLS))
    return pd.DataFrame(rows, columns=_COLUMNS).astype(dict.fromkeys(_COUNTS, "Int64"))


def _note(protocol: str, table: pd.DataFrame) -> str:
    if protocol == "patient-cv" and (table["patient"] == "").all():
        return "patient-cv: no patient ids are known, so this is the same as picture-cv."
    return ""


def allowed(protocol: str, table: pd.DataFrame, seed: int) -> list[Fold]:
    """Folds of the protocol; raises `DataNotFound` where the table does not allow it.

    `external` needs test slices from another source than the training slices; on one set alone it would be `clean`
    under a name that promises more.
    """
    if protocol == "external":
        sources = [set(table.loc[table["split"] == part, "source"]) for part in ("train", "test")]
        if sources[0] & sources[1] or not all(sources):
            raise DataNotFound("external: needs a second set; train on one and test on the other.")
    return folds(protocol, table, seed)


def _shared(column: "pd.Series[str]", train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which test slices have a value, known, that a training slice has."""
    there = column.iloc[test]
    return (there.isin(set(column.iloc[train])) & (there != "")).to_numpy()


def _count(
    name: str, rows: NDArray[np.bool_], seen: dict[str, NDArray[np.bool_]], nameless: NDArray[np.bool_]
) -> dict[str, Any]:
    counts = {kind: int(mask[rows].sum()) for kind, mask in seen.items()}
    first, rest = {}, rows.copy()
    for kind, mask in seen.items():
        first[f"only_{kind}"] = int((rest & mask).sum())
        rest &= ~mask
    left = {"new": int(rest.sum()), "patient_unknown": int((rest & nameless).sum())}
    return {"class": name, "test": int(rows.sum()), **counts, **first, **left}


def _scored(
    table: pd.DataFrame, images: NDArray[np.uint8], labels: NDArray[np.int64], made: Sequence[Fold], mirrors: bool
) -> dict[str, Any]:
    answers = pd.concat([memorise(images, labels, fold, mirrors) for fold in made], ignore_index=True)
    answers = answers[answers["part"] == "test"]
    facts = table.iloc[answers["row"]][["path", "label", "patient", "picture"]]
    answers = pd.concat([facts.reset_index(drop=True), answers.reset_index(drop=True)], axis=1)
    scores = score(answers)
    row = {name: scores[name] for name in (*METRICS, "pictures", "patients")}
    for name, (low, high) in bootstrap(answers, metrics=METRICS, n=1000).items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row | {"slices": answers["path"].nunique()}
