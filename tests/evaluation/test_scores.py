"""Scores against values worked out by hand and against plain definitions on random tables."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score, roc_auc_score

from tumorscope.errors import InputRejected
from tumorscope.evaluation.scores import (
    calibration_bins,
    calibration_error,
    flat,
    score,
    set_coverage,
    summarise,
    worst_mistakes,
)
from tumorscope.labels import CLASSES

# label, p_glioma, p_meningioma, p_notumor, p_pituitary
EIGHT = [
    ("glioma", 0.7, 0.1, 0.1, 0.1),  # right
    ("glioma", 0.4, 0.3, 0.2, 0.1),  # right
    ("glioma", 0.3, 0.5, 0.1, 0.1),  # called meningioma
    ("meningioma", 0.1, 0.6, 0.2, 0.1),  # right
    ("meningioma", 0.5, 0.2, 0.2, 0.1),  # called glioma
    ("notumor", 0.1, 0.1, 0.7, 0.1),  # right
    ("notumor", 0.5, 0.1, 0.3, 0.1),  # called glioma
    ("pituitary", 0.1, 0.1, 0.1, 0.7),  # right
]


def table(rows: list[tuple], **columns: list) -> pd.DataFrame:
    names = ["label", *(f"p_{name}" for name in CLASSES)]
    return pd.DataFrame(rows, columns=names).assign(path=[f"{i}.png" for i in range(len(rows))], **columns)


def test_overall_scores_by_hand():
    scores = score(table(EIGHT))
    assert scores["n"] == 8
    assert scores["confusion"] == [[2, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]
    # Recalls 2/3, 1/2, 1/2, 1 and precisions 2/4, 1/2, 1/1, 1/1 with supports 3, 2, 2, 1;
    # F1 = 2 hits / (support + said) = 4/7, 2/4, 2/3, 1.
    assert scores["accuracy"] == pytest.approx(5 / 8)
    assert scores["balanced_accuracy"] == pytest.approx(2 / 3)
    assert scores["recall_weighted"] == pytest.approx(5 / 8)
    assert scores["recall_macro"] == pytest.approx(2 / 3)
    assert scores["precision_weighted"] == pytest.approx((3 * 0.5 + 2 * 0.5 + 2 + 1) / 8)
    assert scores["precision_macro"] == pytest.approx(3 / 4)
    assert scores["f1_weighted"] == pytest.approx((3 * 4 / 7 + 2 / 2 + 2 * 2 / 3 + 1) / 8)
    assert scores["f1_macro"] == pytest.approx((4 / 7 + 1 / 2 + 2 / 3 + 1) / 4)


def test_scores_by_class_by_hand():
    by_class = score(table(EIGHT))["per_class"]
    # Glioma: of the other five, two are called glioma. Its probabilities .7, .4, .3 against .1, .5, .1, .5, .1 win
    # 5 + 3 + 3 of 15 pairs.
    assert by_class["glioma"] == {
        "precision": pytest.approx(1 / 2),
        "recall": pytest.approx(2 / 3),
        "specificity": pytest.approx(3 / 5),
        "f1": pytest.approx(4 / 7),
        "auc": pytest.approx(11 / 15),
        "support": 3,
    }
    # Meningioma: .6 and .2 against .1, .3, .5, .1, .1, .1 win 6 + 4 of 12 pairs.
    assert by_class["meningioma"]["auc"] == pytest.approx(10 / 12)
    assert by_class["meningioma"]["specificity"] == pytest.approx(5 / 6)
    assert by_class["pituitary"]["auc"] == 1


def test_presence_and_type_by_hand():
    scores = score(table(EIGHT))
    # No tumour is called notumor; one of the two notumor slices is. Both have a higher p_notumor than any tumour.
    assert scores["presence"] == {"auc": 1, "sensitivity": 1, "specificity": 0.5, "n_tumour": 6, "n_notumor": 2}
    # Six tumours: gliomas 2 of 3, meningiomas 1 of 2, pituitary 1 of 1.
    assert scores["type"] == {
        "accuracy": pytest.approx(4 / 6),
        "balanced_accuracy": pytest.approx((2 / 3 + 1 / 2 + 1) / 3),
        "n_tumour": 6,
    }


def test_type_is_asked_of_tumours_that_were_missed():
    # Called notumor, yet glioma is the likeliest tumour: wrong overall, right as to type, also when notumor is certain.
    scores = score(table([("glioma", 0.3, 0.1, 0.6, 0.0), ("glioma", 0.0, 0.0, 1.0, 0.0)]))
    assert scores["accuracy"] == 0
    assert scores["type"]["accuracy"] == 1


def test_calibration_error_by_hand():
    # Probabilities of the answers: .7 three times, all right (gap .3); .4 right (.6); .5 three times, all wrong (.5);
    # .6 right (.4). Each value has a bin of its own.
    assert score(table(EIGHT))["ece"] == pytest.approx((3 * 0.3 + 0.6 + 3 * 0.5 + 0.4) / 8)


def test_calibration_bins_are_closed_above():
    count, accuracy, confidence = calibration_bins(np.array([0.5, 0.51, 1.0]), np.array([True, False, True]), bins=2)
    assert count.tolist() == [1, 2]
    assert accuracy.tolist() == [1, 0.5]
    assert confidence.tolist() == [0.5, pytest.approx(0.755)]
    # (1 * |1 - .5| + 2 * |.5 - .755|) / 3
    assert calibration_error(np.array([0.5, 0.51, 1.0]), np.array([True, False, True]), bins=2) == pytest.approx(
        1.01 / 3
    )


def test_absent_classes_are_left_out_of_the_averages():
    # Glioma and notumor alone, as in an external set; the second glioma is called pituitary.
    rows = [
        ("glioma", 0.7, 0.1, 0.1, 0.1),
        ("glioma", 0.2, 0.1, 0.1, 0.6),
        ("notumor", 0.1, 0.1, 0.7, 0.1),
        ("notumor", 0.1, 0.1, 0.7, 0.1),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(table(rows))
    assert scores["accuracy"] == scores["balanced_accuracy"] == 0.75  # recalls 1/2 and 1
    assert scores["precision_macro"] == 1
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    missing = {"precision": None, "recall": None, "f1": None, "auc": None, "support": 0}
    assert scores["per_class"]["pituitary"] == {**missing, "specificity": 0.75}
    assert scores["absent"] == {"classes": ["meningioma", "pituitary"], "said_share": 0.25}


def test_one_class_alone_has_no_auc_and_no_presence_score_of_the_other_side():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(table([("notumor", 0.1, 0.1, 0.7, 0.1), ("notumor", 0.6, 0.2, 0.1, 0.1)]))
    assert scores["presence"] == {"auc": None, "sensitivity": None, "specificity": 0.5, "n_tumour": 0, "n_notumor": 2}
    assert scores["type"] == {"accuracy": None, "balanced_accuracy": None, "n_tumour": 0}
    assert scores["per_class"]["notumor"]["auc"] is None
    assert scores["per_class"]["notumor"]["specificity"] is None


def test_a_class_never_said_has_precision_zero_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(table([("glioma", 0.7, 0.1, 0.1, 0.1), ("pituitary", 0.7, 0.1, 0.1, 0.1)]))
    assert scores["per_class"]["pituitary"]["precision"] == 0
    assert scores["precision_macro"] == pytest.approx(0.25)


def test_pictures_and_patients_are_counted_where_known():
    scores = score(table(EIGHT, patient=["P1", "P1", "P2", "", "", "", "", ""], picture=[""] * 8))
    assert (scores["n"], scores["pictures"], scores["patients"]) == (8, None, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="p_glioma"), "p_glioma"),
        (lambda t: t.head(0), "0 rows"),
        (lambda t: t.assign(label="astrocytoma"), "astrocytoma"),
        (lambda t: t.assign(p_glioma=0.9), "row 0"),
        (lambda t: t.assign(p_glioma=float("nan")), "row 0"),
        (lambda t: t.assign(p_glioma=-0.1, p_notumor=0.9), "row 0"),
    ],
)
def test_a_wrong_table_is_refused(change, words):
    with pytest.raises(InputRejected, match=words):
        score(change(table(EIGHT)))


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Tables with every mix of classes and many tied probabilities."""
    label = st.sampled_from(CLASSES)
    weights = st.tuples(*[st.integers(0, 3)] * 4).filter(any)
    rows = draw(st.lists(st.tuples(label, weights), min_size=1, max_size=30))
    return table([(name, *(w / sum(parts) for w in parts)) for name, parts in rows])


