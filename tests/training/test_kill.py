"""Same seed, same bits; and after `kill -9` in the middle, --resume ends where an uninterrupted run ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.tiny_set import everything, tiny_catalogue

from tumorscope.errors import RunMismatch
from tumorscope.training.checkpoint import read_weights, save_weights
from tumorscope.training.runs import train_runs

#: What a run leaves behind that must not depend on how often it was stopped.
KEPT = ("fold-0/weights.safetensors", "fold-0/predictions.csv", "predictions.csv")

KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.tiny_set import everything, tiny_catalogue
from tumorscope.training.runs import train_runs

def kill(event):
    if not event.finished and event.row["epoch"] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)  # the checkpoint of this epoch is written

train_runs(everything(), tiny_catalogue(Path(sys.argv[1])), "official", [3], runs=Path(sys.argv[1]), workers=1, report=kill)
"""


def contents(run: Path) -> list[bytes]:
    history = (run / "fold-0" / "history.csv").read_text().splitlines()
    without_seconds = "\n".join(line.rsplit(",", 1)[0] for line in history)
    return [*((run / name).read_bytes() for name in KEPT), without_seconds.encode()]


def train(folder: Path, seed: int = 3, **options) -> Path:
    (run,) = train_runs(everything(), tiny_catalogue(folder), "official", [seed], runs=folder, workers=1, **options)
    return run


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits_and_another_does_not(tmp_path):
    one, again, other = (train(tmp_path / name, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert contents(one) == contents(again)
    assert all(mine != theirs for mine, theirs in zip(contents(one), contents(other), strict=True))


@pytest.mark.slow
def test_a_run_written_before_a_recipe_had_a_field_is_the_same_run(tmp_path):
    run = train(tmp_path)
    file = run / "environment.json"
    facts = json.loads(file.read_text())
    del facts["recipe"]["schedule"]["floor"]
    file.write_text(json.dumps(facts))
    assert train(tmp_path, resume=True) == run
    facts["recipe"]["training"]["epochs"] = 99
    file.write_text(json.dumps(facts))
    with pytest.raises(RunMismatch, match="another recipe"):
        train(tmp_path, resume=True)


@pytest.mark.slow
def test_an_unfinished_run_is_not_gone_on_with_by_another_network(tmp_path):
    """One of whose folds are finished, and one that was stopped within its first fold."""
    run = train(tmp_path)
    fold = run / "fold-0"
    tensors, header = read_weights(fold / "weights.safetensors")
    others = {name: value.flatten()[:1] for name, value in tensors.items()}
    predictions = (run / "predictions.csv").read_bytes()
    (run / "predictions.csv").unlink()
    save_weights(fold / "weights.safetensors", others, header)
    with pytest.raises(RunMismatch, match="do not fit the network that everything is now"):
        train(tmp_path, resume=True)
    # Nor is a further seed trained beside a finished one, which alone stays as it is.
    (run / "predictions.csv").write_bytes(predictions)
    with pytest.raises(RunMismatch, match="do not fit the network that everything is now"):
        train_runs(everything(), tiny_catalogue(tmp_path), "official", [3, 4], runs=tmp_path, workers=1, resume=True)
    assert [folder.name for folder in tmp_path.glob("*-s4")] == []
    assert train(tmp_path, resume=True) == run
    assert (run / "predictions.csv").read_bytes() == predictions
    (run / "predictions.csv").unlink()
    for name in ("weights.safetensors", "predictions.csv"):
        (fold / name).unlink()
    save_weights(fold / "checkpoint.safetensors", {f"network.{name}": one for name, one in others.items()}, {})
    with pytest.raises(RunMismatch, match="another network than this recipe's is now"):
        train(tmp_path, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 3])
def test_after_kill_9_in_any_epoch_resume_ends_in_the_same_bits(tmp_path, epoch):
    whole = train(tmp_path / "whole")
    stopped = tmp_path / "stopped"
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", KILLED, str(stopped), str(epoch)]
    assert subprocess.run(command, env=environment, cwd=root, check=False).returncode == -signal.SIGKILL
    run = stopped / whole.name
    assert (run / "fold-0" / "checkpoint.safetensors").exists()
    assert not (run / "predictions.csv").exists()
    with pytest.raises(RunMismatch, match="--resume"):
        train(stopped)
    assert contents(train(stopped, resume=True)) == contents(whole)
    assert not (run / "fold-0" / "checkpoint.safetensors").exists()
    before = time.time_ns()
    train(stopped, resume=True)
    assert (run / "predictions.csv").stat().st_mtime_ns < before
