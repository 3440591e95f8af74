"""The trials of a search, kept by Optuna in a file or a database: opened, claimed for one question, gone on with after a stop.

A trial that was running when the search was killed is put back into the queue with the same values, so that none is lost and
none is done twice.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from tumorscope.errors import InputRejected, RunMismatch
from tumorscope.protocols import Fold
from tumorscope.tuning.space import Space

if TYPE_CHECKING:
    from tumorscope.training.features import Features

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "hyperband", "none"]
STUDY = "tune"


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs. `folds` have empty test parts; `storage` is a journal file or a database URL.

    search : id of the call that the worker belongs to, which trials are marked with; features : of all slices, where frozen
    """

    recipe: str
    space: Space
    folds: tuple[Fold, ...]
    pixels: Path
    labels: np.ndarray
    storage: str
    trials: int
    sampler: Sampler
    pruner: Pruner
    seed: int
    search: str = ""
    features: "Features | None" = None


def open_study(plan: Plan) -> Any:
    """The study in its storage, made where it is new."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=STUDY,
            storage=storage_of(plan.storage),
            sampler=sampler_of(plan),
            pruner=_pruner(plan.pruner),
            direction="maximize",
            load_if_exists=True,
        )
    except (ValueError, ImportError, OSError) as error:
        raise InputRejected("storage", plan.storage, str(error), "Give a file or a database URL.") from error


def storage_of(place: str) -> Any:
    """Optuna's storage at a database URL or in a journal file."""
    if "://" in place:
        return place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(place))


def sampler_of(plan: Plan, worker: int = 0, known: int = 0) -> Any:
    """The sampler of a worker; `known` trials change its seed, or a search gone on with would draw the same values again."""
    from optuna import samplers

    seed = int(np.random.SeedSequence([plan.seed, worker, known]).generate_state(1)[0])
    match plan.sampler:
        case "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(1, plan.trials // 3)))
        case "random":
            return samplers.RandomSampler(seed=seed)
        case "grid":

            class Grid(samplers.GridSampler):
                def after_trial(self, *_: Any) -> None:
                    """Nothing: `tune` counts the grid; optuna would stop a loop that there is not in ask and tell."""

            return Grid({key: values.grid() for key, values in plan.space.items()}, seed=plan.seed)


def _pruner(name: Pruner) -> Any:
    from optuna import pruners

    match name:
        case "median":
            return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=3)
        case "hyperband":
            return pruners.HyperbandPruner(min_resource=2)
        case "none":
            return pruners.NopPruner()


def claim(study: Any, identity: dict[str, Any]) -> None:
    """Write down what the study searches, or check that it is this."""
    stored = study.user_attrs.get("identity")
    if stored is None:
        study.set_user_attr("identity", identity)
    elif stored != json.loads(json.dumps(identity)):
        different = [key for key in identity if stored.get(key) != json.loads(json.dumps(identity[key]))]
        raise RunMismatch(
            f"The storage holds a search with another {' and '.join(different)}. Give another --out or --storage."
        )


def put_back(study: Any, space: Space, out: Path) -> None:
    """Trials that a search in `out` was in the middle of when it ended: closed, and queued again with the same values.

    Those of a search that is still running, here or on another machine, are left to it.
    """
    from optuna.samplers import GridSampler
    from optuna.trial import TrialState

    again = {trial.user_attrs.get("again") for trial in study.get_trials(deepcopy=False)}
    ended = {file for file in out.glob(lock_of(out, "*").name) if not _held(file)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        search = trial.user_attrs.get("search")  # none where it was killed between the two
        if search is not None and lock_of(out, search) not in ended:
            continue
        values = _values(study, trial)
        whole = len(values) == len(space) or not isinstance(study.sampler, GridSampler)  # a grid fills no gaps
        if values and whole and trial.number not in again:
            study.enqueue_trial(values, user_attrs={"again": trial.number})
        study.tell(trial.number, state=TrialState.FAIL)  # only now: a kill between the two loses nothing
    for file in ended:
        file.unlink(missing_ok=True)


def _values(study: Any, trial: Any) -> dict[str, Any]:
    """Values of a trial that was killed: those it was queued with, those drawn since, and what is left of its grid point."""
    from optuna.distributions import CategoricalDistribution
    from optuna.samplers import GridSampler

    values = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if "grid_id" in trial.system_attrs and isinstance(study.sampler, GridSampler):
        for key, candidates in trial.system_attrs["search_space"].items():
            among = CategoricalDistribution(candidates)
            values.setdefault(key, study.sampler.sample_independent(study, trial, key, among))
    return values


def lock_of(out: Path, search: str) -> Path:
    """The file that a search holds locked as long as it runs."""
    return out / f".search-{search}.lock"


def _held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True
