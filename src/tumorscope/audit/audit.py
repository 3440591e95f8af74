"""The audit of a data set: every look at it before training, in one pass, as plain data."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.audit import memoriser
from tumorscope.audit.conflicts import LabelIssues, conflicts, label_issues
from tumorscope.audit.confounding import Confounding, confounding
from tumorscope.audit.identify import CONFIRM, SMALL, picture_ids, shared_patients
from tumorscope.audit.leakage import copies, leakage, memorisers
from tumorscope.audit.patients import link as link_slices
from tumorscope.audit.patients import patients_from, read_figshare
from tumorscope.audit.pictures import Pictures, group_pictures
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue, save
from tumorscope.errors import DataNotFound

#: Called with the stage, what is done of it, and all of it.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Audit:
    """What was found in one data set of n slices. Rows are rows of `table`.

    table : the catalogue's table with picture and, where known, patient filled
    pictures : groups of twins, see `pictures.Pictures`
    copies, leakage, memoriser : see `leakage.copies`, `leakage.leakage` (empty without a published split), `leakage.memorisers`
    conflicts : see `conflicts.conflicts`
    images : thumbnails, uint8 (n, 128, 128)
    confounding : None where it could not be measured; `notices` says why
    issues : likely label errors by a trained run, where one was given
    links : see `patients.link`, where the figshare set was given
    known : how picture and patient ids that came with the catalogue compare with what was found; "" where none came
    seconds : stage to wall-clock time
    """

    name: str
    table: pd.DataFrame
    pictures: Pictures
    copies: pd.DataFrame
    leakage: pd.DataFrame
    memoriser: pd.DataFrame
    conflicts: pd.DataFrame
    images: NDArray[np.uint8]
    confounding: Confounding | None = None
    issues: LabelIssues | None = None
    links: pd.DataFrame | None = None
    known: str = ""
    notices: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def run_audit(
    catalogue: Catalogue,
    *,
    link: Path | None = None,
    run: Path | None = None,
    patient_pattern: str | None = None,
    patient_column: str | None = None,
    quarter_turns: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Audit:
    """Audit a catalogue. Nothing is written but pixel caches; `adopt` puts pictures and patients into the catalogue.

    link : the figshare set in any form that `patients.read_figshare` takes, for patient ids
    run : a finished run on this data, for likely label errors
    patient_pattern, patient_column : patient ids from file names or from a column, see `patients.patients_from`
    quarter_turns : look for twins turned by 90 degrees and transposed too

    Raises `DataNotFound`, `InputRejected` or `RunMismatch` for a link, pattern or run that cannot be used.
    """
    clock = _Clock(progress)
    with clock("decoding"):
        small, confirm, raw = (
            pixels(catalogue, size, partial(progress, f"Pixels at {size}")) for size in (SMALL, CONFIRM, memoriser.SIZE)
        )
    with clock("pictures"):
        found = group_pictures(small, confirm, catalogue.table["pixels_sha256"].tolist(), quarter_turns=quarter_turns)
    table, links = catalogue.table, None
    if patient_pattern is not None or patient_column is not None:
        table = table.assign(patient=patients_from(table, patient_column, patient_pattern))
    if link is not None:
        with clock("link"):
            links = _link(link, table, small, confirm)
    table = _identified(table, found, links)
    with clock("leakage"):
        again, repeats, doubles = leakage(table), copies(table), conflicts(table)
    with clock("memoriser"):
        floors = memorisers(table, raw, progress=partial(progress, "Memoriser"))
    with clock("confounding"):
        confounded, notices = _confounding(table, confirm, links)
    with clock("label issues"):
        issues = None if run is None else label_issues(replace(catalogue, table=table), run)
    return Audit(
        name=catalogue.name,
        table=table,
        pictures=found,
        copies=repeats,
        leakage=again,
        memoriser=floors,
        conflicts=doubles,
        images=confirm,
        confounding=confounded,
        issues=issues,
        links=links,
        known=compare_known(catalogue.table, table),
        notices=(*catalogue.notices, *notices),
        seconds=clock.seconds,
    )


def adopt(catalogue: Catalogue, audit: Audit) -> Catalogue:
    """The catalogue with the audit's pictures and patients, stored, so that protocols can use them."""
    adopted = replace(catalogue, table=audit.table)
    save(adopted)
    return adopted


def compare_known(before: pd.DataFrame, after: pd.DataFrame) -> str:
    """How picture and patient ids that a catalogue came with compare with those found; "" where it came with none."""
    said = []
    for column in ("picture", "patient"):
        both = (before[column] != "") & (after[column] != "")
        if not both.any():
            continue
        different = _regrouped(before.loc[both, column], after.loc[both, column])
        verdict = f"{different:,} of them are grouped otherwise" if different else "all are grouped the same way"
        said.append(f"{column.capitalize()} ids were known for {int(both.sum()):,} slices; now {verdict}.")
    return " ".join(said)


def _regrouped(before: "pd.Series[str]", after: "pd.Series[str]") -> int:
    """Slices whose companions differ between two groupings, whatever the groups are called."""
    size = before.groupby([before, after]).transform("size")
    alike = (size == before.groupby(before).transform("size")) & (size == after.groupby(after).transform("size"))
    return int((~alike).sum())


def _link(path: Path, table: pd.DataFrame, small: NDArray[np.uint8], confirm: NDArray[np.uint8]) -> pd.DataFrame:
    figshare = read_figshare(path)
    return link_slices(table, small, confirm, figshare, *figshare.pixels(SMALL, CONFIRM))


def _identified(table: pd.DataFrame, found: Pictures, links: pd.DataFrame | None) -> pd.DataFrame:
    """The table with pictures, and with patients by link; a picture's one known patient counts for all of its slices."""
    if links is not None:
        rows = table.index[links["row"]]
        columns = {name: table[name].copy() for name in ("patient", "patient_group", "fold")}
        for name, column in columns.items():
            column.loc[rows] = links[name].astype(str).to_numpy()
        table = table.assign(**columns)
    return shared_patients(table.assign(picture=picture_ids(found.group, table["pixels_sha256"])), found.group)


def _confounding(
    table: pd.DataFrame, images: NDArray[np.uint8], links: pd.DataFrame | None
) -> tuple[Confounding | None, list[str]]:
    """The measurement, or None and the reason."""
    collection = table["source"].copy()
    if links is not None:
        collection = collection + " (not in figshare)"
        collection.iloc[links["row"].to_numpy()] = "figshare"
    try:
        return confounding(table, images, collection), []
    except DataNotFound as error:
        return None, [str(error)]


class _Clock:
    """Times stages and announces them."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        self.progress(stage.capitalize(), 0, 1)
        started = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - started
        self.progress(stage.capitalize(), 1, 1)
