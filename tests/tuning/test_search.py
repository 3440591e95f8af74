"""The search: it reads no test slice, ends with as many trials as asked for, and goes on after a kill with none lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from filelock import FileLock
from sklearn.metrics import balanced_accuracy_score
from tests.training.tiny_set import catalogue, drawn, tiny_catalogue
from typer.testing import CliRunner

from tumorscope.cli.main import app
from tumorscope.config import Backbone, load_recipe
from tumorscope.errors import InputRejected, RecipeError, RunMismatch, SplitLeak
from tumorscope.labels import CLASSES
from tumorscope.models.backbones import make_features
from tumorscope.protocols import Fold
from tumorscope.training.checkpoint import save_weights
from tumorscope.training.pretrain import ORIGIN
from tumorscope.training.runs import read_predictions, train_runs
from tumorscope.tuning.search import _ask, _finish, _write, tune
from tumorscope.tuning.space import Range
from tumorscope.tuning.trials import STUDY, Plan, lock_of, put_back, sampler_of, storage_of

SPACE = {"optimiser.learning_rate": Range(low=1e-4, high=1e-2, log=True)}
ASK = """
import sys
from pathlib import Path
from tests.training.tiny_set import tiny_catalogue
from tests.tuning.test_search import SPACE
from tumorscope.tuning.search import tune

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    tune("baseline_cnn", SPACE, tiny_catalogue(folder), trials=int(sys.argv[2]), out=folder / "out", workers=4, pruner="none",
         protocol="clean", sampler="random")
