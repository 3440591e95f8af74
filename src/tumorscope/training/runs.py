"""Runs: one recipe under one protocol with one seed, a folder each. Folds of all runs are trained side by side and resume.

A run folder holds recipe.toml, environment.json, predictions.csv (a row a slice), scores.json and, for each fold, its
history, weights, those of a frozen backbone that it has learnt, and (while it trains) a checkpoint.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tumorscope import home
from tumorscope.config import External, Recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.data.masks import masks
from tumorscope.errors import DataNotFound, InputRejected, RecipeError, RunMismatch
from tumorscope.labels import INDEX
from tumorscope.protocols import folds
from tumorscope.training.external import extended, find_external, widened, with_external
from tumorscope.training.fold import Event, Job, Report, open_fabric, progress_of, train_fold, under_torchrun, write_csv
from tumorscope.training.identity import finder_of, identity_of, made_of, note_machine, noted, open_run
from tumorscope.training.pool import work
from tumorscope.training.prepare import sources_of

if TYPE_CHECKING:
    from tumorscope.training.features import Features

#: Columns of predictions.csv and regions.csv that are no numbers, ids of digits among them.
_TEXT = dict.fromkeys(("path", "label", "source", "plane", "patient", "picture", "part"), str)


def train_runs(
    recipe: Recipe,
    catalogue: Catalogue,
    protocol: str,
    seeds: Sequence[int],
    *,
    runs: Path = Path("runs"),
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    device: str = "auto",
    report: Report = lambda _: None,
) -> list[Path]:
    """Train `recipe` for every seed and give the run folders, each complete with predictions.

    workers : folds trained at the same time; 0 is one a core over the recipe's threads, and one on a GPU, whose memory they share
    device : "auto", "cpu" or "cuda"

    Raises `RunMismatch` where a run folder exists and neither `resume` nor `overwrite` is set, or holds something else.
    """
    device = _check(recipe, device)
    splits = {seed: folds(protocol, catalogue.table, seed) for seed in seeds}
    folders = {seed: runs / f"{recipe.name}-{place_of(catalogue, protocol, seed)}" for seed in seeds}
    catalogue, file, further = with_external(recipe, catalogue)
    left_out: dict[int, list[list[dict[str, Any]]]] = {}
    for seed, made in splits.items():
        both = [widened(fold, catalogue.table, further) for fold in made]
        splits[seed], left_out[seed] = [fold for fold, _ in both], [counts for _, counts in both]
    features = _features(recipe, file, catalogue, device, report)
    sources = sources_of(
        recipe,
        catalogue,
        seeds,
        lambda finder: train_runs(
            finder, catalogue, protocol, seeds, runs=runs, resume=True, workers=workers, device=device, report=report
        ),
    )
    inside = masks_of(recipe, catalogue) if recipe.needs_masks else None
    masks_from = "" if inside is None else "figshare" if figshare_of(recipe, catalogue) else "data"
    sources_sha256 = made_of(recipe, inside)
    labels = _labels(catalogue)
    jobs = [
        Job(recipe, seed, folders[seed], fold, file, labels, device, inside, features, sources[seed])
        for seed, made in splits.items()
        for fold in made
    ]
    with _first_before_the_others(device) as first:
        # Those that are there first: one that does not fit is refused before a folder is made for another.
        for seed in sorted(splits, key=lambda seed: not folders[seed].exists()) if first else ():
            made = splits[seed]
            identity = identity_of(recipe, catalogue, protocol, seed, made)
            source = sources[seed]
            named = sources_sha256 | finder_of(source.finder if source else None)
            facts = {**noted(recipe, catalogue, made, left_out[seed], masks_from), **named_device(device)}
            open_run(folders[seed], recipe, identity, named, facts, resume=resume, overwrite=overwrite)
            if not all((folder / "predictions.csv").exists() for folder in folders.values()):
                _need_this_network(folders[seed], recipe)
            _say_left_out(folders[seed], left_out[seed], report)
        for run in {job.run for job in jobs if not job.finished()} if first else ():
            note_machine(run, named_device(device))
    _work([job for job in jobs if not job.finished()], workers, report)
    with _first_before_the_others(device) as first:
        for folder in folders.values() if first else ():
            _gather(folder, catalogue)
    return [folders[seed] for seed in seeds]


def _need_this_network(run: Path, recipe: Recipe) -> None:
    """Raise `RunMismatch` where folds of a run, which others are to be trained beside, are of another network than those."""
    there = shapes_of(run)
    if recipe.frozen or not there:
        return
    from tumorscope.training.network import untrained_network

    if there != {name: tuple(tensor.shape) for name, tensor in untrained_network(recipe).state_dict().items()}:
        raise RunMismatch(
            f"{run}: its weights do not fit the network that {recipe.name} is now, so that nothing is trained beside them. "
            "Train it again with --overwrite, or under another --name."
        )


def _say_left_out(run: Path, folds: list[list[dict[str, Any]]], report: Report) -> None:
    """Report how many slices of further sets go into the folds of a run that is not finished, and why others do not."""
    if (run / "predictions.csv").exists():
        return
    for index, counts in enumerate(folds):
        for one in counts:
            kinds = ", ".join(f"{one[kind]:,} by {kind}" for kind in ("picture", "patient") if kind in one)
            why = f"{one['left_out']:,} of {one['slices']:,} left out{': ' * bool(kinds)}{kinds}"
            work = f"{run.name} fold {index}, {one['data']} for {one['role']} ({why})"
            report(Event(work, one["slices"] - one["left_out"], one["slices"], "slices", finished=True))


def place_of(catalogue: Catalogue, protocol: str, seed: int) -> str:
    """The end of a run folder's name: protocol, external set where there is one, and seed."""
    other = f"-{catalogue.parts[1].name}" if catalogue.parts else ""
    return f"{protocol}{other}-s{seed}"


