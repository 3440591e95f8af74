"""Pictures and patients of the Kaggle set that ship with the package, so that nobody needs the figshare download for them.

known/nickparvar.csv.gz: a row a file of `masoudnickparvar/brain-tumor-mri-dataset` version 1 with the first 16 digits of its
sha256, its picture, and for slices found in the figshare set (J. Cheng, figshare 1512427, CC BY 4.0) the patient, the patient
group and the author's fold. Made by tools/known_ids.py from an audit; `tumorscope audit` checks it.
"""

from functools import cache
from importlib import resources

import pandas as pd

#: Columns that are filled, and digits of the sha256 that slices are known by.
FILLED = ("picture", "patient", "patient_group", "fold")
DIGITS = 16


@cache
def known() -> pd.DataFrame:
    """What is known, by the first digits of sha256; "" where nothing is."""
    file = resources.files("tumorscope").joinpath("data/known/nickparvar.csv.gz")
    with resources.as_file(file) as path:
        return pd.read_csv(path, dtype=str, keep_default_na=False, index_col="sha256")


def fill(table: pd.DataFrame) -> pd.DataFrame:
    """A catalogue's table with what is known of its slices; what the table says itself stays."""
    found = known().reindex(table["sha256"].str[:DIGITS]).fillna("").set_index(table.index)
    return table.assign(**{name: table[name].where(table[name] != "", found[name]) for name in FILLED})
