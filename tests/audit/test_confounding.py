"""Cues, folds and verdicts of confounding: by hand, and by planting what gives the class away."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier

from tumorscope.audit import confounding as module
from tumorscope.audit.confounding import CUES, METRICS, Confounding, _trial, confounding, cues, own_storage
from tumorscope.errors import DataNotFound
from tumorscope.labels import CLASSES

SIDE = 16


@pytest.fixture(autouse=True)
def small_forest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fifth of the trees, in one thread: enough for cues that are planted, and for noise."""
    monkeypatch.setattr(
        module, "RandomForestClassifier", lambda trees, **options: RandomForestClassifier(20, **options)
    )
    monkeypatch.setattr("tumorscope.home.cores", lambda: 1)


def noise(slices: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Slices of noise, each its own picture and patient, whose class shows in nothing."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(slices)]})
    table["label"] = [CLASSES[i % 4] for i in range(slices)]
    table["picture"] = [f"k{i}" for i in range(slices)]
    table["patient"] = [f"P{i}" for i in range(slices)]
    table["source"], table["format"], table["mode"], table["quantisation"] = "set", "JPEG", "L", 10.0
    table["width"], table["height"] = random.integers(200, 300, (2, slices))
    table["bytes"] = random.integers(5000, 9000, slices)
    return table, random.integers(0, 256, (slices, SIDE, SIDE), np.uint8)


def scores(found: Confounding, kind: str = "set") -> pd.DataFrame:
    return found.scores[found.scores["kind"] == kind].set_index("cues")


def test_cues_by_hand():
    """A frame of value 10 and 0 around white: 12 outermost pixels, of which 4 are black."""
    image = np.full((4, 4), 255, np.uint8)
    image[0], image[-1], image[:, 0], image[:, -1] = 10, 10, 10, 10
    image[0] = 0
    table = pd.DataFrame({"bytes": [600, 50], "width": [20, 10], "height": [10, 10], "mode": ["RGB", "L"]})
    table = table.assign(format=["JPEG", "PNG"], quantisation=[7.5, np.nan])
    found = cues(table, np.stack([image, np.zeros((4, 4), np.uint8)]))
    assert list(found.columns) == list(CUES)
    first, second = found.iloc[0], found.iloc[1]
    assert first[["bytes", "bytes_per_pixel", "aspect", "quantisation"]].tolist() == [600, 3, 2, 7.5]
    assert first["border_mean"] == pytest.approx(80 / 12)
    assert first["border_sd"] == pytest.approx(np.sqrt(800 / 12 - (80 / 12) ** 2))
    assert [first["black"], second["black"]] == [4 / 16, 1]
    assert np.isnan(second["quantisation"])
    assert (found["mode"].tolist(), found["format"].tolist()) == ([1, 0], [0, 1])


def test_the_file_size_that_gives_the_tumour_away_is_found_and_named():
    table, images = noise(160)
    table.loc[table["label"] == "notumor", "bytes"] += 100_000
    found = confounding(table, images)
    assert found.verdict == "confounded"
    assert scores(found).loc["size in bytes", "presence_auc"] > 0.98
    assert scores(found).loc["storage", "presence_auc"] < 0.7
    assert found.scores[found.scores["kind"] == "cue"].iloc[0]["cues"] in ("bytes", "bytes_per_pixel")
    assert found.presence[0].startswith("Tumour is told from no tumour with an AUC of 1.000")
    assert found.presence[-1].startswith("So specificity, sensitivity and presence AUC")


def test_a_border_that_gives_the_type_away_is_said_of_the_type_and_not_of_presence():
    table, images = noise(240)
    for grey, name in ((20, "glioma"), (120, "meningioma"), (220, "pituitary")):
        images[np.ix_(table["label"] == name, [0])] = grey
    healthy = np.flatnonzero(table["label"] == "notumor")
    for k, row in enumerate(healthy):  # tumour-free slices have the borders of all three
        images[row, 0] = (20, 120, 220)[k % 3]
    found = confounding(table, images)
    assert scores(found).loc["frame", "type_balanced_accuracy"] > 0.95
    assert found.verdict == "not found"
    assert len(found.type) == 2
    assert "(chance 0.333)" in found.type[0]


def test_the_interval_holds_the_estimate_and_chance_is_that_of_the_classes_there():
    table, images = noise(120)
    found = confounding(table, images)
    assert found.chance == {
        "balanced_accuracy": 0.25,
        "presence_auc": 0.5,
        "type_balanced_accuracy": pytest.approx(1 / 3),
    }
    for metric in METRICS:
        sets = scores(found)
        assert (sets[f"{metric}_low"] <= sets[metric]).all()
        assert (sets[metric] <= sets[f"{metric}_high"]).all()
    assert found.type == ()


def test_collections_that_hold_one_side_each_confound_presence_whatever_the_cues_say():
    table, images = noise(120)
    where = pd.Series(np.where(table["label"] == "notumor", "healthy people", "patients"))
    found = confounding(table, images, where)
    assert scores(found).loc["all", "presence_auc"] < 0.7
    assert found.verdict == "confounded"
    assert found.collections.loc["healthy people"].tolist() == [0, 0, 30, 0]
    assert found.collections.loc["patients"].tolist() == [30, 30, 0, 30]
    assert "No collection holds both" in found.presence[1]
    mixed = confounding(table, images, where.where(table.index != 0, "healthy people"))
    assert mixed.verdict == "not found"
    assert mixed.presence[1] == "Of the 89 slices from patients none is tumour-free."


@pytest.mark.parametrize("left", [("glioma", "pituitary"), ("notumor", "meningioma")])
def test_two_classes_are_enough_and_without_a_tumour_free_slice_presence_is_unknown(left):
    table, images = noise(120)
    rows = table["label"].isin(left).to_numpy()
    found = confounding(table[rows].reset_index(drop=True), images[rows])
    assert found.chance["balanced_accuracy"] == 0.5
    if "notumor" in left:
        assert found.verdict == "not found"
        assert found.chance["type_balanced_accuracy"] == 1
        assert found.type == ()
    else:
        assert found.verdict == "unknown"
        assert found.presence == (
            "Without both tumour and tumour-free slices, presence (a tumour or none) cannot be scored.",
        )


def test_a_part_of_a_table_gives_what_the_same_slices_give_by_themselves():
    table, images = noise(160)
    table.loc[table["label"] == "notumor", "width"] += 300
    order = np.random.default_rng(1).permutation(160)[:120]
    part = confounding(table.iloc[order], images[order])
    alone = confounding(table.iloc[order].reset_index(drop=True), images[order])
    pd.testing.assert_frame_equal(part.scores, alone.scores)
    assert part.verdict == alone.verdict == "confounded"


def test_a_copy_or_another_slice_of_a_patient_is_never_on_the_other_side():
    table, _ = noise(160)
    table["patient"] = [f"P{i // 8}" for i in range(160)]
    table.loc[100:, "patient"] = ""
    table.loc[[101, 105, 159], "picture"] = ["k1", "k1", "k3"]  # copies of slices whose patient is known
    table.loc[[101, 105, 159], "label"] = [table.loc[1, "label"], table.loc[1, "label"], table.loc[3, "label"]]
    trial = _trial(table, 0)
    assert len(trial.slices) == 157
    assert trial.slices["picture"].is_unique
    tested = np.concatenate([test for _, test in trial.split])
    assert sorted(tested) == list(range(157))
    for train, test in trial.split:
        for column in ("picture", "patient"):
            sides = [set(trial.slices[column].iloc[rows]) - {""} for rows in (train, test)]
            assert not sides[0] & sides[1]


def test_copies_that_nothing_but_themselves_give_away_are_no_cue():
    """Every picture four times with a file size of its own: grouped, the size tells nothing; ungrouped it would tell all."""
    table, images = noise(100)
    table["patient"] = ""
    table["bytes"] = np.random.default_rng(2).permutation(100) * 1000 + 500
    rows = np.repeat(np.arange(100), 4)
    copied = table.iloc[rows].reset_index(drop=True).assign(path=[f"{i}.png" for i in range(400)])
    found = confounding(copied, images[rows])
    assert found.slices == 100
    assert scores(found).loc["size in bytes", "presence_auc_low"] < 0.6
    assert found.verdict == "not found"


def test_storage_of_its_own_by_hand():
    """Of four tumour-free slices three are stored as no tumour is; of two gliomas one is stored as a tumour-free slice."""
    table = pd.DataFrame(
        [
            ("notumor", "PNG", "L", 200, 200, np.nan),
            ("notumor", "JPEG", "L", 512, 512, 10.0),
            ("notumor", "JPEG", "L", 512, 512, 12.0),
            ("notumor", "JPEG", "RGB", 512, 512, 10.0),
            ("glioma", "JPEG", "L", 512, 512, 10.0),
            ("glioma", "PNG", "RGB", 200, 200, np.nan),
            ("pituitary", "PNG", "RGB", 200, 200, np.nan),
        ],
        columns=["label", "format", "mode", "width", "height", "quantisation"],
    )
    assert own_storage(table) == {"glioma": 0.5, "notumor": 0.75, "pituitary": 1.0}


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        (lambda table: table["label"] == "glioma", "1 classes, the smallest with 10"),
        (lambda table: (table["label"] != "glioma") | (table.index < 16), "4 classes, the smallest with 4"),
        (lambda table: table.index < 0, "0 classes, the smallest with 0"),
    ],
)
def test_too_few_classes_or_patients_are_refused_with_their_numbers(keep, says):
    table, images = noise(40)
    rows = np.asarray(keep(table))
    with pytest.raises(DataNotFound, match=f"{says}.*at least 2 classes of 5 each are needed. Add data"):
        confounding(table[rows].reset_index(drop=True), images[rows])