def device_here(device: str) -> str:
    """ "cpu" or "cuda" for auto, cpu or cuda; raises `InputRejected` for what is not here."""
    import torch

    here = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if device not in ("auto", *here):
        raise InputRejected("device", device, f"here there is {' and '.join(here)}", "Choose one of these, or auto.")
    return here[-1] if device == "auto" else device


def named_device(device: str) -> dict[str, str]:
    """What environment.json says of "cpu" or "cuda": a GPU has its name beside it."""
    import torch

    return {"device": device, **({"gpu": torch.cuda.get_device_name()} if device == "cuda" else {})}


def _check(recipe: Recipe, device: str) -> str:
    """Refuse what cannot be trained before anything is written; gives "cpu" or "cuda"."""
    from tumorscope.models.registry import build, drawn_at_random

    backbone = recipe.model.backbone
    learnt_later = backbone is not None and backbone.weights == "pretrain"
    try:
        build(drawn_at_random(recipe.model) if learnt_later else recipe.model, recipe.input.size)
    except RecipeError as error:
        raise RecipeError(f"{recipe.name}: {error}") from None
    return device_here(device)


def _features(recipe: Recipe, slices: Path, catalogue: Catalogue, device: str, report: Report) -> "Features | None":
    """Stored features of a frozen recipe whose slices and weights are the same in every fold."""
    backbone = recipe.model.backbone
    if backbone is None or backbone.weights == "pretrain":
        return None
    from tumorscope.models.weights import weights_of
    from tumorscope.training.features import stored_features
    from tumorscope.training.pretrain import need_apart

    source = weights_of(backbone)
    if source is not None:
        need_apart(source, catalogue)
    if not recipe.frozen or recipe.pixels_of_fold:
        return None
    return stored_features(recipe, slices, catalogue.folder, device, lambda work: progress_of(report, work, "slices"))


