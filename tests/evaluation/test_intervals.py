"""Bootstrap intervals against a literal resampling of rows, and the properties they are there for."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tumorscope.errors import InputRejected
from tumorscope.evaluation import intervals
from tumorscope.evaluation.intervals import (
    HEADLINE,
    bootstrap,
    bootstrap_means,
    bootstrap_over_seeds,
    groups_of,
    paired_difference,
)
from tumorscope.evaluation.scores import flat, score
from tumorscope.labels import CLASSES

EVERY = (
    *HEADLINE,
    "precision_macro",
    "recall_macro",
    "auc_glioma",
    "auc_notumor",
    "specificity_pituitary",
    "f1_glioma",
)


def random_predictions(n: int, seed: int, skill: float = 1.0, truth_seed: int = 0) -> pd.DataFrame:
    """`n` slices; probabilities rounded to tenths, so that there are ties."""
    truth = np.random.default_rng(truth_seed).integers(len(CLASSES), size=n)
    logits = np.random.default_rng(seed).normal(size=(n, len(CLASSES)))
    logits[np.arange(n), truth] += skill
    weights = np.round(np.exp(logits), 1) + 0.1
    table = pd.DataFrame(weights / weights.sum(axis=1, keepdims=True), columns=[f"p_{name}" for name in CLASSES])
    return table.assign(label=np.array(CLASSES)[truth], path=[f"{i}.png" for i in range(n)], patient="", picture="")


def test_a_row_goes_with_its_patient_else_its_picture_else_itself():
    rows = [("a.png", "P1", "k1"), ("b.png", "P1", "k2"), ("c.png", "", "k2"), ("d.png", "", ""), ("e.png", None, "k2")]
    table = pd.DataFrame(rows, columns=["path", "patient", "picture"])
    expected = ["patient:P1", "patient:P1", "picture:k2", "path:d.png", "picture:k2"]
    assert groups_of(table).tolist() == expected
    assert groups_of(table[["path"]]).tolist() == [f"path:{path}" for path in table["path"]]


def test_equals_a_literal_resampling_of_rows():
    predictions = random_predictions(24, seed=1)
    groups = np.array([f"g{i % 7}" for i in range(24)], dtype=object)
    rows = [np.flatnonzero(groups == name) for name in pd.unique(groups)]
    drawn = np.random.default_rng(3).integers(7, size=(40, 7))
    literal = [flat(score(predictions.iloc[np.concatenate([rows[g] for g in draw])])) for draw in drawn]
    found = bootstrap(predictions, groups, EVERY, n=40, seed=3, level=0.9)
    for metric in EVERY:
        values = [one[metric] for one in literal if one[metric] is not None]
        assert found[metric] == pytest.approx(tuple(np.quantile(values, [0.05, 0.95]))), metric


def test_over_seeds_it_equals_a_literal_resampling_of_every_seed_by_itself():
    """The second seed has the slices in another order. The third is sure that none has a tumour, and would mix up their order."""
    truth = random_predictions(24, seed=1).assign(patient=[f"P{i % 7}" for i in range(24)])
    others = [random_predictions(24, seed=other)[[f"p_{name}" for name in CLASSES]] for other in (8, 9)]
    sure = others[1] / 10
    sure["p_notumor"] += 0.9
    second = truth.assign(**others[0]).iloc[::-1]
    seeds = [truth, second, truth.assign(**sure)]
    names = pd.unique(truth["patient"])
    drawn = np.random.default_rng(3).integers(7, size=(40, 7))
    found = bootstrap_over_seeds(seeds, EVERY, n=40, seed=3, level=0.9)
    for metric in EVERY:
        literal = []
        for draw in drawn:
            parts = [pd.concat([one[one["patient"] == names[g]] for g in draw]) for one in seeds]
            literal.append([flat(score(part))[metric] for part in parts])
        values = [np.mean(of_seeds) for of_seeds in literal if None not in of_seeds]
        assert found[metric] == pytest.approx(tuple(np.quantile(values, [0.05, 0.95]))), metric
    # A seed that does not know the patients, as runs of before did not, has those of the others.
    unknown = [seeds[0], seeds[1].assign(patient=""), seeds[2]]
    assert bootstrap_over_seeds(unknown, EVERY, n=40, seed=3, level=0.9) == found
    pooled = bootstrap(pd.concat(seeds), metrics=("presence_auc",), n=40, seed=3, level=0.9)["presence_auc"]
    assert pooled[1] < found["presence_auc"][1]


def test_intervals_of_means_equal_a_literal_resampling_of_rows():
    random = np.random.default_rng(0)
    values = random.normal(size=24)
    values[[3, 9, 10]] = np.nan
    patients = [f"P{i % 7}" for i in range(24)]
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(24)], "patient": patients, "some": values, "same": 2.0})
    rows = [np.flatnonzero(np.array(patients) == name) for name in pd.unique(np.array(patients))]
    drawn = np.random.default_rng(3).integers(7, size=(40, 7))
    literal = [np.nanmean(values[np.concatenate([rows[g] for g in draw])]) for draw in drawn]
    found = bootstrap_means(table, ["some", "same"], n=40, seed=3, level=0.9)
    assert found["some"] == pytest.approx(tuple(np.quantile(literal, [0.05, 0.95])))
    assert found["same"] == (2, 2)
    # A patient without a value changes no mean, and a resample of it alone has none.
    three = table.assign(patient=[f"P{i % 3}" for i in range(24)], some=np.where(np.arange(24) % 3 == 2, np.nan, 1.0))
    three.loc[three["patient"] == "P1", "some"] = 4.0
    drawn = np.random.default_rng(0).integers(3, size=(40, 3))
    literal = [np.mean([1.0 if g == 0 else 4.0 for g in draw if g < 2]) for draw in drawn if (draw < 2).any()]
    assert len(literal) < 40
    assert bootstrap_means(three, ["some"], n=40)["some"] == pytest.approx(tuple(np.quantile(literal, [0.025, 0.975])))
    alone = bootstrap_means(table.assign(some=table["some"].where(table["patient"] == "P0")), ["some"])["some"]
    assert np.isnan(alone).all()  # one patient alone has values


def test_equals_the_normal_interval_of_a_share_when_rows_are_independent():
    predictions = random_predictions(1000, seed=2)
    share = score(predictions)["accuracy"]
    low, high = bootstrap(predictions, metrics=("accuracy",), n=4000)["accuracy"]
    half = 1.96 * np.sqrt(share * (1 - share) / 1000)
    assert (low, high) == pytest.approx((share - half, share + half), abs=0.003)


def test_contains_the_estimate():
    predictions = random_predictions(300, seed=4)
    estimate = flat(score(predictions))
    for metric, (low, high) in bootstrap(predictions, metrics=EVERY, n=500).items():
        assert low <= estimate[metric] <= high, metric


def test_slices_of_one_patient_count_once():
    # Every slice four times over: taken as independent they halve the interval; grouped, they change nothing.
    once = random_predictions(300, seed=5)
    fourfold = pd.concat([once.assign(picture=once["path"], path=once["path"] + f"-{k}") for k in range(4)])

    def width(table: pd.DataFrame, groups: np.ndarray) -> float:
        low, high = bootstrap(table, groups, ("accuracy",))["accuracy"]
        return high - low

    grouped, naive = width(fourfold, groups_of(fourfold)), width(fourfold, fourfold["path"].to_numpy(dtype=object))
    assert grouped == pytest.approx(width(once, groups_of(once)))
    assert grouped / naive == pytest.approx(2, abs=0.2)


def test_blocks_change_nothing(monkeypatch):
    predictions = random_predictions(50, seed=6)
    whole = bootstrap(predictions, metrics=EVERY, n=200)
    monkeypatch.setattr(intervals, "_CELLS_AT_ONCE", 50 * 7)
    assert bootstrap(predictions, metrics=EVERY, n=200) == whole


def test_one_group_gives_no_interval():
    low, high = bootstrap(random_predictions(10, seed=0), ["P1"] * 10, ("accuracy",))["accuracy"]
    assert np.isnan(low)
    assert np.isnan(high)


def test_a_score_that_is_not_defined_gives_no_interval():
    predictions = random_predictions(30, seed=0).assign(label="glioma")
    found = bootstrap(predictions, metrics=("accuracy", "presence_auc", "auc_pituitary"), n=50)
    assert not np.isnan(found["accuracy"]).any()
    assert np.isnan(found["presence_auc"]).all()
    assert np.isnan(found["auc_pituitary"]).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"metrics": ("accurracy",)}, "accurracy"),
        ({"n": 0}, "n=0"),
        ({"level": 95}, "level=95"),
        ({"groups": ["a", "b"]}, "one a row"),
    ],
)
def test_wrong_use_is_refused(arguments, words):
    with pytest.raises(InputRejected, match=words):
        bootstrap(random_predictions(10, seed=0), **arguments)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(EVERY))
def test_the_difference_is_that_of_the_scores(seed_a, seed_b, metric):
    a, b = random_predictions(40, seed_a), random_predictions(40, seed_b)
    found = paired_difference(a, b.sample(frac=1, random_state=seed_b), metric, n=20)
    assert found["difference"] == pytest.approx(flat(score(a))[metric] - flat(score(b))[metric])
    assert found["slices"] == 40


def test_the_better_model_differs_and_the_sign_turns_with_the_order():
    good, poor = random_predictions(400, seed=1, skill=3), random_predictions(400, seed=2, skill=0.5)
    ahead, behind = paired_difference(good, poor), paired_difference(poor, good)
    assert 0 < ahead["low"] <= ahead["difference"] <= ahead["high"]
    assert ahead["p"] == pytest.approx(2 / 2001)
    assert (behind["low"], behind["high"]) == pytest.approx((-ahead["high"], -ahead["low"]))
    assert behind["difference"] == -ahead["difference"]


def test_a_model_does_not_differ_from_itself():
    same = random_predictions(100, seed=1)
    found = paired_difference(same, same)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)


def test_pairing_narrows_the_interval():
    # b is a with five answers spoilt: the difference is all but certain though either accuracy is not.
    a = random_predictions(200, seed=1, skill=2)
    right = a.index[(a[[f"p_{name}" for name in CLASSES]].idxmax(axis=1) == "p_" + a["label"]).to_numpy()][:5]
    b = a.copy()
    b.loc[right, [f"p_{name}" for name in CLASSES]] = 0.0
    for row in right:
        b.loc[row, "p_glioma" if b.loc[row, "label"] != "glioma" else "p_notumor"] = 1.0
    found = paired_difference(a, b)
    low, high = bootstrap(a, metrics=("accuracy",))["accuracy"]
    assert found["difference"] == pytest.approx(5 / 200)
    assert found["high"] - found["low"] < (high - low) / 2


def test_only_shared_slices_count_and_several_runs_may_be_pooled():
    a, b = random_predictions(60, seed=1), random_predictions(80, seed=2)
    b.loc[:59, "label"] = a["label"]
    pooled = pd.concat([a, random_predictions(60, seed=3)])
    found = paired_difference(pooled, b, n=50)
    assert found["slices"] == 60
    assert found["difference"] == pytest.approx(score(pooled)["accuracy"] - score(b.head(60))["accuracy"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(path="else/" + t["path"]), "slices in both"),
        (lambda t: t.assign(label=t["label"].to_numpy()[::-1]), "labels"),
        (lambda t: pd.concat([t, t.head(3)]), "repeated"),
    ],
)
def test_tables_that_do_not_pair_are_refused(change, words):
    predictions = random_predictions(20, seed=0)
    with pytest.raises(InputRejected, match=words):
        paired_difference(predictions, change(predictions))
