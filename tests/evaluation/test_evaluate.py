"""Scores of several runs: what counts as seeds of one model, and what is compared with what."""

import pandas as pd
from tests.evaluation.made_runs import made_run

from tumorscope.evaluation.evaluate import by_model, comparison_rows, differences
from tumorscope.evaluation.report import in_words
from tumorscope.labels import CLASSES


def slices(source: str, count: int) -> pd.DataFrame:
    paths = [f"{source}:{number}.png" for number in range(count)]
    return pd.DataFrame({"path": paths, "label": [CLASSES[k % 4] for k in range(count)], "source": source})


def test_two_external_test_sets_of_one_recipe_are_apart_and_seeds_of_one_set_together(tmp_path):
    """On a seeds 0 and 1 name 8 and 6 of 8 slices, on b seed 0 names 2 of 4; another recipe has 4 of 8 on a."""
    a, b = slices("a", 8), slices("b", 4)
    runs = [
        made_run(tmp_path, "baseline_cnn", "external", a),
        made_run(tmp_path, "baseline_cnn", "external", b, right=2),
        made_run(tmp_path, "baseline_cnn", "external", a, right=6, seed=1),
        made_run(tmp_path, "improved_cnn", "external", a, right=4),
        made_run(tmp_path, "baseline_cnn", "official", slices("", 4), right=3),
    ]
    found = {key: [one["run"] for one in several] for key, several in by_model(runs).items()}
    assert found == {
        ("baseline_cnn", "official", None): [runs[4]],
        ("baseline_cnn", "external", "a"): [runs[0], runs[2]],
        ("baseline_cnn", "external", "b"): [runs[1]],
        ("improved_cnn", "external", "a"): [runs[3]],
    }
    tested = [row for row in comparison_rows(runs) if row["part"] == "test"]
    told = [(row["model"], row["test_set"], row["seeds"], row["slices"], row["accuracy_mean"]) for row in tested]
    assert told == [
        ("baseline_cnn", None, 1, 4, 0.75),
        ("baseline_cnn", "a", 2, 8, 0.875),
        ("baseline_cnn", "b", 1, 4, 0.5),
        ("improved_cnn", "a", 1, 8, 0.5),
    ]
    (pair,) = differences(runs)
    assert (pair["protocol"], pair["test_set"], pair["one"], pair["other"]) == (
        *("external", "a"),
        *("baseline_cnn", "improved_cnn"),
    )
    assert (pair["difference"], pair["slices"]) == (0.375, 8)
    words = in_words(tested)
    start, end = "Under the external protocol the share of", "test slices of {} named correctly is"
    assert any(f"{start} 8 {end.format('a')} 87.5\xa0% for baseline_cnn and 50.0\xa0%" in one for one in words)
    assert any(f"{start} 4 {end.format('b')} 50.0\xa0% for baseline_cnn (one seed)" in one for one in words)