@settings(max_examples=60, deadline=None)
@given(tables())
def test_agrees_with_scikit_learn(predictions):
    scores = score(predictions)
    truth = predictions["label"].map(CLASSES.index).to_numpy()
    probability = predictions[[f"p_{name}" for name in CLASSES]].to_numpy()
    said = probability.argmax(axis=1)
    present = sorted(set(truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, said))
    for average in ("weighted", "macro"):
        kind = {"labels": present, "average": average, "zero_division": 0}
        assert scores[f"precision_{average}"] == pytest.approx(precision_score(truth, said, **kind))
        assert scores[f"f1_{average}"] == pytest.approx(f1_score(truth, said, **kind))
    tumour = truth != 2
    if tumour.any() and not tumour.all():
        assert scores["presence"]["auc"] == pytest.approx(roc_auc_score(tumour, 1 - probability[:, 2]))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_holds_what_must_hold(predictions):
    scores = score(predictions)
    json.dumps(scores, allow_nan=False)
    assert np.sum(scores["confusion"]) == scores["n"]
    assert np.trace(scores["confusion"]) == pytest.approx(scores["accuracy"] * scores["n"])
    assert scores["recall_weighted"] == pytest.approx(scores["accuracy"])
    assert scores["recall_macro"] == pytest.approx(scores["balanced_accuracy"])
    assert all(value is None or 0 <= value <= 1 for value in flat(scores).values())
    shuffled = flat(score(predictions.sample(frac=1, random_state=0)))
    assert shuffled == pytest.approx(flat(scores))


