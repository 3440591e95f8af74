"""`train`, `evaluate` and `compare` through the command line: external sets, wrong use, differences."""

import io
import json
import zipfile

import pytest
from PIL import Image
from tests.evaluation.made_runs import made_run
from typer.main import get_command
from typer.testing import CliRunner

from tumorscope.api import read_run
from tumorscope.cli.main import app
from tumorscope.data.catalogue import load_catalogue
from tumorscope.data.phantom.archive import write_phantom
from tumorscope.errors import RunMismatch
from tumorscope.protocols import ALL, PROTOCOLS

QUICK = ["--set", "training.epochs=1", "--workers", "1"]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two phantom sets with patients of their own; the other one has four slices of the first again, mirrored."""
    folder = tmp_path_factory.mktemp("sets")
    one = write_phantom(folder / "one.zip", patients_per_class=7, slices_per_patient=3, size=128, seed=0)
    drawn = write_phantom(folder / "drawn.zip", patients_per_class=2, slices_per_patient=3, size=128, seed=1)
    other = folder / "other.zip"
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(drawn) as second, zipfile.ZipFile(other, "w") as write:
        for name in second.namelist():
            if name.startswith(("Training", "Testing")):  # without metadata.csv: no patient is known
                write.writestr(name, second.read(name))
        for number, name in enumerate([name for name in first.namelist() if "Training/glioma" in name][:4]):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(first.read(name))).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(buffer, "PNG")
            write.writestr(f"Testing/glioma/copy-{number}.png", buffer.getvalue())
    return one, other


def invoke(home, monkeypatch, *arguments):
    monkeypatch.setenv("TUMORSCOPE_HOME", str(home / "home"))
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.slow
def test_an_external_set_is_tested_without_what_training_holds_again(sets, tmp_path, monkeypatch):
    one, other = sets
    where = ["--data", one, "--test-data", other, "--runs", tmp_path / "runs"]
    done = invoke(tmp_path, monkeypatch, "train", "baseline_cnn", *where, *QUICK)
    assert done.exit_code == 0, done.output
    assert "28 slices; 4 are in the training set again (4 by picture, 4 by patient) and were removed, 24" in done.output
    run = tmp_path / "runs" / "baseline_cnn-external-other-s0"
    predictions = read_run(run)
    test = predictions[predictions["part"] == "test"]
    assert len(test) == 24
    assert test["path"].str.startswith("other:").all()
    assert not test["path"].str.contains("copy").any()
    rest = predictions[predictions["part"] == "validation"]
    assert rest["path"].str.startswith("one:").all()
    scores = json.loads((run / "scores.json").read_text())
    assert scores["memoriser"]["test"]["accuracy"] is not None

    every = sorted((tmp_path / "runs").iterdir())
    report = invoke(tmp_path, monkeypatch, "compare", *every, *where[:4], "--out", tmp_path / "report")
    assert report.exit_code == 0, report.output
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    (difference,) = numbers["differences"]
    floor = scores["memoriser"]["test"]["accuracy"]
    assert (difference["one"], difference["other"]) == ("baseline_cnn", "memoriser")
    assert difference["difference"] == pytest.approx(scores["test"]["accuracy"] - floor)
    assert difference["slices"] == 24
    assert "external on other: test accuracy of baseline_cnn less that of memoriser" in report.stdout
    # Without the other set its slices are not there.
    alone = invoke(tmp_path, monkeypatch, "compare", run, *where[:2], "--out", tmp_path / "alone")
    assert isinstance(alone.exception, RunMismatch)
    assert "scored on slices that one does not hold. Give the run's --data, and other with --test-data." in str(
        alone.exception
    )


def test_of_all_runs_those_on_the_slices_given_are_compared_and_others_left_apart_with_the_reason(
    sets, tmp_path, monkeypatch
):
    """Of a folder of runs: official ones, one tested on another set, one scored on nothing, the memoriser, a search."""
    monkeypatch.setenv("TUMORSCOPE_HOME", str(tmp_path / "home"))
    tested = load_catalogue(sets[0]).table.query("split == 'test'")
    strange = tested.assign(path="other:" + tested["path"], source="other")
    runs = tmp_path / "runs"
    ours = [made_run(runs, recipe, "official", tested) for recipe in ("baseline_cnn", "improved_cnn")]
    external = made_run(runs, "baseline_cnn", "external", strange)
    everything = made_run(runs, "baseline_cnn", "all", tested.iloc[:0])
    floor = made_run(runs, "fast_cnn", "official", tested).rename(runs / "memoriser-official-s0")
    (floor / "environment.json").unlink()
    (runs / "tune-baseline_cnn").mkdir()
    asked = ["--data", sets[0], "--out", tmp_path / "report"]
    done = invoke(tmp_path, monkeypatch, "compare", *sorted(runs.iterdir()), *asked)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [(one["name"], one["protocol"]) for one in told["models"]] == [
        ("baseline_cnn", "official"),
        ("improved_cnn", "official"),
    ]
    says = " ".join(done.stderr.split())
    assert (
        f"Left apart: {external}: scored on slices that one does not hold. Give the run's --data, and other with"
        in says
    )
    assert f"Left apart: {everything}: trained on every picture, scored on none." in says
    assert f"Left apart: {floor}: no environment.json; this is no model's run." in says
    assert f"Left apart: {runs / 'tune-baseline_cnn'}: no predictions.csv" in says
    # Scores need no slices, so that the external run has them too.
    scored = invoke(tmp_path, monkeypatch, "evaluate", "--json", *sorted(runs.iterdir()))
    assert sorted(json.loads(scored.stdout)) == sorted(map(str, [*ours, external]))
    none = invoke(tmp_path, monkeypatch, "compare", everything, external, *asked)
    assert isinstance(none.exception, RunMismatch)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--protocol", "external"], "--test-data"),
        (["--protocol", "patientcv"], "patientcv: expected official, clean"),
        (["--folds", "published"], "--protocol patient-cv"),
        (["--protocol", "patient-cv", "--folds", "mine"], "expected published"),
        (["--protocol", "clean", "--test-data", "x.zip"], "with --test-data it is external"),
    ],
)
def test_protocol_options_that_contradict_each_other_are_wrong_use(options, said, tmp_path, monkeypatch):
    done = invoke(tmp_path, monkeypatch, "train", "baseline_cnn", *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


def test_train_without_a_recipe_says_what_is_missing():
    asked, listed = CliRunner().invoke(app, ["train"]), CliRunner().invoke(app, ["train", "--list"])
    assert (asked.exit_code, listed.exit_code) == (2, 0)
    assert "Which recipe?" in asked.stderr
    assert "Which recipe?" not in listed.stderr
    assert asked.stdout == listed.stdout
    assert "baseline_cnn" in listed.stdout


def test_help_names_every_protocol_that_train_takes():
    (option,) = (one for one in get_command(app).commands["train"].params if one.name == "protocol")
    assert all(protocol in option.help for protocol in [*PROTOCOLS, ALL])


@pytest.mark.slow
def test_copies_are_looked_for_where_a_protocol_needs_them(sets, tmp_path, monkeypatch):
    where = ["--data", sets[0], "--protocol", "patient-cv", "--runs", tmp_path / "runs"]
    done = invoke(tmp_path, monkeypatch, "train", "baseline_cnn", *where, *QUICK)
    assert done.exit_code == 0, done.output
    assert "Looking for copies" in done.output
    predictions = read_run(tmp_path / "runs" / "baseline_cnn-patient-cv-s0")
    test = predictions[predictions["part"] == "test"]
    assert len(test) == test["path"].nunique() == 84
    assert (test.groupby("patient")["fold"].nunique() == 1).all()