"""


def trials_in(out: Path) -> list:
    """Trials of a search that may be about to begin: its file is there before its study is."""
    if (out / "journal.log").exists():
        with suppress(KeyError):
            study = optuna.load_study(study_name=STUDY, storage=storage_of(str(out / "journal.log")))
            return study.get_trials(deepcopy=False)
    return []


def ended(trials: list) -> int:
    return sum(trial.state.is_finished() for trial in trials)


def is_there(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_other_test_pixels_change_nothing_in_a_search(tmp_path):
    images, labels = drawn()
    other = images.copy()
    other[len(images) * 3 // 4 :] = np.random.default_rng(7).integers(0, 256, other[len(images) * 3 // 4 :].shape)
    values = []
    for name, pixels in (("one", images), ("other", other)):
        best = tune(
            "baseline_cnn",
            SPACE,
            catalogue(tmp_path / name, pixels, labels),
            trials=2,
            out=tmp_path / name / "out",
            protocol="clean",
            workers=1,
        )
        values.append(pd.read_csv(best.parent / "trials.csv")["value"].tolist())
    assert values[0] == values[1]


@pytest.mark.slow
def test_killed_with_four_workers_no_trial_is_lost_and_none_is_done_twice(tmp_path):
    root, command = Path(__file__).parents[2], [sys.executable, "-c", ASK, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    # Far more trials than are done before it is killed, however late that is.
    with subprocess.Popen([*command, "400"], env=environment, cwd=root, start_new_session=True) as process:
        while process.poll() is None and not ended(trials_in(tmp_path / "out")):
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    before = {trial.number: trial for trial in trials_in(tmp_path / "out")}
    assert ended([*before.values()])

    trials = ended([*before.values()]) + 8  # of which up to four were under way
    assert subprocess.run([*command, str(trials)], env=environment, cwd=root, check=False).returncode == 0
    after = trials_in(tmp_path / "out")
    complete = [trial for trial in after if trial.state == optuna.trial.TrialState.COMPLETE]
    assert len(complete) == trials
    for number, trial in before.items():
        if trial.state == optuna.trial.TrialState.COMPLETE:
            assert after[number].value == trial.value
        elif trial.params:
            again = [one for one in complete if one.user_attrs.get("again") == number]
            assert [one.params for one in again] == [trial.params]
    assert max(Counter(trial.params["optimiser.learning_rate"] for trial in complete).values()) == 1

    best = max(complete, key=lambda trial: trial.value)
    recipe = load_recipe(tmp_path / "out" / "best.toml")
    assert recipe.optimiser.learning_rate == best.params["optimiser.learning_rate"]
    assert recipe.name == "baseline_cnn-tuned"
    assert (tmp_path / "out" / "figures" / "history.png").exists()
    with pytest.raises(RunMismatch, match="another space"):
        tune(
            "baseline_cnn",
            {"optimiser.learning_rate": Range(low=1e-3, high=1e-2)},
            tiny_catalogue(tmp_path),
            trials=2,
            out=tmp_path / "out",
            protocol="clean",
        )


@pytest.mark.slow
def test_a_grid_ends_when_every_point_was_tried_once(tmp_path):
    space = {"training.batch_size": Range(choices=(16, 32)), "training.epochs": Range(choices=(1,))}
    tune(
        "baseline_cnn",
        space,
        tiny_catalogue(tmp_path),
        **{"trials": 50, "out": tmp_path / "out", "protocol": "clean", "sampler": "grid", "pruner": "none"},
        workers=1,
    )
    assert sorted(int(trial.params["training.batch_size"]) for trial in trials_in(tmp_path / "out")) == [16, 32]


def frozen(folder: Path, **changes) -> str:
    """File of a recipe of a small backbone, frozen and drawn at random, below a head on means over places."""
    backbone = {"name": "resnet10t", "weights": "none", "head": "pooled"}
    small = {"input.size": 30, "model.backbone": backbone, "name": "small", **changes}
    (folder / "small.toml").write_text(load_recipe("lite0", small).toml())
    return str(folder / "small.toml")


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_the_best_recipe_trains_to_the_score_that_it_was_chosen_for(stored, tmp_path):
    """Also on stored features, which are computed once for both."""
    made = tiny_catalogue(tmp_path)
    heads = {"model.backbone.head": Range(choices=("linear", "pooled"))} if stored else {}
    best = tune(
        frozen(tmp_path) if stored else "baseline_cnn",
        {**SPACE, **heads, "training.epochs": Range(low=2, high=6)},
        made,
        **{"trials": 3, "out": tmp_path / "out", "protocol": "patient-cv", "pruner": "none", "seed": 3},
        workers=2,
    )
    found = json.loads((tmp_path / "out" / "search.json").read_text())["best"]
    (run,) = train_runs(load_recipe(best), made, "patient-cv", [3], runs=tmp_path / "runs", workers=1)
    answers = read_predictions(run)
    answers = answers[(answers["part"] == "validation") & (answers["fold"] == 0)]
    said = answers[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)
    assert balanced_accuracy_score(answers["label"], np.array(CLASSES)[said]) == found["value"]
    assert len(list(tmp_path.glob("features-*.npy"))) == stored


@pytest.mark.slow
def test_a_trial_whose_loss_becomes_infinite_is_passed_over(tmp_path):
    """AdamW at a rate of 10 and a decay of 1 makes every weight nine times as large a step; a float holds no 9 ** 60."""
    fixed = {"optimiser.learning_rate": 10.0, "optimiser.name": "adamw", "training.epochs": 30}
    rates = {key: Range(choices=(value,)) for key, value in fixed.items()}
    rates["optimiser.weight_decay"] = Range(choices=(0.0, 1.0))
    tune(
        "baseline_cnn",
        rates,
        tiny_catalogue(tmp_path),
        **{"trials": 2, "out": tmp_path / "out", "protocol": "clean", "sampler": "grid", "pruner": "none"},
        workers=1,
    )
    assert json.loads((tmp_path / "out" / "search.json").read_text())["trials"] == {"complete": 1, "pruned": 1}


def test_more_folds_than_a_protocol_has_are_refused_before_anything_is_written(tmp_path):
    data, out = tiny_catalogue(tmp_path / "data"), tmp_path / "out"
    with pytest.raises(
        InputRejected, match=r"^folds: 2; clean has 1\. Ask for no more, or choose .* such as patient-cv"
    ):
        tune("baseline_cnn", SPACE, data, trials=1, out=out, protocol="clean", inner_folds=2)
    assert not out.exists()


@pytest.mark.parametrize("protocol", ["official", "external", "all"])
def test_protocols_without_a_grouped_validation_part_are_refused_before_data_are_read(protocol, tmp_path):
    with pytest.raises(
        InputRejected, match=f"protocol: {protocol}; .* Choose patient-cv, published-cv, picture-cv or clean"
    ):
        tune("baseline_cnn", SPACE, None, trials=1, out=tmp_path / "out", protocol=protocol)
    asked = ["tune", "baseline_cnn", "--data", str(tmp_path / "missing.zip"), "--protocol", protocol]
    with pytest.raises(InputRejected, match=f"protocol: {protocol}; "):
        CliRunner().invoke(app, asked, catch_exceptions=False)


def plan(folder: Path, space: dict) -> Plan:
    """Of eight slices, for trials that end before they train."""
    made = tiny_catalogue(folder)
    fold = Fold("patient-cv", 0, np.arange(8), np.arange(8), np.empty(0, np.int64))
    pixels, labels = next(folder.glob("pixels-*.npy")), np.zeros(len(made.table), int)
    told = {"storage": "", "trials": 2, "sampler": "random", "pruner": "none", "seed": 0}
    return Plan("improved_cnn", space, (fold,), pixels, labels, **told)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("model.filters", [2, 2, 2, 2, 2], "for 30x30 input; give one to 4 blocks"),  # 30 px halve to 15, 7, 3, 1
        ("training.batch_size", -1, "training.batch_size: Input should be greater than or equal to 1"),
    ],
)
def test_an_impossible_trial_is_passed_over_and_the_last_one_says_why(key, value, says, tmp_path):
    study, asked = optuna.create_study(direction="maximize"), plan(tmp_path, {key: Range(choices=(value,))})
    for number in range(2):
        trial = _ask(study, asked, nullcontext())
        assert re.match(f"trial {number}: pruned; .*{says}", _finish(study, asked, trial))
    assert _ask(study, asked, nullcontext()) is None
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    with pytest.raises(RecipeError, match=f"of 2 of 2; the last: .*{says}"):
        _write(study, asked, load_recipe("improved_cnn"), tmp_path / "out")


@pytest.mark.parametrize(
    ("recipe", "space", "says"),
    [
        ("lite0", {"model.backbone.unfrozen": Range(choices=(0, 1))}, "features are computed once for all trials"),
        ("lite0", {"model.backbone.texture.width": Range(low=8, high=16)}, "features are computed once for all trials"),
        (
            "lite0",
            {"input.normalise": Range(choices=("unit", "backbone"))},
            "features are computed once for all trials",
        ),
        (
            "lite0",
            {"model.backbone.head": Range(choices=("improved",))},
            "the recipe's is pooled; keep to heads of one kind",
        ),
        ("baseline_cnn", {"input.size": Range(choices=(16, 32))}, "every trial sees the recipe's own slices"),
        ("baseline_cnn", {"input": Range(choices=({"size": 16},))}, "input: a search changes single fields"),
        ("baseline_cnn", {"external": Range(choices=([],))}, "external: a search changes single fields"),
        ("resnet10_128", {"model.backbone.unfrozen": Range(choices=(0, 1))}, "take 0 out of the space"),
        (
            "baseline_cnn",
            {"model.droput": Range(low=0.0, high=0.5)},
            "model.droput: unknown key; allowed here: name, filters",
        ),
        (
            "resnet10_128",
            {"model.backbone.weights": Range(choices=("none", "file:w.safetensors"))},
            "nobody proves a trial's weights apart",
        ),
    ],
)
def test_a_wrong_space_is_refused_before_the_storage_is_claimed_for_it(recipe, space, says, tmp_path):
    with pytest.raises(RecipeError, match=says):
        tune(recipe, space, tiny_catalogue(tmp_path), trials=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mirrors_of_a_frozen_recipe_that_has_none_are_refused(tmp_path):
    recipe = frozen(tmp_path, **{"augment.mirror": 0.0, "training.mirror_average": False})
    for key, values in (("augment.mirror", (0.0, 0.5)), ("training.mirror_average", (False, True))):
        with pytest.raises(RecipeError, match=f"{key}: features of mirrors are stored where the recipe mirrors"):
            tune(recipe, {key: Range(choices=values)}, tiny_catalogue(tmp_path), trials=1, out=tmp_path / "out")


def test_trials_of_a_search_that_runs_are_left_to_it(tmp_path):
    """Started beside another on the same storage, as on a second machine; put back once that one has ended."""
    study = optuna.create_study()
    for search in ("runs", "ended", "elsewhere"):
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}).set_user_attr("search", search)
    lock_of(tmp_path, "ended").write_text("")
    with FileLock(lock_of(tmp_path, "runs")):
        put_back(study, {"x": Range(low=0.0, high=1.0)}, tmp_path)
    states = [trial.state.name for trial in study.trials]
    assert states == ["RUNNING", "FAIL", "RUNNING", "WAITING"]
    assert study.trials[3].user_attrs == {"again": 1}
    lock_of(tmp_path, "runs").touch()
    put_back(study, {"x": Range(low=0.0, high=1.0)}, tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "RUNNING", "WAITING", "WAITING"]


def test_a_trial_killed_while_it_is_queued_or_drawn_keeps_its_values(tmp_path):
    """Queued with both, killed before the first is drawn, after it, and before it is closed, when it waits already."""
    space, study = {key: Range(low=0.0, high=1.0) for key in "xy"}, optuna.create_study()
    study.enqueue_trial({"x": 0.25, "y": 0.75})
    for kept in (0, 1, 2):
        trial = study.ask()
        assert [trial.suggest_float(key, 0, 1) for key in "xy"[:kept]] == [0.25, 0.75][:kept]
        put_back(study, space, tmp_path)
    trial = study.ask()
    study.enqueue_trial({"x": 0.25, "y": 0.75}, user_attrs={"again": trial.number})
    put_back(study, space, tmp_path)
    assert [one.state.name for one in study.trials] == ["FAIL"] * 4 + ["WAITING"]
    assert study.trials[4].system_attrs["fixed_params"] == {"x": 0.25, "y": 0.75}


def test_a_trial_killed_between_two_values_of_its_grid_point_is_put_back_whole(tmp_path):
    """2 x 2 points: one killed with one value is queued with both, one killed without any leaves its point to others."""
    space = {"x": Range(choices=(1, 2)), "y": Range(low=0, high=1)}
    asked = replace(plan(tmp_path, space), sampler="grid")
    study = optuna.create_study(sampler=sampler_of(asked))
    space["x"].suggest(study.ask(), "x")
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING))  # killed before it had a point
    put_back(study, space, tmp_path)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "WAITING"]
    tried = [
        (space["x"].suggest(trial, "x"), space["y"].suggest(trial, "y")) for trial in (study.ask() for _ in range(4))
    ]
    assert study.trials[2].user_attrs == {"again": 0}
    assert sorted(tried) == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_a_search_is_refused_weights_that_may_know_its_validation_slices(tmp_path):
    """Weights learnt on a fold of the same set, and such as a fold would have to learn first."""
    recipe, file = tmp_path / "tiny.toml", tmp_path / "w.safetensors"
    drawn = make_features(Backbone(name="resnet10t", weights="none"), 32, None)
    save_weights(file, drawn.state_dict(), {ORIGIN: json.dumps({"fold": True})})
    for weights, error, says in (
        (f"file:{file}", SplitLeak, r"learnt on a fold of this set, which is not proven apart from tiny"),
        ("pretrain", RecipeError, "a search learns none for its folds"),
    ):
        backbone = {"name": "resnet10t", "weights": weights, "unfrozen": 1}
        recipe.write_text(load_recipe("resnet10_128", {"input.size": 32, "model.backbone": backbone}).toml())
        with pytest.raises(error, match=says):
            tune(str(recipe), SPACE, tiny_catalogue(tmp_path), trials=1, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_workers_end_with_their_search(tmp_path):
    """Killed alone, it leaves no worker behind that would go on with trials that the next call puts back."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        [sys.executable, "-c", ASK, str(tmp_path), "400"], env=environment, cwd=root, start_new_session=True
    ) as process:
        for _ in range(1200):
            time.sleep(0.1)
            if trials_in(tmp_path / "out"):
                break
        os.kill(process.pid, signal.SIGKILL)
    for _ in range(600):  # a worker that loads torch on a busy machine ends after that; 400 trials take longer
        if not is_there(process.pid):
            break
        time.sleep(0.1)
    assert not is_there(process.pid)