def test_summary_over_seeds():
    runs = [score(table(EIGHT[:k])) for k in (8, 7, 6)]  # accuracies 5/8, 4/7, 4/6
    summary = summarise(runs)
    values = np.array([5 / 8, 4 / 7, 4 / 6])
    assert summary["accuracy"] == {
        "mean": pytest.approx(values.mean()),
        "sd": pytest.approx(values.std(ddof=1)),
        "n": 3,
    }
    assert summary["auc_pituitary"] == {"mean": 1, "sd": None, "n": 1}  # only the first has a pituitary tumour
    assert {"f1_weighted", "auc_glioma", "presence_auc", "type_accuracy", "ece"} <= summary.keys()
    assert not {"n", "n_tumour", "presence_n_tumour", "patients"} & summary.keys()


def test_coverage_of_sets_by_class_and_source_by_hand():
    """Gliomas: 2 of 3 inside, one of them of no known source; in A 1 of 1 glioma and 1 of 2 others, in B 0 of 1."""
    label = pd.Series(["glioma", "glioma", "glioma", "notumor", "notumor"])
    source = pd.Series(["A", None, "B", "A", "A"])
    found = set_coverage(np.array([True, True, False, True, False]), label, source)
    assert found == {
        "by class": {
            "glioma": {"n": 3, "coverage": pytest.approx(2 / 3)},
            "notumor": {"n": 2, "coverage": 0.5},
        },
        "by source": {
            "A": {
                **{"n": 3, "coverage": pytest.approx(2 / 3)},
                "by class": {"glioma": {"n": 1, "coverage": 1}, "notumor": {"n": 2, "coverage": 0.5}},
            },
            "B": {"n": 1, "coverage": 0, "by class": {"glioma": {"n": 1, "coverage": 0}}},
        },
    }


def test_worst_mistakes_come_surest_first():
    worst = worst_mistakes(table(EIGHT), count=2)
    assert worst[["label", "predicted"]].to_numpy().tolist() == [["glioma", "meningioma"], ["meningioma", "glioma"]]
    assert worst["probability"].tolist() == [0.5, 0.5]
    assert len(worst_mistakes(table(EIGHT))) == 3


