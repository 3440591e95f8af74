"""Further sets that a recipe names for training: found, checked for overlap, degraded if asked, and put into the folds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope.config import External, Recipe
from tumorscope.data.cache import input_file, input_pixels
from tumorscope.data.catalogue import Catalogue, extend, load_catalogue
from tumorscope.data.decode import shrink
from tumorscope.errors import DataNotFound
from tumorscope.files import replacing
from tumorscope.protocols import Fold, groups, leaks


@dataclass(frozen=True)
class Further:
    """Rows of the widened catalogue's table that one entry of `recipe.external` asks for, int64, and what they are for."""

    rows: np.ndarray
    entry: External


def with_external(recipe: Recipe, catalogue: Catalogue) -> tuple[Catalogue, Path, list[Further]]:
    """The catalogue with the recipe's further sets behind it, pictures named over all of them; the pixel file; their rows.

    Without further sets the catalogue as it is, its pixels and no rows.
    Raises `DataNotFound` where a set is not there, or holds no slice of the classes asked for.
    """
    catalogue, further = with_rows(recipe, catalogue)
    file = _degraded(recipe, catalogue, further) if further else input_file(catalogue, recipe.input)
    return catalogue, file, further


def with_rows(recipe: Recipe, catalogue: Catalogue) -> tuple[Catalogue, list[Further]]:
    """What `with_external` gives, without the pixels."""
    from tumorscope.audit.identify import with_pictures

    if not recipe.external:
        return catalogue, []
    catalogue, spans = extended(recipe.external, catalogue)
    catalogue = with_pictures(catalogue)
    further = []
    for span, entry in zip(spans, recipe.external, strict=True):
        rows = np.arange(*span)
        rows = rows[catalogue.table["label"].iloc[rows].isin(entry.classes).to_numpy()]
        if not len(rows):
            raise DataNotFound(f"external.data: {entry.data}: no slice of {' or '.join(entry.classes)} in it.")
        further.append(Further(rows, entry))
    return catalogue, further


def extended(entries: Sequence[External], catalogue: Catalogue) -> tuple[Catalogue, list[tuple[int, int]]]:
    """The catalogue with the sets behind it that the entries name, and of each entry the first row of its set and that behind it.

    Raises `DataNotFound` where a set is not there.
    """
    places = [find_external(entry.data, catalogue.origin) for entry in entries]
    spans: dict[Path, tuple[int, int]] = {}
    for place in places:
        if place not in spans:  # one widening a set, however many entries name it
            start = len(catalogue.table)
            catalogue = extend(catalogue, load_catalogue(place))
            spans[place] = start, len(catalogue.table)
    return catalogue, [spans[place] for place in places]


def find_external(name: str, origin: Path, key: str = "external.data") -> Path:
    """The set at the path `name` that the recipe has under `key`, else beside `origin`; raises `DataNotFound`."""
    for place in (Path(name).expanduser(), origin.parent / name):
        if place.exists():
            return place.resolve()
    raise DataNotFound(f"{key}: {name}: neither a path nor a file or folder beside {origin}. Put it there.")


def widened(fold: Fold, table: pd.DataFrame, further: Sequence[Further]) -> tuple[Fold, list[dict[str, Any]]]:
    """The fold with the further rows in it, without those that share picture or patient with what they must not meet.

    Training rows stay apart from validation and test parts, validation rows from training and test parts.
    Beside it a row an entry: data, role, slices, left_out, and how many of these by picture and by patient, where known.
    Raises `DataNotFound` where nothing of an entry is left.
    """
    if not further:
        return fold, []
    group = groups(table, by_patient=True)
    counts: list[dict[str, Any]] = []
    # Training rows are apart from the validation part that the first role gives.
    for role in ("validation", "train"):
        asked = [one for one in further if one.entry.role == role]
        if not asked:
            continue
        held = np.concatenate([fold.train if role == "validation" else fold.validation, fold.test])
        counts += [_left_out(one, held, table, group) for one in asked]
        rows = _apart(np.unique(np.concatenate([one.rows for one in asked])), held, group)
        if role == "train":
            rows = np.concatenate([fold.train, rows])
        fold = replace(fold, validation=rows) if role == "validation" else replace(fold, train=rows)
    return fold, counts


def _left_out(one: Further, held: np.ndarray, table: pd.DataFrame, group: np.ndarray) -> dict[str, Any]:
    """A row of `widened` for what an entry asks for beside the rows `held`."""
    again, shared = len(one.rows) - len(_apart(one.rows, held, group)), leaks(table, held, one.rows)
    if again == len(one.rows):
        raise DataNotFound(
            f"external.data: {one.entry.data}: all {again} slices for role {one.entry.role} share picture or patient with parts "
            "that they must not meet, and none is left. Take the entry out, or give another set."
        )
    kinds: dict[str, Any] = {kind: shared[kind] for kind in ("picture", "patient") if kind in shared}
    return {"data": one.entry.data, "role": one.entry.role, "slices": len(one.rows), "left_out": again, **kinds}


def _apart(rows: np.ndarray, held: np.ndarray, group: np.ndarray) -> np.ndarray:
    return rows[~np.isin(group[rows], group[held])]


def _degraded(recipe: Recipe, catalogue: Catalogue, further: Sequence[Further]) -> Path:
    """File of all pixels at the recipe's input, further sets shrunk as asked for and enlarged again."""
    size = recipe.input.size
    asked = "|".join(entry.model_dump_json() for entry in recipe.external)
    key = hashlib.sha256(f"{asked}|{recipe.input.model_dump_json()}|{catalogue.digest}".encode()).hexdigest()[:12]
    file = catalogue.folder / f"external-{key}.npy"
    if file.exists():
        return file
    images = np.array(input_pixels(catalogue, recipe.input))
    for one in further:
        if one.entry.size:
            images[one.rows] = [shrink(shrink(image, one.entry.size), size) for image in images[one.rows]]
    with replacing(file) as temporary:
        np.save(temporary, images)
    return file
