"""The whole job on the phantom set through the command line, as a new user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tumorscope import __version__
from tumorscope.cli import main as cli
from tumorscope.errors import DataNotFound
from tumorscope.evaluation.evaluate import evaluate_run


def tumorscope(*arguments: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as it ends where no network is, which a proxy that takes no connection stands for."""
    known = {key: value for key, value in os.environ.items() if key not in ("TUMORSCOPE_DATA", "TUMORSCOPE_HOME")}
    return subprocess.run(
        [sys.executable, "-m", "tumorscope.cli.main", *arguments],
        env={**known, "TUMORSCOPE_HOME": str(home / "home"), "https_proxy": "http://127.0.0.1:1", **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.slow
def test_demo_without_data_draws_phantoms_and_ends_in_a_report(tmp_path):
    done = tumorscope("demo", "--seeds", "1", home=tmp_path)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.splitlines()[-1])
    assert page.name == "report.html"
    assert "not patients" in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "not patients" in text
    assert "baseline_cnn" in text
    assert "improved_cnn" in text
    numbers = json.loads((page.parent / "report.json").read_text())
    rows = {(row["model"], row["part"]): row for row in numbers["comparison"]}
    assert set(rows) == {(m, p) for m in ("baseline_cnn", "improved_cnn") for p in ("validation", "test")}
    assert rows["baseline_cnn", "test"]["memoriser_accuracy"] is not None
    runs = list((tmp_path / "runs").glob("demo/*/baseline_cnn-official-s0"))
    assert len(runs) == 1

    before = (runs[0] / "scores.json").read_text()
    (runs[0] / "scores.json").unlink()
    again = tumorscope("evaluate", str(runs[0]), home=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (runs[0] / "scores.json").read_text() == before


def test_a_wrong_path_is_one_line_and_exit_code_one(tmp_path):
    done = tumorscope("demo", "--data", "nowhere.zip", home=tmp_path)
    assert done.returncode == 1
    assert "nowhere.zip" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_module_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tumorscope", "--version"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


STOPPED_AT_AN_IMPORT = """
import sys
class Stopping:
    def find_spec(self, name, path, target=None):
        if name == "typer":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stopping())
from tumorscope.__main__ import main
main()
"""


def test_an_interruption_while_modules_are_loaded_is_a_line():
    done = subprocess.run([sys.executable, "-c", STOPPED_AT_AN_IMPORT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "tumorscope: Interrupted.\n")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["predict", "a.png"], "tumorscope: Interrupted.\n"),
        (
            ["train", "baseline_cnn"],
            "Interrupted. What was finished is kept: the same command with --resume goes on.\n",
        ),
        (["study", "run"], "Interrupted. What was finished is kept: the same command goes on.\n"),
    ],
)
def test_an_interruption_promises_what_the_verb_keeps(asked, says, monkeypatch, capsys):
    def stopped():
        raise SystemExit(130)

    monkeypatch.setattr(cli, "app", stopped)
    monkeypatch.setattr(sys, "argv", ["tumorscope", *asked])
    with pytest.raises(SystemExit):
        cli.main()
    assert capsys.readouterr().err.endswith(says)


def test_a_run_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(DataNotFound, match="nope: no such folder"):
        evaluate_run(tmp_path / "nope")


def test_a_folder_without_a_run_is_said_so(tmp_path):
    done = tumorscope("evaluate", str(tmp_path), home=tmp_path)
    assert done.returncode == 1
    assert "no predictions.csv" in done.stderr
    assert "Traceback" not in done.stderr
