"""Search over a recipe's space with Optuna: several worker processes on one study, kept on disk, gone on with after any stop.

The objective is balanced accuracy on the validation part of grouped folds; the test parts are never read. A trial that was
running when the search was killed is put back into the queue with the same values, so that none is lost and none is done
twice; how many are asked for is counted under a lock, so that workers together never do one too many.
"""

import json
import math
import multiprocessing
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import BaseModel

from tumorscope import home
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.cache import input_file
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import InputRejected, LossNotFinite, RecipeError, RunMismatch
from tumorscope.files import write_json, write_text
from tumorscope.labels import INDEX
from tumorscope.protocols import Fold, digest, folds
from tumorscope.training.identity import environment
from tumorscope.training.pool import end_with_parent
from tumorscope.tuning.space import Space, drawn, first, suggested

if TYPE_CHECKING:
    from tumorscope.training.features import Features

Sampler = Literal["tpe", "random", "grid"]
Pruner = Literal["median", "hyperband", "none"]
STUDY = "tune"
#: Protocols whose validation parts share no picture with training. official's does, external needs a second set, all has none.
GROUPED = ("patient-cv", "published-cv", "picture-cv", "clean")


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

    protocol : one of `GROUPED`
    inner_folds : folds of `protocol` whose training and validation parts a trial is trained and judged on
    storage : journal file, or a URL such as sqlite:///search.db for workers on several machines; out/journal.log by default
    workers : processes; 0 is one a core

    Raises `InputRejected` for another protocol and for more folds than it has, `RecipeError` for a recipe or a space that
    cannot be searched, `RunMismatch` where the storage holds a search over something else, `LossNotFinite` where no trial
    came to its end (`RecipeError` where that is for impossible values), `SplitLeak` for weights that may know its slices.
    """
    need_grouped(protocol)
    base = load_recipe(recipe)
    _need_searchable(recipe, base, space)
    _need_weights(base, catalogue)
    if sampler == "grid":
        trials = min(trials, math.prod(len(values.grid()) for values in space.values()))
    made = folds(protocol, catalogue.table, seed)
    if inner_folds > len(made):
        remedy = "Ask for no more, or choose a protocol of several folds, such as patient-cv."
        raise InputRejected("folds", inner_folds, f"{protocol} has {len(made)}", remedy)
    nothing = np.empty(0, np.int64)
    blind = tuple(Fold(fold.protocol, fold.index, fold.train, fold.validation, nothing) for fold in made[:inner_folds])
    labels = catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)
    slices = input_file(catalogue, base.input)
    features = _features(base, slices, catalogue, say)
    out.mkdir(parents=True, exist_ok=True)
    place = storage or str(out / "journal.log")
    plan = Plan(
        recipe,
        space,
        blind,
        slices,
        labels,
        place,
        trials,
        sampler,
        pruner,
        seed,
        uuid.uuid4().hex,
        features,
    )
    study = _open(plan)
    _claim(
        study, {"recipe": base.model_dump(mode="json"), "space": _plain(space), "split": digest(blind, catalogue.table)}
    )
    _put_back(study, space, out)
    with FileLock(_lock(out, plan.search)):  # let go however this process ends
        _work(plan, min(workers or home.cores(), trials), say)
    _lock(out, plan.search).unlink(missing_ok=True)
    return _write(study, plan, base, out)


def need_grouped(protocol: str) -> None:
    """Raise `InputRejected` unless slices of one picture are never on both sides of the protocol's validation parts."""
    if protocol not in GROUPED:
        limit = "a search judges trials on validation slices that share no picture with training"
        raise InputRejected("protocol", protocol, limit, f"Choose {', '.join(GROUPED[:-1])} or {GROUPED[-1]}.")


def _need_searchable(recipe: str, base: Recipe, space: Space) -> None:
    """Raise `RecipeError` for fields that the recipe lacks, and for what trials would silently leave out.

    All trials see the same slices, and heads on a frozen backbone the same features.
    """
    if base.pixels_of_fold:
        raise RecipeError(f"{base.name}: its slices are made for each fold, which a search does not do; use train")
    if base.external:
        raise RecipeError(f"{base.name}: external: a search has no further sets; take it out")
    pixels = [key for key in space if key.startswith("input.") and key != "input.normalise"]
    if pixels:
        raise RecipeError(f"{pixels[0]}: every trial sees the recipe's own slices; take it out of the space")
    whole = [key for key in space if key == "external" or isinstance(_value(base, key), BaseModel)]
    if whole:
        raise RecipeError(f"{whole[0]}: a search changes single fields; name those in it")
    if base.frozen:
        _need_same_features(base, space)
    unfrozen = space.get("model.backbone.unfrozen")
    if unfrozen and 0 in (unfrozen.low, *unfrozen.choices):
        raise RecipeError("model.backbone.unfrozen: a search trains through the network; take 0 out of the space")
    if "model.backbone.weights" in space:
        raise RecipeError(
            "model.backbone.weights: nobody proves a trial's weights apart from the set; take it out of the space"
        )
    first(recipe, space)  # before the storage is claimed for a space with a typo, which mended would be another one


