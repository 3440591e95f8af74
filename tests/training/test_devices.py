"""What differs between a CPU and a GPU, as far as it can be told without one."""

import contextlib
import json

import pytest
import torch
from tests.training.tiny_set import catalogue, drawn

from tumorscope.config import load_recipe
from tumorscope.study.table import _made
from tumorscope.training import runs
from tumorscope.training.loop import reproducible

TINY = {"training.epochs": 1, "training.threads": 1, "model.filters": [4]}


@pytest.mark.parametrize(
    ("device", "asked", "at_once"), [("cpu", 0, 3), ("cpu", 2, 2), ("cuda", 0, 1), ("cuda", 3, 3), ("cuda", 9, 5)]
)
def test_folds_share_a_gpu_only_where_asked(tmp_path, monkeypatch, device, asked, at_once):
    """One GPU's memory is shared; cores are not. Five folds, three cores, one thread each."""
    images, labels = drawn()
    data = catalogue(tmp_path, images, labels)
    used = []
    monkeypatch.setattr(runs, "device_here", lambda _: device)
    monkeypatch.setattr(runs, "named_device", lambda device: {"device": device})
    monkeypatch.setattr(runs.home, "cores", lambda: 3)
    monkeypatch.setattr(runs, "train_fold", lambda job, report: used.append(1))
    monkeypatch.setattr(runs, "work", lambda act, jobs, workers, report: used.append(workers))
    monkeypatch.setattr(runs, "_gather", lambda *_: None)
    runs.train_runs(load_recipe("baseline_cnn", TINY), data, "picture-cv", [0], runs=tmp_path / "runs", workers=asked)
    assert used == ([1] * 5 if at_once == 1 else [at_once])


def test_a_gpu_has_its_name_beside_every_number(tmp_path, monkeypatch):
    assert runs.named_device("cpu") == {"device": "cpu"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    noted = {"machine": {"processor": "p", "cores": 2}, "versions": {"torch": "2"}, **runs.named_device("cuda")}
    (tmp_path / "environment.json").write_text(json.dumps(noted))
    assert _made([tmp_path]) == [{"processor": "p", "cores": 2, "torch": "2", "gpu": "Some GPU"}]


@pytest.mark.parametrize(
    ("device", "exact", "deterministic"),
    [("cpu", True, True), ("cpu", False, True), ("cuda", True, True), ("cuda", False, False)],
)
def test_deterministic_kernels_are_given_up_on_a_gpu_alone(monkeypatch, device, exact, deterministic):
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
    before = torch.are_deterministic_algorithms_enabled()
    with reproducible(0, 1, torch.device(device), exact=exact):
        assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.are_deterministic_algorithms_enabled() == before
