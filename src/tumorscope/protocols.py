"""Protocols: how to split. One idea: a fold is three index sets and a proof that they share nothing they must not.

`official` is the split as published and carries its leak figures; `clean`, `picture-cv`, `patient-cv` and `external` are
proven apart, and nothing turns the proof off. Validation parts obey the same grouping as test parts.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from tumorscope.errors import DataNotFound, InputRejected, SplitLeak
from tumorscope.labels import CLASSES

FOLDS = 5
VALIDATION_SHARE = 0.2
#: Not a protocol to score under: every distinct picture for training, for a model that is to be used.
ALL = "all"
#: Columns that say who a slice shows: the published id, and ids taken together that are most likely one person's.
PATIENT = ("patient", "patient_group")


@dataclass(frozen=True)
class Fold:
    """One split: rows of the catalogue's table, sorted, int64.

    leak : for `official`, the numbers of test slices that are in training again, by kind; empty where a proof holds
    """

    protocol: str
    index: int
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    leak: dict[str, int] = field(default_factory=dict)


def folds(protocol: str, table: pd.DataFrame, seed: int) -> list[Fold]:
    """The folds of `protocol` over a catalogue's table; the same seed gives the same folds.

    Raises `DataNotFound` where the table lacks what the protocol needs, `SplitLeak` where the proof fails and
    `InputRejected` for a seed outside 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise InputRejected("seed", seed, "from 0 to 4294967295", "Choose another.")
    if protocol == ALL:
        return _all(table)
    try:
        make = PROTOCOLS[protocol]
    except KeyError:
        raise DataNotFound(f"protocol {protocol}: unknown. Choose one of {', '.join([*PROTOCOLS, ALL])}.") from None
    made = make(table, seed)
    for fold in made:
        prove(fold, table)
    return made


def digest(made: Sequence[Fold], table: pd.DataFrame) -> str:
    """16 hex digits over every fold's rows and the labels: what answers made on these folds are bound to."""
    hashed = hashlib.sha256("\n".join(table["label"]).encode())
    for fold in made:
        for rows in (fold.train, fold.validation, fold.test):
            hashed.update(f"|{len(rows)}|".encode() + rows.astype("<i8").tobytes())
    return hashed.hexdigest()[:16]


def prove(fold: Fold, table: pd.DataFrame) -> None:
    """Raise `SplitLeak`, naming the slices, unless no slice and nothing that the protocol keeps apart is on two sides."""
    parts = {"training": fold.train, "validation": fold.validation, "test": fold.test}
    for column in KEPT_APART[fold.protocol]:
        if column == "patient_group" and column not in table:
            continue
        keys = pd.Series(np.arange(len(table)) if column == "slice" else _known(table[column]))
        for one, other in (("training", "validation"), ("training", "test"), ("validation", "test")):
            left, right = keys.iloc[parts[one]].dropna(), keys.iloc[parts[other]].dropna()
            shared = right[right.isin(left)]
            if len(shared):
                slices = ", ".join(table["path"].iloc[shared.index[:5]])
                raise SplitLeak(
                    f"{fold.protocol}, fold {fold.index}: {len(shared)} {other} slices share their {column} with {one}: "
                    f"{slices}{', ...' if len(shared) > 5 else ''}"
                )


