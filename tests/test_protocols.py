"""Every protocol over random tables, against a proof of our own; and leaking folds, which have to be refused."""

import itertools
import warnings
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tumorscope.errors import DataNotFound, InputRejected, SplitLeak
from tumorscope.labels import CLASSES
from tumorscope.protocols import (
    FOLDS,
    KEPT_APART,
    PROTOCOLS,
    Fold,
    digest,
    folds,
    groups,
    leaks,
    one_per_picture,
    prove,
)

pytestmark = pytest.mark.filterwarnings("ignore:The least populated class")
CV = ("picture-cv", "patient-cv")
PARTS = ("train", "validation", "test")
Row = tuple[str, str, str, str]
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def table_of(rows: list[Row]) -> pd.DataFrame:
    """From (label, picture, patient, split); every file and its pixels are its own, every patient is a group."""
    table = pd.DataFrame(rows, columns=["label", "picture", "patient", "split"])
    table["path"] = [f"{i}.png" for i in range(len(rows))]
    table["sha256"] = [f"bytes of {i}" for i in range(len(rows))]
    table["pixels_sha256"] = [f"pixels of {i}" for i in range(len(rows))]
    table["patient_group"] = table["patient"]
    table["fold"] = ""
    return table


@st.composite
def tables(draw: st.DrawFn, smallest: int = 1, largest: int = 70) -> pd.DataFrame:
    """Slices that share pictures, pictures that share patients, some patients unknown, any label anywhere, any split."""
    classes = draw(st.integers(1, len(CLASSES)))
    patient_of = draw(st.lists(st.integers(-10, 25), min_size=1, max_size=50))
    slices = st.tuples(st.integers(0, classes - 1), st.integers(0, len(patient_of) - 1), st.booleans())
    drawn = draw(st.lists(slices, min_size=smallest, max_size=largest))
    return table_of(
        [
            (
                CLASSES[label],
                f"k{picture}",
                f"P{patient_of[picture]}" if patient_of[picture] >= 0 else "",
                "test" if test else "train",
            )
            for label, picture, test in drawn
        ]
    )


