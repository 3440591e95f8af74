"""Labels that a run doubts, on predictions written by hand: order, what is judged, and what the list rests on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tumorscope.audit.conflicts import conflicts, label_issues
from tumorscope.data.catalogue import COLUMNS, Catalogue
from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.labels import CLASSES

SLICES = 48
LABELS = [CLASSES[i % 4] for i in range(SLICES)]
#: Slice to the probability left for its label by a run that answers another class. The last is no confident doubt: a
#: pituitary tumour is said with 0.8, less than the (11 x 0.9 + 0.05) / 12 = 0.83 that those labelled so have on average.
DOUBTED = {9: 0.01, 22: 0.12, 31: 0.05, 38: 0.2}


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    table = pd.DataFrame({name: [""] * SLICES for name in COLUMNS})
    table["path"], table["label"] = [f"{i}.png" for i in range(SLICES)], LABELS
    table["sha256"], table["picture"] = [f"f{i}" for i in range(SLICES)], [f"k{i}" for i in range(SLICES)]
    return Catalogue("set", table, pd.DataFrame(columns=["path", "reason"]), tmp_path, tmp_path)


def chances_of(slices: list[int]) -> np.ndarray:
    """0.9 for the label; of the doubted ones the next class gets what the label does not."""
    chances = np.zeros((len(slices), 4))
    for row, i in enumerate(slices):
        label, left = i % 4, DOUBTED.get(i)
        chances[row] = 0.1 / 3 if left is None else 0
        chances[row, label] = 0.9 if left is None else left
        if left is not None:
            chances[row, (label + 1) % 4] = 1 - left
    return chances


def write_run(catalogue: Catalogue, slices: list[int], part: list[str], protocol: str, digest: str = "") -> Path:
    run = catalogue.folder / "run"
    run.mkdir(exist_ok=True)
    table = catalogue.table.iloc[slices][["path", "label", "source", "plane", "patient", "picture"]]
    table = table.assign(part=part, fold=0)
    table[[f"p_{name}" for name in CLASSES]] = chances_of(slices)
    table.to_csv(run / "predictions.csv", index=False)
    facts = {"protocol": protocol, "data": {"name": "set", "digest": digest or catalogue.digest}}
    (run / "environment.json").write_text(json.dumps(facts))
    return run


def test_planted_wrong_labels_are_ranked_by_how_little_is_left_for_them(catalogue):
    issues = label_issues(catalogue, write_run(catalogue, list(range(SLICES)), ["test"] * SLICES, "patient-cv"))
    assert issues.ranked["row"].tolist() == [9, 31, 22]
    assert issues.ranked["path"].tolist() == ["9.png", "31.png", "22.png"]
    assert (
        issues.ranked["label"].tolist() == [LABELS[9], LABELS[31], LABELS[22]] == ["meningioma", "pituitary", "notumor"]
    )
    assert issues.ranked["suggested"].tolist() == ["notumor", "glioma", "pituitary"]
    assert issues.ranked["p_label"].tolist() == pytest.approx([0.01, 0.05, 0.12])
    assert issues.ranked["p_suggested"].tolist() == pytest.approx([0.99, 0.95, 0.88])
    # Normalised margin: (p of the label - p of the best other + 1) / 2.
    assert issues.ranked["quality"].tolist() == pytest.approx([0.01, 0.05, 0.12])
    assert (issues.run, issues.protocol, issues.judged) == ("run", "patient-cv", SLICES)
    assert issues.note.startswith("All 48 slices were judged by a model that had not seen them")


def test_rows_are_those_of_the_table_whatever_the_order_of_the_predictions(catalogue):
    order = list(np.random.default_rng(0).permutation(SLICES))
    issues = label_issues(catalogue, write_run(catalogue, order, ["test"] * SLICES, "picture-cv"))
    assert issues.ranked["row"].tolist() == [9, 31, 22]


def test_of_a_cross_validated_run_the_validation_answers_are_not_judged(catalogue):
    """Every slice is tested once and validates another fold, with an answer that would halve the doubt."""
    run = write_run(catalogue, list(range(SLICES)), ["test"] * SLICES, "patient-cv")
    said = pd.read_csv(run / "predictions.csv")
    again = said.assign(part="validation", fold=1)
    again[[f"p_{name}" for name in CLASSES]] = np.eye(4)[[i % 4 for i in range(SLICES)]]
    pd.concat([again, said]).to_csv(run / "predictions.csv", index=False)
    issues = label_issues(catalogue, run)
    assert issues.judged == SLICES
    assert issues.ranked["quality"].tolist() == pytest.approx([0.01, 0.05, 0.12])
    assert set(issues.ranked["part"]) == {"test"}


def test_of_another_run_validation_and_test_slices_are_judged_and_the_note_says_what_that_misses(catalogue):
    judged = list(range(1, SLICES))
    part = ["validation" if i < 16 else "test" for i in judged]
    issues = label_issues(catalogue, write_run(catalogue, judged, part, "official"))
    assert issues.ranked[["row", "part"]].to_numpy().tolist() == [
        [9, "validation"],
        [31, "test"],
        [22, "test"],
    ]
    assert issues.judged == SLICES - 1
    assert issues.note.startswith("47 slices, those of the validation and test parts")


def test_a_run_that_doubts_nothing_gives_an_empty_list(catalogue, monkeypatch):
    monkeypatch.setitem(globals(), "DOUBTED", {})
    issues = label_issues(catalogue, write_run(catalogue, list(range(SLICES)), ["test"] * SLICES, "patient-cv"))
    assert issues.ranked.empty
    assert {"row", "path", "label", "suggested", "quality"} <= set(issues.ranked.columns)


def test_a_class_that_no_slice_has_is_no_obstacle(catalogue):
    three = [i for i in range(SLICES) if i % 4 != 3]
    issues = label_issues(catalogue, write_run(catalogue, three, ["test"] * len(three), "patient-cv"))
    assert issues.ranked["row"].tolist()[0] == 9


@pytest.mark.parametrize("missing", ["predictions.csv", "environment.json"])
def test_an_unfinished_run_is_refused(catalogue, missing):
    run = write_run(catalogue, list(range(SLICES)), ["test"] * SLICES, "patient-cv")
    (run / missing).unlink()
    with pytest.raises(DataNotFound, match="no finished run"):
        label_issues(catalogue, run)


def test_a_run_on_other_data_is_refused_with_both_digests(catalogue):
    run = write_run(catalogue, list(range(SLICES)), ["test"] * SLICES, "patient-cv", digest="0123456789abcdef")
    with pytest.raises(RunMismatch, match=rf"set \(0123456789abcdef\), other bytes than set \({catalogue.digest}\)"):
        label_issues(catalogue, run)


def test_slices_without_a_picture_are_never_in_conflict_with_each_other(catalogue):
    table = catalogue.table.assign(picture="")
    assert conflicts(table).empty
    table.loc[[4, 30, 5], "picture"] = "k"
    assert conflicts(table)[["picture", "row", "label"]].to_numpy().tolist() == [
        ["k", 4, "glioma"],
        ["k", 5, "meningioma"],
        ["k", 30, "notumor"],
    ]
