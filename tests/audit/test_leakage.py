"""Leakage, copies, label conflicts and confounding on tables made by hand."""

import json

import numpy as np
import pandas as pd
import pytest

from tumorscope.audit.conflicts import conflicts, label_issues
from tumorscope.audit.confounding import confounding
from tumorscope.audit.leakage import copies, leakage, memorisers, patient_counts
from tumorscope.data.catalogue import COLUMNS, Catalogue
from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.labels import CLASSES


def table_of(rows: list[tuple[str, str, str, str, str, str]]) -> pd.DataFrame:
    """From (label, split, file, pixels, picture, patient)."""
    table = pd.DataFrame({name: [""] * len(rows) for name in COLUMNS})
    table["path"] = [f"{i}.png" for i in range(len(rows))]
    table[["label", "split", "sha256", "pixels_sha256", "picture", "patient"]] = rows
    return table.assign(source="set", width=30, height=30, bytes=500, mode="L", format="PNG", quantisation=np.nan)


KINDS = table_of(
    [
        ("glioma", "train", "f0", "x0", "k0", "P0"),
        ("glioma", "train", "f1", "x1", "k1", "P1"),
        ("glioma", "train", "f2", "x2", "k2", ""),
        ("glioma", "test", "f0", "x0", "k0", "P0"),  # the same file
        ("glioma", "test", "g1", "x1", "k1", "P1"),  # the same pixels
        ("glioma", "test", "g2", "y2", "k2", ""),  # mirrored
        ("notumor", "test", "g3", "y3", "k3", "P1"),  # another slice of a training patient
        ("notumor", "test", "g4", "y4", "k4", "P9"),  # a new patient
        ("notumor", "test", "g5", "y5", "k5", ""),  # nobody knows
    ]
)


def test_a_test_slice_counts_under_every_kind_and_once_under_the_first():
    rows = leakage(KINDS).set_index("class")
    glioma, notumor, both = rows.loc["glioma"], rows.loc["notumor"], rows.loc["all"]
    assert glioma[["test", "bytes", "pixels", "picture", "patient"]].tolist() == [3, 1, 2, 3, 2]
    assert glioma[["only_bytes", "only_pixels", "only_picture", "only_patient", "new"]].tolist() == [1, 1, 1, 0, 0]
    assert notumor[["only_patient", "new", "patient_unknown"]].tolist() == [1, 2, 1]
    parts = ["only_bytes", "only_pixels", "only_picture", "only_patient", "new"]
    assert both[parts].tolist() == (glioma[parts] + notumor[parts]).tolist()
    assert both[parts].sum() == both["test"] == 6


def test_without_a_published_split_there_is_nothing_to_leak():
    assert leakage(KINDS.assign(split="")).empty
    assert leakage(KINDS[KINDS["split"] == "train"]).empty


def test_copies_and_patients_are_counted_by_hand():
    total = copies(KINDS).iloc[-1]
    assert total[["slices", "bytes", "pixels", "picture", "patient"]].tolist() == [9, 8, 7, 6, 3]
    expected = {"slices": 6, "patients": 3, "test_patients": 3, "test_patients_in_training": 2}
    assert patient_counts(KINDS) == expected


def test_the_memoriser_has_a_row_a_protocol_or_the_reason_why_not():
    images = np.random.default_rng(0).integers(0, 256, (9, 30, 30), dtype=np.uint8)
    rows = memorisers(KINDS, images)
    reasons = rows[rows["accuracy"].isna()].set_index("protocol")["note"]
    assert "patient-cv" in reasons.index
    assert "too few" in reasons["patient-cv"]
    assert "second set" in reasons["external"]