def rich_table(seed: int) -> pd.DataFrame:
    """Four classes, one class a patient, 7 to 9 patients a class with 1 to 3 pictures each, a picture once to thrice."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for label in CLASSES:
        for patient in range(random.integers(7, 10)):
            split = "test" if patient == 0 or random.random() < 0.2 else "train"
            name = f"{label}{patient}"
            pictures = random.integers(1, 4)
            unknown = pictures == 1 and random.random() < 0.5
            for picture in range(pictures):
                copies = random.choice((1, 1, 2, 3))
                rows += [(label, f"{name}-{picture}", "" if unknown else name, split)] * copies
    table = table_of([rows[i] for i in random.permutation(len(rows))])
    table["patient_group"] = table["patient"].replace({f"{label}1": f"{label}0" for label in CLASSES})
    number = pd.to_numeric(table["patient"].str.extract(r"(\d+)$", expand=False))
    table["fold"] = (number % FOLDS + 1).astype("Int64").astype(str).where(table["patient"] != "", "")
    return table


RICH = st.integers(0, 10_000).map(rich_table)


def known(table: pd.DataFrame, rows: np.ndarray, column: str) -> set[str]:
    return set(table[column].iloc[rows]) - {""}


def assert_sound(protocol: str, made: list[Fold], table: pd.DataFrame) -> None:
    """No slice, picture or patient that the protocol keeps apart is on two sides; no part is empty."""
    for fold in made:
        sides = [getattr(fold, part) for part in PARTS]
        for rows in sides:
            assert len(rows)
            assert rows.dtype == np.int64
            assert (np.diff(rows) > 0).all()
        for one, other in itertools.combinations(sides, 2):
            assert not set(one) & set(other)
            for column in set(KEPT_APART[protocol]) - {"slice"}:
                assert not known(table, one, column) & known(table, other, column), (protocol, column)


def folds_if_possible(protocol: str, table: pd.DataFrame, seed: int) -> list[Fold]:
    """The folds, or none where the table is refused with a remedy; any other error fails the test."""
    try:
        return folds(protocol, table, seed)
    except DataNotFound:
        return []


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(table=tables() | tables(smallest=40), seed=st.integers(0, 2**32 - 1))
@QUICK
def test_any_table_gives_sound_folds_or_a_reason(protocol, table, seed):
    assert_sound(protocol, folds_if_possible(protocol, table, seed), table)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(table=RICH, seed=st.integers(0, 1000))
@settings(QUICK, max_examples=30)
def test_a_table_with_enough_in_it_gives_sound_folds(protocol, table, seed):
    made = folds(protocol, table, seed)
    assert len(made) == (FOLDS if protocol.endswith("-cv") else 1)
    assert_sound(protocol, made, table)
    if protocol.endswith("-cv"):
        assert_one_slice_of_every_picture_is_tested_once(made, table)
    if protocol in CV:
        assert_even(made, table, groups(table, by_patient=protocol == "patient-cv"))


def assert_one_slice_of_every_picture_is_tested_once(made: list[Fold], table: pd.DataFrame) -> None:
    tested = np.concatenate([fold.test for fold in made])
    assert sorted(table["picture"].iloc[tested]) == sorted(set(table["picture"]))
    for fold in made:
        assert sorted(np.concatenate([fold.train, fold.validation, fold.test])) == sorted(tested)


def assert_even(made: list[Fold], table: pd.DataFrame, group: np.ndarray) -> None:
    """With one class a group, the fullest fold of a class holds at most its largest group more than the emptiest."""
    rows = np.concatenate([fold.test for fold in made])
    for label in CLASSES:
        of_label = rows[table["label"].iloc[rows] == label]
        largest = max(Counter(group[of_label]).values())
        counts = [int(np.isin(fold.test, of_label).sum()) for fold in made]
        assert max(counts) - min(counts) <= largest
        for fold in made:
            held_out, rest = (np.isin(part, of_label).sum() for part in (fold.validation, fold.train))
            assert abs(held_out - (held_out + rest) / FOLDS) <= largest


@given(table=tables(smallest=30), seed=st.integers(0, 1000))
@QUICK
def test_clean_and_external_leave_out_no_more_test_slices_than_they_must(table, seed):
    train = table["split"] == "train"
    for protocol, by_patient in (("clean", False), ("external", True)):
        for fold in folds_if_possible(protocol, table, seed):
            group = groups(table, by_patient)
            np.testing.assert_array_equal(fold.test, np.flatnonzero(~train & ~np.isin(group, group[train])))
            assert sorted(np.concatenate([fold.train, fold.validation])) == list(np.flatnonzero(train))


def plain_table(slices: int = 80) -> pd.DataFrame:
    """Twenty slices a class, each its own picture and patient; the last quarter is the published test part."""
    rows = [(CLASSES[i % 4], f"k{i}", f"P{i}", "test" if i >= slices * 3 // 4 else "train") for i in range(slices)]
    return table_of(rows).assign(fold=[str(i // 4 % FOLDS + 1) for i in range(slices)])


def test_published_folds_are_tested_as_published_and_slices_without_one_are_dealt_out():
    table = plain_table()
    table.loc[:7, ["fold", "patient", "patient_group"]] = ""
    made = folds("published-cv", table, 0)
    for index, fold in enumerate(made):
        assert set(table["fold"].iloc[fold.test]) - {""} == {str(index + 1)}
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(80))
    assert max(np.isin(fold.test, np.arange(8)).sum() for fold in made) == 2


def test_published_folds_say_how_many_slices_of_one_likely_patient_they_part():
    table = plain_table()
    table.loc[4, "patient_group"] = "P0"  # slice 0 is in the first published fold, slice 4 in the second
    assert [fold.leak["patient"] for fold in folds("published-cv", table, 0)] == [1, 1, 0, 0, 0]
    for fold in folds("patient-cv", table, 0):
        assert len({0, 4} & set(fold.test)) in (0, 2)


def test_without_published_folds_the_remedy_is_named():
    with pytest.raises(DataNotFound, match="0 published folds are known, 5 are needed"):
        folds("published-cv", plain_table().assign(fold=""), 0)


def test_a_seed_decides_the_folds_and_nothing_else_does():
    table = plain_table()
    np.random.seed(1)  # noqa: NPY002  # the global state must not matter
    one = folds("patient-cv", table, 3)
    np.random.seed(2)  # noqa: NPY002
    assert digest(one, table) == digest(folds("patient-cv", table, 3), table)
    assert digest(one, table) != digest(folds("patient-cv", table, 4), table)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_does_not_take_is_refused(seed):
    with pytest.raises(InputRejected, match="from 0 to 4294967295"):
        folds("official", plain_table(), seed)


LEAKS = [(protocol, kind) for protocol, kinds in KEPT_APART.items() for kind in kinds]


@pytest.mark.parametrize(("protocol", "kind"), LEAKS)
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(PARTS, 2)))
def test_a_leak_is_refused_with_the_slices_named(protocol, kind, one, other):
    """The mutation check: an untouched fold passes, and the same fold with one planted leak does not."""
    table = plain_table()
    fold = folds(protocol, table, 0)[-1]
    prove(fold, table)
    parts = {part: getattr(fold, part) for part in PARTS}
    leaked = parts[other][1]
    if kind == "slice":
        parts[one] = np.sort(np.append(parts[one], leaked))
    else:
        table.loc[leaked, kind] = table.loc[parts[one][2], kind]
    sides = {"train": "training"}
    with pytest.raises(SplitLeak) as caught:
        prove(Fold(protocol, fold.index, **parts), table)
    assert str(caught.value) == (
        f"{protocol}, fold {fold.index}: 1 {other} slices share their {kind} with {sides.get(one, one)}: {leaked}.png"
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_maker_that_leaks_does_not_get_past_folds(protocol, monkeypatch):
    table = plain_table()
    fold = folds(protocol, table, 0)[0]
    leaking = Fold(protocol, 0, fold.train, fold.validation, np.append(fold.test, fold.train[:7]))
    monkeypatch.setitem(PROTOCOLS, protocol, lambda *_: [leaking])
    with pytest.raises(SplitLeak, match=r"7 test slices share their slice with training: (\d+\.png, ){5}\.\.\."):
        folds(protocol, table, 0)


def test_names_are_right_whatever_the_index_of_the_table():
    table = plain_table()
    fold = folds("clean", table, 0)[0]
    table.loc[fold.test[1], "picture"] = table.loc[fold.train[0], "picture"]
    with pytest.raises(SplitLeak, match=f": {fold.test[1]}.png$"):
        prove(fold, table.set_index(np.arange(len(table)) + 1000))


def test_two_unknown_patients_are_not_the_same_patient():
    table = plain_table().assign(patient="")
    assert len(folds("patient-cv", table, 0)) == FOLDS
    assert len(set(groups(table, by_patient=True))) == len(table)
    missing = table.assign(patient=None)
    np.testing.assert_array_equal(groups(missing, by_patient=True), groups(table, by_patient=True))


def test_groups_join_pictures_and_patients_through_each_other():
    rows = [
        ("glioma", "a", "P1", ""),
        ("glioma", "a", "P2", ""),  # the same picture under two patients joins them
        ("glioma", "b", "P2", ""),
        ("glioma", "c", "", ""),
        ("glioma", "c", "", ""),
        ("glioma", "d", "", ""),
    ]
    assert pd.factorize(groups(table_of(rows), by_patient=True))[0].tolist() == [0, 0, 0, 1, 1, 2]
    assert pd.factorize(groups(table_of(rows), by_patient=False))[0].tolist() == [0, 0, 1, 2, 2, 3]


def test_one_slice_a_picture_and_none_of_a_picture_under_two_labels():
    rows = [
        ("glioma", "a", "", ""),
        ("pituitary", "b", "", ""),
        ("glioma", "a", "", ""),
        ("meningioma", "b", "", ""),
        ("notumor", "c", "", ""),
    ]
    assert one_per_picture(table_of(rows)).tolist() == [0, 4]


def test_official_carries_leak_figures_that_were_worked_out_by_hand():
    table = plain_table()
    test = np.flatnonzero(table["split"] == "test")
    table.loc[test[0], ["sha256", "pixels_sha256", "picture", "patient"]] = table.loc[
        0, ["sha256", "pixels_sha256", "picture", "patient"]
    ]  # the same file
    table.loc[test[1], ["pixels_sha256", "picture"]] = table.loc[1, ["pixels_sha256", "picture"]]  # stored again
    table.loc[test[2], "picture"] = "k2"  # mirrored
    table.loc[test[3], "patient"] = "P3"  # another slice of the patient
    table.loc[test[4:6], "picture"] = "twins within the test part"
    table.loc[test[6], ["picture", "patient"]] = ""
    (fold,) = folds("official", table, 0)
    expected = {"test": 20, "bytes": 1, "pixels": 2, "picture": 3, "patient": 2, "none": 16}
    assert fold.leak == expected
    assert len(fold.test) == 20
    assert all(one.leak == {} for protocol in CV for one in folds(protocol, table.assign(picture=table["path"]), 0))


def test_leaks_leave_out_what_the_table_does_not_know():
    table = plain_table().assign(picture="", patient="", sha256="", pixels_sha256="")
    rows = np.arange(80)
    assert leaks(table, rows[:60], rows[60:]) == {"test": 20, "none": 20}
    assert leaks(plain_table().assign(patient=""), rows[:60], rows[50:]) == {
        "test": 30,
        "bytes": 10,
        "pixels": 10,
        "picture": 10,
        "none": 20,
    }


def test_official_validates_on_a_stratified_fifth_of_training():
    (fold,) = folds("official", plain_table(), 0)
    assert Counter(plain_table()["label"].iloc[fold.validation]) == dict.fromkeys(CLASSES, 3)  # a fifth of 15
    assert sorted([*fold.train, *fold.validation]) == list(range(60))


@pytest.mark.parametrize("protocol", ["official", "clean", "external"])
@pytest.mark.parametrize("split", ["train", "test", ""])
def test_without_a_published_split_the_cross_validations_are_named(protocol, split):
    with pytest.raises(DataNotFound, match="Use --protocol patient-cv or picture-cv"):
        folds(protocol, plain_table().assign(split=split), 0)


@pytest.mark.parametrize("protocol", sorted(set(PROTOCOLS) - {"official"}))
@pytest.mark.parametrize("missing", ["", None])
def test_without_picture_ids_the_audit_is_named(protocol, missing):
    table = plain_table()
    table.loc[3:5, "picture"] = missing
    with pytest.raises(DataNotFound, match="3 slices have no picture id yet; run `tumorscope audit`"):
        folds(protocol, table, 0)
    folds("official", table, 0)


def test_nothing_left_to_test_is_said():
    table = plain_table().assign(picture="one")
    with pytest.raises(DataNotFound, match="nothing is left to score"):
        folds("clean", table, 0)
    with pytest.raises(DataNotFound, match="shares its picture or its patient id with the training set"):
        folds("external", table, 0)


@pytest.mark.parametrize("protocol", CV)
@pytest.mark.parametrize("slices", [0, 1, 4, 16])
def test_too_few_groups_or_slices_of_a_class_for_the_folds(protocol, slices):
    with pytest.raises(DataNotFound, match=f"^{slices} slices of {slices} patients or pictures.* too few for folds"):
        folds(protocol, plain_table().iloc[:slices], 0)


def test_official_is_advised_only_where_there_is_a_split_and_classes_without_a_slice_are_named():
    few = plain_table().assign(split="").iloc[:4]
    for table, split in ((few.assign(label="notumor"), False), (few.assign(label=CLASSES, split="test"), True)):
        with pytest.raises(DataNotFound) as said:
            folds("picture-cv", table, 0)
        assert ("--protocol official" in str(said.value)) is split
        assert ("no slice of glioma, meningioma, pituitary: --classes" in str(said.value)) is not split


def test_too_few_patients_for_a_validation_part():
    table = plain_table().assign(patient=[f"P{i % 5}" for i in range(80)])
    with pytest.raises(DataNotFound, match=r"64 slices of 4 patients .* too few for training and validation parts"):
        folds("patient-cv", table, 0)


@pytest.mark.parametrize(("slices", "says"), [(1, "empty"), (5, "least populated|number of classes")])
def test_a_training_part_too_small_to_hold_a_fifth_out(slices, says):
    table = plain_table()
    table["split"] = np.where(np.arange(80) < slices, "train", "test")
    with pytest.raises(DataNotFound, match=f"official: {slices} training slices are too few.*({says})"):
        folds("official", table, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_class_that_is_absent_is_no_obstacle(protocol):
    table = plain_table()
    table = table[table["label"] != "notumor"].reset_index(drop=True)
    for fold in folds(protocol, table, 0):
        assert set(table["label"].iloc[fold.test]) == set(CLASSES) - {"notumor"}
        assert set(table["label"].iloc[fold.train]) == set(CLASSES) - {"notumor"}


def test_a_class_with_fewer_slices_than_folds_is_tested_where_it_is():
    table = plain_table()
    table.loc[table.index[table["label"] == "glioma"][3:], "label"] = "pituitary"
    with warnings.catch_warnings(record=True):
        made = folds("picture-cv", table, 0)
    assert sum((table["label"].iloc[fold.test] == "glioma").sum() for fold in made) == 3


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(DataNotFound, match="official, clean, picture-cv, patient-cv, published-cv, external"):
        folds("random", plain_table(), 0)


def test_the_digest_changes_with_any_row_part_and_label():
    table = plain_table()
    made = folds("official", table, 0)
    first = digest(made, table)
    moved = Fold(
        "official", 0, made[0].train[1:], np.sort(np.append(made[0].validation, made[0].train[0])), made[0].test
    )
    assert digest([moved], table) != first
    assert digest(made, table.assign(label="glioma")) != first
    assert len(first) == 16