def test_presence_is_scored_at_the_threshold_that_is_best_on_validation_slices():
    """Validation: tumours at 0.9 and 0.6, free at 0.5 and 0.2: best is 0.55. Test at it: one of two found, one of one spared."""
    from tumorscope.evaluation.evaluate import presence_at_threshold

    rows = [
        *(("validation", "glioma", 0.9), ("validation", "pituitary", 0.6)),
        *(("validation", "notumor", 0.5), ("validation", "notumor", 0.2)),
        *(("test", "glioma", 0.7), ("test", "glioma", 0.54), ("test", "notumor", 0.1)),
    ]
    predictions = pd.DataFrame(
        [
            {"part": part, "label": label, "p_notumor": 1 - tumour, "fold": 0, "path": f"{tumour}.png"}
            for part, label, tumour in rows
        ]
    )
    found = presence_at_threshold(predictions)
    assert found["threshold"] == pytest.approx(0.55)
    assert (found["sensitivity"], found["specificity"]) == (0.5, 1.0)
    unknown = presence_at_threshold(predictions[predictions["label"] != "notumor"])
    assert (unknown["threshold"], unknown["sensitivity"], unknown["specificity"]) == (None, None, None)
    assert np.isnan(unknown["intervals"]["sensitivity"]).all()
    # A second network that says the same on another scale has a threshold of its own, and changes nothing.
    lower = predictions.assign(fold=1, p_notumor=1 - (1 - predictions["p_notumor"]) / 10)
    both = presence_at_threshold(pd.concat([predictions, lower], ignore_index=True))
    assert both["threshold"] == pytest.approx((0.55 + 0.055) / 2)
    assert (both["sensitivity"], both["specificity"]) == (0.5, 1.0)


def test_intervals_at_the_threshold_are_over_patients_and_pool_the_seeds(tmp_path):
    """Two test patients, ten tumours each: all of one found, none of the other. Drawn as slices, 0.5 would lie in 0.3 to 0.7.

    A second seed finds all: of the mean over seeds 0.75 the patients have 1 and 0.5.
    """
    from tumorscope.evaluation.evaluate import pooled_threshold_intervals, presence_at_threshold

    held = [("validation", "glioma", 0.6, "v"), ("validation", "notumor", 0.4, "w")]
    runs = []
    for seed, missed in enumerate((0.3, 0.8)):
        tested = [("test", "glioma", chance, who) for chance, who in ((0.9, "a"), (missed, "b")) for _ in range(10)]
        free = [("test", "notumor", 0.1, who) for who in "ab"]
        rows = [
            {"part": part, "label": label, "p_notumor": 1 - tumour, "fold": 0, "patient": who, "path": f"{n}.png"}
            for n, (part, label, tumour, who) in enumerate([*held, *tested, *free])
        ]
        runs.append(tmp_path / f"run-s{seed}")
        runs[-1].mkdir()
        pd.DataFrame(rows).to_csv(runs[-1] / "predictions.csv", index=False)
    first = presence_at_threshold(pd.read_csv(runs[0] / "predictions.csv"))
    assert first["sensitivity"] == 0.5
    assert first["intervals"] == {"sensitivity": (0, 1), "specificity": (1, 1)}
    assert pooled_threshold_intervals(runs) == {"sensitivity": (0.5, 1), "specificity": (1, 1)}


def test_a_memoriser_of_other_slices_does_not_stand_beside_a_run(tmp_path):
    """Two sets in one folder of runs: the memoriser's folder is the later one's."""
    import json

    from tumorscope.evaluation.evaluate import memoriser_of

    run, floor = tmp_path / "one-official-s0", tmp_path / "memoriser-official-s0"
    for folder in (run, floor):
        folder.mkdir()
    facts = {"recipe": {"name": "one"}, "protocol": "official", "seed": 0, "leak": []}
    (run / "environment.json").write_text(json.dumps(facts))
    mine = pd.DataFrame({"path": ["a", "b"], "label": ["glioma", "notumor"], "part": "test"})
    mine.to_csv(run / "predictions.csv", index=False)
    assert memoriser_of(run) is None
    for other, fits in ((mine.iloc[::-1], True), (mine.assign(path=["a", "c"]), False), (mine.iloc[:1], False)):
        other.to_csv(floor / "predictions.csv", index=False)
        assert (memoriser_of(run) is not None) == fits
