"""Search over a recipe's space with Optuna: several worker processes on one study, kept on disk, gone on with after any stop.

The objective is balanced accuracy on the validation part of grouped folds; the test parts are never read. How many trials are
asked for is counted under a lock, so that workers together never do one too many.
"""

import math
import multiprocessing
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from tumorscope import home
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_file
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import InputRejected, LossNotFinite, RecipeError
from tumorscope.files import write_json, write_text
from tumorscope.labels import INDEX
from tumorscope.protocols import Fold, digest, folds
from tumorscope.training.identity import environment
from tumorscope.training.pool import end_with_parent
from tumorscope.tuning.searchable import need_grouped, need_searchable, need_weights
from tumorscope.tuning.space import Space, drawn, suggested
from tumorscope.tuning.trials import Plan, Pruner, Sampler, claim, lock_of, open_study, put_back, sampler_of

if TYPE_CHECKING:
    from tumorscope.training.features import Features


def tune(
    recipe: str,
    space: Space,
    catalogue: Catalogue,
    *,
    trials: int,
    out: Path,
    protocol: str = "patient-cv",
    inner_folds: int = 1,
    storage: str = "",
    sampler: Sampler = "tpe",
    pruner: Pruner = "median",
    workers: int = 0,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Search until `trials` are finished in all, and write best.toml, trials.csv and figures into `out`; the best recipe's path.

    protocol : one of `searchable.GROUPED`
    inner_folds : folds of `protocol` whose training and validation parts a trial is trained and judged on
    storage : journal file, or a URL such as sqlite:///search.db for workers on several machines; out/journal.log by default
    workers : processes; 0 is one a core

    Raises `InputRejected` for another protocol and for more folds than it has, `RecipeError` for a recipe or a space that
    cannot be searched, `RunMismatch` where the storage holds a search over something else, `LossNotFinite` where no trial
    came to its end (`RecipeError` where that is for impossible values), `SplitLeak` for weights that may know its slices.
    """
    need_grouped(protocol)
    base = load_recipe(recipe)
    need_searchable(recipe, base, space)
    need_weights(base, catalogue)
    if sampler == "grid":
        trials = min(trials, math.prod(len(values.grid()) for values in space.values()))
    blind = _blind(protocol, catalogue, seed, inner_folds)
    labels = catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)
    slices = input_file(catalogue, base.input)
    features = _features(base, slices, catalogue, say)
    out.mkdir(parents=True, exist_ok=True)
    place, search = storage or str(out / "journal.log"), uuid.uuid4().hex
    plan = Plan(
        recipe, space, blind, slices, labels, place, trials, sampler, pruner, seed, search=search, features=features
    )
    study = open_study(plan)
    plain = {key: values.model_dump(mode="json") for key, values in space.items()}
    claim(study, {"recipe": base.model_dump(mode="json"), "space": plain, "split": digest(blind, catalogue.table)})
    put_back(study, space, out)
    with FileLock(lock_of(out, plan.search)):  # let go however this process ends
        _work(plan, min(workers or home.cores(), trials), say)
    lock_of(out, plan.search).unlink(missing_ok=True)
    return _write(study, plan, base, out)


def _blind(protocol: str, catalogue: Catalogue, seed: int, count: int) -> tuple[Fold, ...]:
    """The first folds of a protocol without their test parts; raises `InputRejected` where it has fewer than `count`."""
    made = folds(protocol, catalogue.table, seed)
    if count > len(made):
        remedy = "Ask for no more, or choose a protocol of several folds, such as patient-cv."
        raise InputRejected("folds", count, f"{protocol} has {len(made)}", remedy)
    nothing = np.empty(0, np.int64)
    return tuple(Fold(fold.protocol, fold.index, fold.train, fold.validation, nothing) for fold in made[:count])


def _features(base: Recipe, slices: Path, catalogue: Catalogue, say: Callable[[str], None]) -> "Features | None":
    """Stored features of a frozen recipe."""
    if not base.frozen:
        return None
    from tumorscope.training.features import stored_features

    say("Features of the frozen backbone, once for all trials and kept beside the slices")
    return stored_features(base, slices, catalogue.folder, "cpu")


def _work(plan: Plan, workers: int, say: Callable[[str], None]) -> None:
    """Run the workers and pass on what they say; a worker that fails stops the search with its reason."""
    context = multiprocessing.get_context("spawn")
    lock, queue = context.Lock(), context.Queue()
    processes = [context.Process(target=_worker, args=(plan, n, lock, queue)) for n in range(workers)]
    for process in processes:
        process.start()
    try:
        left = workers
        while left:
            kind, content = _next(queue, processes)
            if kind == "done":
                left -= 1
            elif kind == "failed":
                raise content
            else:
                say(content)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(queue: Any, processes: Sequence[Any]) -> tuple[str, Any]:
    import queue as queues

    while True:
        with suppress(queues.Empty):
            return queue.get(timeout=1)
        if gone := [process.exitcode for process in processes if process.exitcode not in (None, 0)]:
            raise RuntimeError(f"A worker of the search ended with code {gone[0]}. Start the search again to go on.")


def _worker(plan: Plan, number: int, lock: Any, queue: Any) -> None:
    """Ask, train and tell until enough trials are finished or under way, or the search itself has ended."""
    end_with_parent()
    try:
        study = open_study(plan)
        study.sampler = sampler_of(plan, number, len(study.get_trials(deepcopy=False)))
        while (trial := _ask(study, plan, lock)) is not None:
            queue.put(("said", _finish(study, plan, trial)))
        queue.put(("done", number))
    except Exception as error:
        queue.put(("failed", error))


def _ask(study: Any, plan: Plan, lock: Any) -> Any:
    from optuna.trial import TrialState

    counted = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    with lock:
        if len(study.get_trials(deepcopy=False, states=counted)) >= plan.trials:
            return None
        trial = study.ask()
        trial.set_user_attr("search", plan.search)
        drawn(plan.space, trial)  # stored at once, so that a kill loses no values
        return trial


def _finish(study: Any, plan: Plan, trial: Any) -> str:
    import optuna

    try:
        recipe = suggested(plan.recipe, plan.space, trial, f"trial-{trial.number}")
        values = [_score(recipe, plan, fold, trial if not done else None) for done, fold in enumerate(plan.folds)]
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return f"trial {trial.number}: pruned"
    except (LossNotFinite, RecipeError) as error:  # values that do not train are a finding, and no reason to end
        if isinstance(error, RecipeError):
            trial.set_user_attr("impossible", str(error))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return f"trial {trial.number}: pruned; {error}"
    study.tell(trial, float(np.mean(values)))
    return f"trial {trial.number}: balanced validation accuracy {np.mean(values):.4f}"


def _score(recipe: Recipe, plan: Plan, fold: Fold, trial: Any) -> float:
    """Balanced validation accuracy of the recipe trained on a fold; the first fold may be pruned by that of its epochs."""
    import optuna
    from sklearn.metrics import balanced_accuracy_score

    from tumorscope.training.fold import open_fabric
    from tumorscope.training.loop import Part, fit, predict

    def part(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = plan.features.rows(rows) if plan.features else np.load(plan.pixels, mmap_mode="r")[rows]
        return inputs, plan.labels[rows]

    train, validation = part(fold.train), part(fold.validation)

    def report(row: dict[str, float]) -> None:
        if trial is None:
            return
        trial.report(row["val_balanced_accuracy"], int(row["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    fabric = open_fabric("cpu", recipe.training.precision)
    shape = plan.features.shape if plan.features else None
    module, _ = fit(recipe, plan.seed, train, validation, features=shape, fabric=fabric, report=report)
    said = predict(module, Part.of(*validation, fabric.device).images, recipe.training.mirror_average)
    return float(balanced_accuracy_score(validation[1], said.numpy().argmax(1)))


def _write(study: Any, plan: Plan, base: Recipe, out: Path) -> Path:
    from tumorscope.tuning.figures import write_figures

    trials = study.get_trials(deepcopy=False)
    states = [trial.state.name.lower() for trial in trials]
    if "complete" not in states:
        if impossible := [trial.user_attrs["impossible"] for trial in trials if "impossible" in trial.user_attrs]:
            raise RecipeError(
                f"{base.name}: no trial came to its last epoch, and no network can be made of the values of "
                f"{len(impossible)} of {len(trials)}; the last: {impossible[-1]}. Take such values out of the space and give "
                "another --out or --storage."
            )
        raise LossNotFinite(
            f"{base.name}: all {len(states)} trials ended before their last epoch; lower the rates of the space, "
            "or ask for more trials."
        )
    best = suggested(plan.recipe, plan.space, study.best_trial, f"{base.name}-tuned")
    write_text(out / "best.toml", best.toml())
    write_text(out / "trials.csv", study.trials_dataframe().to_csv(index=False))
    write_json(
        out / "search.json",
        {
            "recipe": base.name,
            "sampler": plan.sampler,
            "pruner": plan.pruner,
            "trials": {state: states.count(state) for state in sorted(set(states))},
            "best": {"trial": study.best_trial.number, "value": study.best_value, "params": study.best_trial.params},
            **environment(),
        },
    )
    write_figures(study, out / "figures")
    return out / "best.toml"
