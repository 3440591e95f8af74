"""Pictures and patients put into a catalogue, so that protocols can keep them apart."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tumorscope.audit.pictures import group_pictures
from tumorscope.data.cache import pixels
from tumorscope.data.catalogue import Catalogue, save

#: Resolutions of the first and the second look at pairs of slices.
SMALL, CONFIRM = 32, 128


def with_pictures(
    catalogue: Catalogue, progress: Callable[[str, int, int], None] = lambda stage, done, total: None
) -> Catalogue:
    """The catalogue with a picture for every slice, found where any is missing, and stored."""
    table = catalogue.table
    if (table["picture"] != "").all():
        return catalogue
    small, confirm = (pixels(catalogue, size, partial(progress, f"Pixels at {size}")) for size in (SMALL, CONFIRM))
    progress("Finding copies", 0, 1)
    found = group_pictures(small, confirm, table["pixels_sha256"].tolist())
    named = shared_patients(table.assign(picture=picture_ids(found.group, table["pixels_sha256"])), found.group)
    whole = replace(catalogue, table=named)
    save(whole)
    progress("Finding copies", 1, 1)
    return whole


def picture_ids(group: NDArray[np.int64], pixels_sha256: "pd.Series[str]") -> "pd.Series[str]":
    """A name for every picture that does not depend on the order of slices: 12 digits of its lowest pixel hash."""
    return pixels_sha256.groupby(group).transform("min").str[:12].rename("picture")


def shared_patients(table: pd.DataFrame, group: NDArray[np.int64]) -> pd.DataFrame:
    """The table with a picture's one known patient, patient group and fold given to all of its slices."""
    filled = {}
    for name in ("patient", "patient_group", "fold"):
        known = table[name].where(table[name] != "")
        only = known.groupby(group).transform("first").where(known.groupby(group).transform("nunique") == 1)
        filled[name] = known.fillna(only).fillna("")
    return table.assign(**filled)
