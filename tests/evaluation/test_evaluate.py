"""Scores of several runs: what counts as seeds of one model, and what is compared with what."""

import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from tests.evaluation.made_runs import made_run
from tests.training.tiny_set import tiny_catalogue

from tumorscope.cli.evaluate import belonging
from tumorscope.errors import DataNotFound, RunMismatch
from tumorscope.evaluation.assemble import left_apart
from tumorscope.evaluation.evaluate import by_model, comparison_rows, differences, leak_notes, why_unscored
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
    tested = [row for row in comparison_rows(by_model(runs)) if row["part"] == "test"]
    told = [(row["model"], row["test_set"], row["seeds"], row["slices"], row["accuracy_mean"]) for row in tested]
    assert told == [
        ("baseline_cnn", None, 1, 4, 0.75),
        ("baseline_cnn", "a", 2, 8, 0.875),
        ("baseline_cnn", "b", 1, 4, 0.5),
        ("improved_cnn", "a", 1, 8, 0.5),
    ]
    (pair,) = differences(by_model(runs))
    assert (pair["protocol"], pair["test_set"], pair["one"], pair["other"]) == (
        *("external", "a"),
        *("baseline_cnn", "improved_cnn"),
    )
    assert (pair["difference"], pair["slices"]) == (0.375, 8)
    words = in_words(tested)
    start, end = "Under the external protocol the share of", "test slices of {} named correctly is"
    assert any(f"{start} 8 {end.format('a')} 87.5\xa0% for baseline_cnn and 50.0\xa0%" in one for one in words)
    assert any(f"{start} 4 {end.format('b')} 50.0\xa0% for baseline_cnn (one seed)" in one for one in words)


def test_runs_of_another_network_recipe_or_set_or_of_the_same_seed_are_no_further_seeds(tmp_path):
    """Weights of 2 * 3 and of 2 * 4 values; runs whose weights are not there or damaged count, as those of before do."""
    tested = slices("", 4)
    runs = [made_run(tmp_path, "baseline_cnn", "official", tested, seed=seed) for seed in range(5)]
    for run, columns in zip(runs[1:4], (3, 4, 3), strict=True):
        (run / "fold-0").mkdir()
        save_file({"head": np.zeros((2, columns), np.float32)}, run / "fold-0" / "weights.safetensors")
    (runs[4] / "fold-0").mkdir()
    (runs[4] / "fold-1").mkdir()
    save_file({"head": np.zeros((2, 3), np.float32)}, runs[4] / "fold-1" / "weights.safetensors")
    (runs[4] / "fold-0" / "weights.safetensors").write_bytes(b"damaged")
    ((_, seeds),) = by_model([runs[0], runs[1], runs[3], runs[4]]).items()
    assert [one["run"] for one in seeds] == [runs[0], runs[1], runs[3], runs[4]]
    with pytest.raises(
        RunMismatch, match=r"own-s1 and .*own-s2 would count as seeds of one model: networks of 6 and 8 stored values\."
    ):
        by_model(runs)
    again = made_run(tmp_path / "again", "baseline_cnn", "official", tested)
    with pytest.raises(RunMismatch, match=r"both are of seed 0"):
        by_model([runs[0], again])
    titled, other = (
        made_run(tmp_path / name, "baseline_cnn", "official", tested, seed=7 + place, data={"name": "", "digest": name})
        for place, name in enumerate("01")
    )
    for run, change in ((titled, {"title": "Other"}), (other, {"loss": {"name": "focal"}})):
        environment = json.loads((run / "environment.json").read_text())
        environment["recipe"] |= change
        (run / "environment.json").write_text(json.dumps(environment))
    assert len(by_model([runs[0], titled])) == 1
    with pytest.raises(RunMismatch, match="data 0 and 1; recipes with another loss"):
        by_model([runs[0], titled, other])
    # Runs are scored even where their recipe could not be trained today, and are seeds where it is the same.
    for run in (runs[0], runs[4]):
        environment = json.loads((run / "environment.json").read_text())
        environment["recipe"]["of_an_older_version"] = 1
        (run / "environment.json").write_text(json.dumps(environment))
    assert len(by_model([runs[0], runs[4]])) == 1
    with pytest.raises(RunMismatch, match="recipes with another of_an_older_version"):
        by_model([titled, runs[4]])