def test_the_memoriser_knows_mirrored_copies_under_official_and_nothing_under_clean():
    """80 slices of noise, then the mirrors of the first 20 as test slices and 20 new ones, no patient known."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (120, 30, 30), dtype=np.uint8)
    images[80:100] = images[:20, :, ::-1]
    labels = [CLASSES[i % 4] for i in range(120)]
    pictures = [f"k{i if i < 80 or i >= 100 else i - 80}" for i in range(120)]
    rows = [(labels[i], "train" if i < 80 else "test", f"f{i}", f"x{i}", pictures[i], "") for i in range(120)]
    steps: list[tuple[int, int]] = []
    found = memorisers(table_of(rows), images, progress=lambda done, total: steps.append((done, total)))
    scored = found.dropna(subset="accuracy").set_index(["protocol", "mirrors"])
    assert scored.index.tolist() == [
        (protocol, mirrors)
        for protocol in ("official", "clean", "picture-cv", "patient-cv")
        for mirrors in (False, True)
    ]
    assert scored.loc[("official", True), "accuracy"] >= 0.5  # the mirrored half at the least
    assert scored.loc[("official", True), "accuracy"] - scored.loc[("official", False), "accuracy"] >= 0.2
    assert scored["slices"].tolist() == [40, 40, 20, 20, 100, 100, 100, 100]
    assert scored["pictures"].tolist() == [40, 40, 20, 20, 100, 100, 100, 100]
    assert scored["patients"].isna().all()
    assert (scored["accuracy_low"] <= scored["accuracy"]).all()
    assert (scored["accuracy"] <= scored["accuracy_high"]).all()
    notes = found.set_index("protocol")["note"].groupby(level=0).first()
    assert notes["patient-cv"] == "patient-cv: no patient ids are known, so this is the same as picture-cv."
    assert "0 published folds are known" in notes["published-cv"]
    assert "needs a second set" in notes["external"]
    assert steps == [(i, 6) for i in range(1, 7)]


def test_a_picture_under_two_classes_is_listed_with_all_its_slices():
    table = KINDS.copy()
    table.loc[4, "label"] = "meningioma"
    found = conflicts(table)
    assert found["picture"].tolist() == ["k1", "k1"]
    assert found["row"].tolist() == [1, 4]
    assert found["label"].tolist() == ["glioma", "meningioma"]
    assert conflicts(KINDS).empty


@pytest.fixture
def judged(tmp_path):
    """A catalogue of 40 slices, and a run that is sure of the truth but for slice 7, which it calls a meningioma."""
    labels = [CLASSES[i % 4] for i in range(40)]
    table = table_of([(name, "train", f"f{i}", f"x{i}", f"k{i}", "") for i, name in enumerate(labels)])
    catalogue = Catalogue("set", table, pd.DataFrame(columns=["path", "reason"]), tmp_path, tmp_path)
    said = np.array([CLASSES.index(name) for name in labels])
    said[7] = 1
    chances = np.full((40, 4), 0.02)
    chances[np.arange(40), said] = 0.94
    predictions = table[["path", "label", "source", "plane", "patient", "picture"]].assign(part="test", fold=0)
    predictions[[f"p_{name}" for name in CLASSES]] = chances
    run = tmp_path / "run"
    run.mkdir()
    predictions.to_csv(run / "predictions.csv", index=False)
    facts = {"protocol": "patient-cv", "data": {"name": "set", "digest": catalogue.digest}}
    (run / "environment.json").write_text(json.dumps(facts))
    return catalogue, run


def test_the_label_that_a_run_doubts_is_ranked_first_with_what_it_says_instead(judged):
    catalogue, run = judged
    issues = label_issues(catalogue, run)
    assert issues.judged == 40
    assert issues.ranked.loc[0, ["row", "label", "suggested"]].tolist() == [7, "pituitary", "meningioma"]
    assert len(issues.ranked) == 1


def test_a_run_on_other_data_or_no_run_is_refused(judged):
    catalogue, run = judged
    facts = json.loads((run / "environment.json").read_text())
    facts["data"]["digest"] = "other"
    (run / "environment.json").write_text(json.dumps(facts))
    with pytest.raises(RunMismatch, match=r"trained on set \(other\)"):
        label_issues(catalogue, run)
    with pytest.raises(DataNotFound, match="no finished run"):
        label_issues(catalogue, run.parent / "nothing")


def cued(informative: bool) -> tuple[pd.DataFrame, np.ndarray]:
    """200 slices of noise; where `informative`, those without a tumour are wider files."""
    random = np.random.default_rng(0)
    labels = [CLASSES[i % 4] for i in range(200)]
    table = table_of([(name, "", f"f{i}", f"x{i}", f"k{i}", "") for i, name in enumerate(labels)])
    table["width"] = random.integers(200, 300, 200)
    if informative:
        table.loc[table["label"] == "notumor", "width"] += 300
    table["bytes"] = random.integers(5000, 9000, 200)
    return table, random.integers(0, 256, (200, 30, 30), dtype=np.uint8)


def test_a_class_that_shows_in_the_width_of_its_files_is_confounded():
    found = confounding(*cued(informative=True), pd.Series(np.where(np.arange(200) % 4 == 2, "one", "other")))
    sets = found.scores[found.scores["kind"] == "set"].set_index("cues")
    assert sets.loc["all", "presence_auc"] > 0.95
    assert found.verdict == "confounded"
    best = found.scores[found.scores["kind"] == "cue"].iloc[0]["cues"]
    assert best in ("width", "aspect", "bytes_per_pixel")  # all three follow the width


def test_where_nothing_but_anatomy_tells_the_class_nothing_is_found():
    found = confounding(*cued(informative=False), pd.Series(["one"] * 200))
    sets = found.scores[found.scores["kind"] == "set"].set_index("cues")
    assert sets.loc["all", "presence_auc"] < 0.65
    assert found.verdict == "not found"


def test_copies_of_a_picture_count_once_so_that_they_give_nothing_away():
    table, images = cued(informative=False)
    twice = pd.concat([table, table.assign(path=table["path"] + " again")], ignore_index=True)
    found = confounding(twice, np.concatenate([images, images]), pd.Series(["one"] * 400))
    assert found.slices == 200
    assert found.verdict == "not found"


def test_too_little_data_is_said_so():
    table, images = cued(informative=True)
    with pytest.raises(DataNotFound, match="at least 2 classes of 5 each are needed"):
        confounding(table.iloc[:12], images[:12])