def _work(jobs: list[Job], workers: int, report: Report) -> None:
    """Train every job, in this process when one at a time, else by a pool; reports are passed on as they come."""
    if not jobs:
        return
    fitting = 1 if jobs[0].device == "cuda" else max(1, home.cores() // jobs[0].recipe.training.threads)
    workers = min(len(jobs), workers or fitting)
    if workers == 1 or under_torchrun():
        for job in jobs:
            train_fold(job, report)
        return
    work(train_fold, jobs, workers, report)


def masks_of(recipe: Recipe, catalogue: Catalogue) -> Path:
    """File of the tumour masks at the recipe's input, from the data or from the figshare set that `regions.masks` names.

    Each set's own masks come first. Where the main set has some, the figshare set need not be there: tumours of further sets
    that name no mask are of unknown place then. Raises `DataNotFound` where neither knows any of the main set.
    """
    return masks(catalogue, recipe.input.size, recipe.input.crop, figshare_of(recipe, catalogue))


def figshare_of(recipe: Recipe, catalogue: Catalogue) -> Path | None:
    """The figshare set, where masks are taken from it; None where the data's own are enough. Raises as `masks_of` does."""
    tables = [one.table for one in catalogue.sets]
    known = [(table["mask"] != "").any() or (table["label"] == "notumor").all() for table in tables]
    if all(known):
        return None
    try:
        return find_external(recipe.regions.masks, catalogue.origin, "regions.masks")
    except DataNotFound:
        if not known[0]:
            raise
    return None


@contextmanager
def _first_before_the_others(device: str) -> Iterator[bool]:
    """Whether this is the first process; under torchrun the others wait until it has done what only one may do."""
    if not under_torchrun():
        yield True
        return
    fabric = open_fabric(device)
    yield fabric.is_global_zero
    fabric.barrier()


def _gather(folder: Path, catalogue: Catalogue) -> None:
    """Pool the folds' predictions into predictions.csv: path, label, patient, picture, part, fold and probabilities."""
    if (folder / "predictions.csv").exists():
        return
    frames = [pd.read_csv(file) for file in sorted(folder.glob("fold-*/predictions.csv"))]
    regions = [pd.read_csv(file) for file in sorted(folder.glob("fold-*/regions.csv"))]
    if regions:
        write_csv(folder / "regions.csv", _named(pd.concat(regions, ignore_index=True), catalogue))
    pooled = pd.concat(frames, ignore_index=True)
    write_csv(folder / "predictions.csv", _named(pooled, catalogue))


def _named(scored: pd.DataFrame, catalogue: Catalogue) -> pd.DataFrame:
    """Rows of the catalogue turned into what they are."""
    facts = catalogue.table.iloc[scored.pop("row")][["path", "label", "source", "plane", "patient", "picture"]]
    return pd.concat([facts.reset_index(drop=True), scored], axis=1)


def facts_of(run: Path, catalogue: Catalogue) -> dict[str, Any]:
    """environment.json of a run folder.

    catalogue : of the main set; further sets that the run's recipe names are found as in training
    Raises `RunMismatch` where the run is of other data, `DataNotFound` where a further set is not there.
    """
    facts: dict[str, Any] = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    entries = [External.model_validate(entry) for entry in facts.get("recipe", {}).get("external", ())]
    catalogue, _ = extended(entries, catalogue)
    if facts["data"]["digest"] != catalogue.digest:
        raise RunMismatch(
            f"{run}: trained on {facts['data']['name']} ({facts['data']['digest']}), other bytes than {catalogue.name} "
            f"({catalogue.digest}). Give its --data{', and its --test-data too' if facts['protocol'] == 'external' else ''}."
        )
    return facts


def read_predictions(run: str | os.PathLike[str]) -> pd.DataFrame:
    """predictions.csv of a run folder; ids stay text."""
    return pd.read_csv(Path(run) / "predictions.csv", dtype=_TEXT, keep_default_na=False)


def read_regions(run: Path) -> pd.DataFrame:
    """regions.csv of a region model's run folder; ids stay text, and what is unknown of a slice is NaN."""
    missing = {name: [""] for name in ("mask_pixels", "dice", "pointed")}
    return pd.read_csv(run / "regions.csv", dtype=_TEXT, keep_default_na=False, na_values=missing)


def shapes_of(run: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every stored weight of a run's network by name, from the first fold that holds them; empty where none does."""
    for file in sorted(run.glob("fold-*/weights.safetensors")):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, framework="np") as stored:
                return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
        except SafetensorError:
            continue  # damaged, which is told where its weights are asked for
    return {}


def _labels(catalogue: Catalogue) -> np.ndarray:
    return catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)