def test_two_external_sets_of_one_file_name_are_told_apart_by_the_digest(tmp_path):
    """Two archive.zip: seeds 0 and 1 on the first with 8 and 6 of 8 right, seed 0 on the second with 4 of 8."""
    tested = slices("archive", 8)
    first, second = ({"data": {"name": "a with archive", "digest": start * 16}} for start in "12")
    runs = [
        made_run(tmp_path / "one", "baseline_cnn", "external", tested, **first),
        made_run(tmp_path / "two", "baseline_cnn", "external", tested, right=4, **second),
        made_run(tmp_path / "one", "baseline_cnn", "external", tested, right=6, seed=1, **first),
        made_run(tmp_path, "baseline_cnn", "external", slices("b", 4), **first),
    ]
    told = [
        (row["test_set"], row["seeds"], row["accuracy_mean"])
        for row in comparison_rows(by_model(runs))
        if row["part"] == "test"
    ]
    assert told == [("archive (11111111)", 2, 0.875), ("archive (22222222)", 1, 0.5), ("b", 1, 1.0)]
    assert list(by_model([runs[0], runs[2]])) == [("baseline_cnn", "external", "archive")]


def test_two_external_sets_of_one_file_name_are_told_apart_where_recipes_differ(tmp_path):
    """improved_cnn is on another archive.zip than baseline_cnn; fast_cnn, with a further set, is on the same one."""

    def made(recipe, tested_on, data, *further):
        sets = [{"name": "a", "digest": "a" * 16}, {"name": "archive", "digest": tested_on * 16}, *further]
        return made_run(
            tmp_path / recipe,
            recipe,
            "external",
            slices("archive", 8),
            sets=sets,
            data={"name": "a with archive", "digest": data * 16},
        )

    first = made("baseline_cnn", "1", "3")
    same = made("fast_cnn", "1", "5", {"name": "more", "digest": "9" * 16})
    assert [test_set for *_, test_set in by_model([first, same])] == ["archive", "archive"]
    assert len(differences(by_model([first, same]))) == 1
    other = made("improved_cnn", "2", "4")
    told = [test_set for *_, test_set in by_model([first, other])]
    assert told == ["archive (33333333)", "archive (44444444)"]
    assert differences(by_model([first, other])) == []


def test_leaks_are_told_of_each_external_set_by_its_name(tmp_path):
    """Of 8 slices of a 3 are in training again, of 4 of b one, of the 4 under official two."""
    leaks = [
        {"test": of, "none": new, "bytes": 0, "pixels": 0, "picture": of - new} for of, new in ((8, 5), (4, 3), (4, 2))
    ]
    runs = [
        made_run(tmp_path, "baseline_cnn", protocol, slices(source, leak["test"]), leak=[leak])
        for protocol, source, leak in zip(("external", "external", "official"), ("a", "b", ""), leaks, strict=True)
    ]
    notes = leak_notes(by_model(runs))
    assert [note.split(", ")[0] for note in notes] == [
        "Leak in official: of 4 test slices",
        "Leak in external on a: of 8 test slices",
        "Leak in external on b: of 4 test slices",
    ]
    assert notes[1].endswith("3 by picture. 5 are new to them.")


def test_why_a_run_is_left_apart_is_read_from_its_predictions_and_nothing_is_scored(tmp_path):
    catalogue = tiny_catalogue(tmp_path / "set")
    run = made_run(tmp_path, "baseline_cnn", "external", slices("other", 4))
    (why,) = left_apart([run], catalogue).values()
    assert why == "scored on slices that tiny does not hold. Give the run's --data, and other with --test-data."
    assert not (run / "scores.json").exists()


def test_a_path_that_is_not_there_is_an_error_and_what_is_no_run_is_left_apart(tmp_path):
    run, typo = made_run(tmp_path, "baseline_cnn", "official", slices("", 4)), tmp_path / "typo"
    (tmp_path / "README.md").touch()
    note = why_unscored(tmp_path / "README.md")
    assert note.startswith("no folder of a run. Give that of a run")
    assert belonging([run, tmp_path / "README.md"], {tmp_path / "README.md": note}) == [run]
    with pytest.raises(DataNotFound, match="typo: no such folder"):
        belonging([run, typo], {typo: why_unscored(typo)})
