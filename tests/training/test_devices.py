"""What differs between a CPU and a GPU, as far as it can be told without one."""

import contextlib
import json

import pytest
import torch
from tests.training.tiny_set import catalogue, drawn
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.config import load_recipe
from tumorscope.study import table
from tumorscope.study.rows import chosen_rows
from tumorscope.training import runs

TINY = {"training.epochs": 1, "training.threads": 1, "model.filters": [4]}


@pytest.mark.parametrize(
    ("device", "asked", "at_once"), [("cpu", 0, 3), ("cpu", 2, 2), ("cuda", 0, 1), ("cuda", 3, 3), ("cuda", 9, 5)]
)
def test_folds_share_a_gpu_only_where_asked_and_its_name_stands_beside_them(
    tmp_path, monkeypatch, device, asked, at_once
):
    """One GPU's memory is shared; cores are not. Five folds, three cores, one thread each."""
    images, labels = drawn()
    data = catalogue(tmp_path, images, labels)
    used = []
    monkeypatch.setattr(runs, "device_here", lambda _: device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(runs.home, "cores", lambda: 3)
    monkeypatch.setattr(runs, "train_fold", lambda job, report: used.append(1))
    monkeypatch.setattr(runs, "work", lambda act, jobs, workers, report: used.append(workers))
    monkeypatch.setattr(runs, "_gather", lambda *_: None)
    recipe = load_recipe("baseline_cnn", TINY)
    (run,) = runs.train_runs(recipe, data, "picture-cv", [0], runs=tmp_path / "runs", workers=asked)
    assert used == ([1] * 5 if at_once == 1 else [at_once])
    noted = json.loads((run / "environment.json").read_text())
    assert (noted["device"], noted.get("gpu")) == (device, "Some GPU" if device == "cuda" else None)
    assert [made.get("gpu") for made in table._made([run])] == [noted.get("gpu")]


def test_a_run_that_goes_on_elsewhere_names_both_machines_and_a_finished_one_none_more(tmp_path, monkeypatch):
    images, labels = drawn()
    data = catalogue(tmp_path, images, labels)
    recipe = load_recipe("baseline_cnn", TINY)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(runs, "_gather", lambda *_: None)

    def goes_on(device, folds):
        """Train on `device`, where everything ends after some folds."""
        left = iter(range(folds))

        def one_fold(job, report):
            if next(left, None) is None:
                raise KeyboardInterrupt
            job.folder.mkdir(parents=True)
            (job.folder / "predictions.csv").write_text("")

        monkeypatch.setattr(runs, "device_here", lambda _: device)
        monkeypatch.setattr(runs, "train_fold", one_fold)
        with contextlib.suppress(KeyboardInterrupt):
            runs.train_runs(recipe, data, "picture-cv", [0], runs=tmp_path / "runs", resume=True, workers=1)
        (run,) = (tmp_path / "runs").glob("baseline_cnn-*")
        noted = json.loads((run / "environment.json").read_text())
        assert noted["device"] == "cpu"
        return [made.get("gpu") for made in table._made([run])], len(noted.get("resumed", ()))

    assert goes_on("cpu", 1) == ([None], 0)
    assert goes_on("cpu", 1) == ([None], 0)
    assert goes_on("cuda", 1) == ([None, "Some GPU"], 1)
    assert goes_on("cpu", 2) == ([None, "Some GPU"], 1)  # the last two of five
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Another GPU")
    assert goes_on("cuda", 0) == ([None, "Some GPU"], 1)
    (run,) = (tmp_path / "runs").glob("baseline_cnn-*")
    (run / "predictions.csv").write_text("")  # as gathered, whatever became of a fold's own
    (run / "fold-0" / "predictions.csv").unlink()
    assert goes_on("cuda", 0) == ([None, "Some GPU"], 1)


def test_a_resume_that_is_refused_leaves_the_run_as_it_was(tmp_path, monkeypatch):
    images, labels = drawn()
    data, place = catalogue(tmp_path, images, labels), {"runs": tmp_path / "runs", "workers": 1}
    monkeypatch.setattr(runs, "_work", lambda *_: None)
    monkeypatch.setattr(runs, "_gather", lambda *_: None)
    recipe = load_recipe("baseline_cnn", TINY)
    (run,) = runs.train_runs(recipe, data, "picture-cv", [0], **place)
    before = (run / "environment.json").read_text()
    monkeypatch.setattr(runs, "device_here", lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(runs, "shapes_of", lambda _: {"another": (1,)})
    with pytest.raises(runs.RunMismatch, match="do not fit the network"):
        runs.train_runs(recipe, data, "picture-cv", [0], resume=True, **place)
    assert (run / "environment.json").read_text() == before


def test_the_study_trains_as_many_folds_at_once_as_asked(tmp_path, monkeypatch):
    asked = {}

    def stands_in(*_, **options):
        asked.update(options)
        raise table.DataNotFound("nothing is trained here")

    images, labels = drawn()
    monkeypatch.setattr(table, "train", stands_in)
    data = catalogue(tmp_path, images, labels)
    table.run_study(data, chosen_rows(["baseline"]), ["official"], 1, tmp_path / "runs", tmp_path / "out", workers=3)
    assert asked["workers"] == 3
    monkeypatch.setattr("tumorscope.cli.study.open_joined", lambda *_: data)
    monkeypatch.setattr("tumorscope.cli.study.name_pictures", lambda one: one)
    options = ["--rows", "baseline", "--out", str(tmp_path / "cli"), "--runs", str(tmp_path / "runs"), "--workers", "2"]
    result = CliRunner().invoke(app, ["study", "run", *options])
    assert (result.exit_code, asked["workers"]) == (1, 2), result.output  # 1: the row could not be run