def leaks(table: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> dict[str, int]:
    """Test slices that are in training again: by bytes, by pixels, by picture (mirrors too), by patient; and the rest.

    What the table does not know (no picture or patient ids at all) is left out of the answer.
    """
    seen = {}
    for name, column in (
        ("bytes", "sha256"),
        ("pixels", "pixels_sha256"),
        ("picture", "picture"),
        ("patient", "patient"),
    ):
        keys = pd.Series(_known(table[column]))
        if keys.notna().any():
            seen[name] = keys.iloc[test].isin(keys.iloc[train].dropna()).to_numpy() & keys.iloc[test].notna().to_numpy()
    counts = {name: int(mask.sum()) for name, mask in seen.items()}
    again = np.logical_or.reduce([np.zeros(len(test), bool), *seen.values()])
    return {"test": len(test), **counts, "none": int((~again).sum())}


def groups(table: pd.DataFrame, by_patient: bool) -> np.ndarray:
    """Group of every slice: its picture, joined with all else of the same patient where known. int64 (n,).

    Patients of one `patient_group`, which may be one person under two ids, count as one.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    _need_pictures(table)
    columns_of = ("picture", *(PATIENT if by_patient else ()))
    keys = [table[name].to_numpy() for name in columns_of if name in table]
    rows, columns, width = [], [], 0
    for key in keys:
        codes, names = pd.factorize(key)
        known = np.flatnonzero(~pd.isna(key) & (key != ""))
        rows.append(known)
        columns.append(width + codes[known])
        width += len(names)
    row, column = np.concatenate(rows), np.concatenate(columns) + len(table)
    graph = coo_array((np.ones(len(row), bool), (row, column)), shape=(len(table) + width,) * 2)
    return connected_components(graph, directed=False)[1][: len(table)].astype(np.int64)


def one_per_picture(table: pd.DataFrame) -> np.ndarray:
    """Rows of the first slice of every picture; pictures under two labels are left out, since either may be wrong."""
    _need_pictures(table)
    labels = table.groupby("picture")["label"].transform("nunique")
    return np.flatnonzero(~table["picture"].duplicated() & (labels == 1))


def _official(table: pd.DataFrame, seed: int) -> list[Fold]:
    from sklearn.model_selection import train_test_split

    training, test = _published(table)
    labels = table["label"].iloc[training]
    try:
        train, validation = train_test_split(training, test_size=VALIDATION_SHARE, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataNotFound(
            f"official: {len(training)} training slices are too few to hold a fifth out: {error}"
        ) from None
    return [Fold("official", 0, np.sort(train), np.sort(validation), test, leaks(table, training, test))]


def _clean(table: pd.DataFrame, seed: int) -> list[Fold]:
    training, test = _published(table)
    by_picture = groups(table, by_patient=False)
    test = test[~np.isin(by_picture[test], by_picture[training])]
    if not len(test):
        raise DataNotFound("clean: every test slice is a training picture again; nothing is left to score.")
    train, validation = _hold_out(training, table, by_picture, seed)
    return [Fold("clean", 0, train, validation, test)]


def _cross_validation(name: str, by_patient: bool) -> Callable[[pd.DataFrame, int], list[Fold]]:
    def make(table: pd.DataFrame, seed: int) -> list[Fold]:
        rows = one_per_picture(table)
        group = groups(table, by_patient)
        made = []
        for index, (rest, test) in enumerate(_grouped(rows, table, group, seed, "folds")):
            train, validation = _hold_out(rest, table, group, seed)
            made.append(Fold(name, index, train, validation, test))
        return made

    return make


def _published_folds(table: pd.DataFrame, seed: int) -> list[Fold]:
    """The author's five folds of the figshare set over one slice a picture; slices without one are dealt out by group.

    They keep published patient ids apart, but not every pair of ids that may be one person's: the leak says how many.
    """
    rows = one_per_picture(table)
    author = table["fold"].to_numpy()[rows] if "fold" in table else np.full(len(rows), "")
    names = sorted(set(author) - {""})
    if len(names) != FOLDS:
        raise DataNotFound(f"published-cv: {len(names)} published folds are known, {FOLDS} are needed. Use patient-cv.")
    group = _by_published_id(table)
    fold_of = pd.Series(author)
    fold_of[author == ""] = _dealt(rows[author == ""], table, group, names, seed)
    made = []
    for index, name in enumerate(names):
        held = (fold_of == name).to_numpy()
        train, validation = _hold_out(rows[~held], table, group, seed)
        leak = leaks(table.assign(patient=table["patient_group"]), rows[~held], rows[held])
        made.append(Fold("published-cv", index, train, validation, rows[held], leak))
    return made


def _dealt(rows: np.ndarray, table: pd.DataFrame, group: np.ndarray, names: list[str], seed: int) -> np.ndarray:
    """A name for each of `rows`: their groups in random order within class, one name after the other."""
    first = pd.DataFrame({"group": group[rows], "label": table["label"].iloc[rows].to_numpy()}).drop_duplicates("group")
    order = first.sample(frac=1, random_state=seed).sort_values("label", kind="stable")["group"]
    name_of = dict(zip(order, np.resize(names, len(order)), strict=True))
    return np.array([name_of[one] for one in group[rows]], dtype=object)


def _by_published_id(table: pd.DataFrame) -> np.ndarray:
    return groups(table.drop(columns="patient_group", errors="ignore"), by_patient=True)


def _external(table: pd.DataFrame, seed: int) -> list[Fold]:
    """Train on the slices marked "train", test on those of other sources marked "test"; shared pictures and patients go."""
    training, test = _published(table)
    group = groups(table, by_patient=True)
    test = test[~np.isin(group[test], group[training])]
    if not len(test):
        raise DataNotFound(
            "external: every slice of the external set shares its picture or its patient id with the training set."
        )
    train, validation = _hold_out(training, table, group, seed)
    return [Fold("external", 0, train, validation, test)]


def _all(table: pd.DataFrame) -> list[Fold]:
    """Every distinct picture for training and nothing to score: what a model that is to be used is trained on."""
    nothing = np.empty(0, np.int64)
    return [Fold(ALL, 0, one_per_picture(table), nothing, nothing)]


def _grouped(
    rows: np.ndarray, table: pd.DataFrame, group: np.ndarray, seed: int, purpose: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Stratified grouped folds of `rows`: (rest, held out), each sorted; `purpose` is what they are for, in errors."""
    from sklearn.model_selection import StratifiedGroupKFold

    labels = table["label"].iloc[rows].to_numpy()
    count, largest = len(np.unique(group[rows])), max(np.unique(labels, return_counts=True)[1], default=0)
    if min(count, largest) < FOLDS:
        remedy = "Add data or use --protocol official." if table["split"].isin(["test"]).any() else "Add data."
        raise DataNotFound(
            f"{len(rows)} slices of {count} patients or pictures, {largest} of the largest class, are too few for "
            f"{purpose}; at least {FOLDS} of each are needed. {remedy}{_missing(table)}"
        )
    splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    return [(rows[np.sort(rest)], rows[np.sort(held)]) for rest, held in splitter.split(rows, labels, group[rows])]


def _missing(table: pd.DataFrame) -> str:
    """That classes have no slice at all, which is mostly why there are few, and what folders may do about it."""
    missing = ", ".join(name for name in CLASSES if name not in set(table["label"]))
    return missing and (
        f" There is no slice of {missing}: --classes FOLDER=CLASS takes folders of other names, "
        "and those that do not say a tumour's kind, such as yes/, cannot be trained on."
    )


def _hold_out(rows: np.ndarray, table: pd.DataFrame, group: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A fifth of the groups of `rows` as validation."""
    return _grouped(rows, table, group, seed, "training and validation parts")[0]


def _published(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    training, test = (np.flatnonzero(table["split"] == name) for name in ("train", "test"))
    if not len(training) or not len(test):
        raise DataNotFound(
            f"{len(training)} training and {len(test)} test slices: this set has no published split. "
            "Use --protocol patient-cv or picture-cv."
        )
    return training, test


def _need_pictures(table: pd.DataFrame) -> None:
    unknown = int((table["picture"].isna() | (table["picture"] == "")).sum())
    if unknown:
        raise DataNotFound(f"{unknown} slices have no picture id yet; run `tumorscope audit` on the data first.")


def _known(column: pd.Series) -> np.ndarray:
    """Values as objects with unknown ones as None, so that two unknowns never count as the same."""
    values = column.to_numpy(dtype=object).copy()
    values[values == ""] = None
    return values


#: Protocol to the function that makes its folds.
PROTOCOLS: dict[str, Callable[[pd.DataFrame, int], list[Fold]]] = {
    "official": _official,
    "clean": _clean,
    "picture-cv": _cross_validation("picture-cv", by_patient=False),
    "patient-cv": _cross_validation("patient-cv", by_patient=True),
    "published-cv": _published_folds,
    "external": _external,
}
#: What may not be on two sides, by protocol.
KEPT_APART = {
    "official": ("slice",),
    "clean": ("slice", "picture"),
    "picture-cv": ("slice", "picture"),
    "patient-cv": ("slice", "picture", *PATIENT),
    "published-cv": ("slice", "picture", "patient"),
    "external": ("slice", "picture", *PATIENT),
}
