"""Pictures and patients that ship with the package."""

import pandas as pd

from tumorscope.data.known import DIGITS, fill, known


def of(*sha256: str) -> pd.DataFrame:
    blank = {name: [""] * len(sha256) for name in ("picture", "patient", "patient_group", "fold")}
    return pd.DataFrame({"sha256": list(sha256), **blank})


def test_every_file_of_the_kaggle_set_is_known_once():
    table = known()
    assert len(table) == 6726  # 7,023 files less 297 copies byte for byte
    assert table.index.is_unique
    assert (table.index.str.len() == DIGITS).all()
    assert (table["picture"] != "").all()


def test_patients_and_folds_are_those_of_the_figshare_set():
    table = known()
    named = table[table["patient"] != ""]
    assert named["patient"].nunique() == 233
    assert named["patient_group"].nunique() == 209
    assert set(named["fold"]) == {"1", "2", "3", "4", "5"}
    assert (named.groupby("patient")["fold"].nunique() == 1).all()
    assert (named.groupby("picture")["patient"].nunique() == 1).all()


def test_slices_are_filled_by_hash_and_what_the_table_says_stays():
    row = known().iloc[0]
    table = fill(of(row.name + "0" * (64 - DIGITS), "f" * 64))
    assert table.loc[0, ["picture", "patient", "patient_group", "fold"]].tolist() == row.tolist()
    assert table.loc[1, ["picture", "patient", "patient_group", "fold"]].tolist() == ["", "", "", ""]
    mine = of(row.name + "0" * (64 - DIGITS)).assign(picture="mine")
    assert fill(mine)["picture"].tolist() == ["mine"]