def _need_same_features(base: Recipe, space: Space) -> None:
    """Raise `RecipeError` for fields that change a frozen backbone's features, which are computed once for all trials."""
    from tumorscope.models.heads import POOLING
    from tumorscope.training.features import views

    backbone = base.model.backbone
    assert backbone is not None
    of_head = ["model.backbone.head"]
    if backbone.texture:
        of_head += ["model.backbone.texture.fusion", "model.backbone.texture.width"]
    for key, values in space.items():
        of_backbone = key.startswith("model.backbone.") and key not in of_head
        if of_backbone or key in ("model.name", "input.normalise"):
            raise RecipeError(
                f"{key}: a frozen backbone's features are computed once for all trials; take it out of the space"
            )
        if key == "model.backbone.head" and len({head in POOLING for head in (backbone.head, *values.choices)}) > 1:
            raise RecipeError(
                f"{key}: features are stored as means over places for {' and '.join(POOLING)}, whole for other heads, and "
                f"the recipe's is {backbone.head}; keep to heads of one kind"
            )
        if key in ("augment.mirror", "training.mirror_average") and views(base) == 1:
            raise RecipeError(
                f"{key}: features of mirrors are stored where the recipe mirrors; set augment.mirror in it"
            )


def _value(base: Recipe, key: str) -> Any:
    """What the recipe holds at a dotted key; None where it has no such table or field."""
    value: Any = base
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def _need_weights(base: Recipe, catalogue: Catalogue) -> None:
    """Raise `RecipeError` for weights that a fold would have to learn first, and what `weights_of` and `need_apart` raise."""
    if base.model.backbone is None:
        return
    if base.model.backbone.weights == "pretrain":
        raise RecipeError(
            f"{base.name}: model.backbone.weights: a search learns none for its folds; make them with tumorscope pretrain "
            "and give file:PATH"
        )
    from tumorscope.models.weights import weights_of
    from tumorscope.training.pretrain import need_apart

    if source := weights_of(base.model.backbone):
        need_apart(source, catalogue)


def _features(base: Recipe, slices: Path, catalogue: Catalogue, say: Callable[[str], None]) -> "Features | None":
    """Stored features of a frozen recipe."""
    if not base.frozen:
        return None
    from tumorscope.training.features import stored_features

    say("Features of the frozen backbone, once for all trials and kept beside the slices")
    return stored_features(base, slices, catalogue.folder, "cpu")


def _open(plan: Plan) -> Any:
    """The study in its storage, made where it is new."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return optuna.create_study(
            study_name=STUDY,
            storage=_storage(plan.storage),
            sampler=_sampler(plan),
            pruner=_pruner(plan.pruner),
            direction="maximize",
            load_if_exists=True,
        )
    except (ValueError, ImportError, OSError) as error:
        raise InputRejected("storage", plan.storage, str(error), "Give a file or a database URL.") from error


def _storage(place: str) -> Any:
    if "://" in place:
        return place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(place))


def _sampler(plan: Plan, worker: int = 0, known: int = 0) -> Any:
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


def _claim(study: Any, identity: dict[str, Any]) -> None:
    """Write down what the study searches, or check that it is this."""
    stored = study.user_attrs.get("identity")
    if stored is None:
        study.set_user_attr("identity", identity)
    elif stored != json.loads(json.dumps(identity)):
        different = [key for key in identity if stored.get(key) != json.loads(json.dumps(identity[key]))]
        raise RunMismatch(
            f"The storage holds a search with another {' and '.join(different)}. Give another --out or --storage."
        )


def _put_back(study: Any, space: Space, out: Path) -> None:
    """Trials that a search in `out` was in the middle of when it ended: closed, and queued again with the same values.

    Those of a search that is still running, here or on another machine, are left to it.
    """
    from optuna.samplers import GridSampler
    from optuna.trial import TrialState

    again = {trial.user_attrs.get("again") for trial in study.get_trials(deepcopy=False)}
    ended = {file for file in out.glob(_lock(out, "*").name) if not _held(file)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        search = trial.user_attrs.get("search")  # none where it was killed between the two
        if search is not None and _lock(out, search) not in ended:
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


def _lock(out: Path, search: str) -> Path:
    """The file that a search holds locked as long as it runs."""
    return out / f".search-{search}.lock"


def _held(lock: Path) -> bool:
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


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
        study = _open(plan)
        study.sampler = _sampler(plan, number, len(study.get_trials(deepcopy=False)))
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


def _plain(space: Space) -> dict[str, Any]:
    return {key: values.model_dump(mode="json") for key, values in space.items()}
