"""One fold: train it, predict, write its weights, history and predictions. What a worker process is given to do."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tumorscope.config import Recipe
from tumorscope.files import replacing
from tumorscope.labels import CLASSES
from tumorscope.protocols import Fold

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import nn

    from tumorscope.training.features import Features
    from tumorscope.training.prepare import Source

#: File in a fold's folder with the weights of a frozen backbone that were learnt on its training slices.
BACKBONE = "backbone.safetensors"
PROBABILITIES = [f"p_{name}" for name in CLASSES]


@dataclass(frozen=True)
class Event:
    """Progress of long work: what it is, how much is done of how much in which unit, and of an epoch its history row.

    finished : that nothing more comes, which training may say before `total` is done
    """

    work: str
    done: int
    total: int
    unit: str = "epochs"
    row: dict[str, float] = field(default_factory=dict)
    finished: bool = False


Report = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """One fold to train: everything a worker process needs, no pixels.

    source : what the fold makes its own pixels of, where the recipe asks for that; features : of all slices, where frozen
    """

    recipe: Recipe
    seed: int
    run: Path
    fold: Fold
    pixels: Path
    labels: np.ndarray
    device: str
    masks: Path | None = None
    features: "Features | None" = None
    source: "Source | None" = None

    @property
    def folder(self) -> Path:
        """Where this fold's files go."""
        return self.run / f"fold-{self.fold.index}"

    def finished(self) -> bool:
        """Whether its predictions, or the whole run's, are there."""
        return any((folder / "predictions.csv").exists() for folder in (self.folder, self.run))


def train_fold(job: Job, report: Report) -> None:
    """Train one fold and write its weights, history and predictions; the checkpoint goes when they are there."""
    from tumorscope.training.loop import fit

    fabric = open_fabric(job.device, job.recipe.training.precision)
    checkpoint = job.folder / "checkpoint.safetensors"
    job.folder.mkdir(parents=True, exist_ok=True)
    job = _with_fold_features(_with_fold_pixels(job, report), report)
    train, validation = ((_inputs(job, rows), job.labels[rows]) for rows in (job.fold.train, job.fold.validation))

    def note(row: dict[str, float], finished: bool = False) -> None:
        if fabric.is_global_zero:
            work, training = f"{job.run.name} fold {job.fold.index}", job.recipe.training
            done = int(row["epoch"] + row.get("member", 0) * training.epochs)
            report(Event(work, done, training.epochs * training.members, row=row, finished=finished))

    masks = None if job.masks is None else np.load(job.masks, mmap_mode="r")
    module, history = fit(
        job.recipe,
        job.seed,
        train,
        validation,
        masks=None if masks is None else masks[job.fold.train],
        features=job.features.shape if job.features else None,
        fabric=fabric,
        checkpoint=checkpoint,
        report=note,
    )
    if fabric.is_global_zero:
        if masks is not None and job.recipe.model.name == "region_unet":
            _write_regions(job, module, masks, fabric)
        _write_fold(job, module, history, fabric)
        for file in job.folder.glob(f"{checkpoint.stem}*{checkpoint.suffix}"):
            file.unlink()
    fabric.barrier()
    note(history[-1], finished=True)


def _inputs(job: Job, rows: np.ndarray) -> np.ndarray:
    """What the fold's network is given of these rows: slices uint8 (n, s, s), or features float32 (n, views, d)."""
    if job.features is not None:
        return job.features.rows(rows)
    slices: np.ndarray = np.load(job.pixels, mmap_mode="r")[rows]
    return slices


def _with_fold_pixels(job: Job, report: Report) -> Job:
    """The job with pixels that networks of its own fold have made, where the recipe asks for that."""
    if job.source is None:
        return job
    from tumorscope.training.prepare import fold_pixels

    return replace(job, pixels=fold_pixels(job, job.source, partial(progress_of, report)))


def _with_fold_features(job: Job, report: Report) -> Job:
    """The job with weights learnt on its own training slices where the recipe asks for that, and with stored features.

    A frozen backbone's are kept beside its head, so that the run does not need the cache that they were learnt in.
    """
    recipe, backbone = job.recipe, job.recipe.model.backbone
    if backbone is None or job.features is not None:
        return job
    from tumorscope.training.features import fold_recipe, stored_features
    from tumorscope.training.pretrain import fold_weights

    say = partial(progress_of, report)
    if backbone.weights == "pretrain":
        file = job.folder / BACKBONE
        if not file.exists():
            learnt = fold_weights(recipe, job.pixels, job.labels, job.fold.train, job.seed, job.device, say)
            file = _copied(learnt, file) if recipe.frozen else learnt
        recipe = fold_recipe(recipe, str(file))
    if not recipe.frozen:
        return replace(job, recipe=recipe)
    place = f"{job.run.name} fold {job.fold.index}"
    features = stored_features(
        recipe, job.pixels, job.pixels.parent, job.device, lambda work: say(f"{work}, {place}", "slices")
    )
    return replace(job, features=features)


def _copied(file: Path, place: Path) -> Path:
    with replacing(place) as temporary:
        shutil.copyfile(file, temporary)
    return place


def progress_of(report: Report, work: str, unit: str) -> Callable[[int, int], None]:
    """A (done, total) callback that reports `work`."""
    return lambda done, total: report(Event(work, done, total, unit, finished=done == total))


def _write_fold(job: Job, module: "nn.Module", history: list[dict[str, float]], fabric: "Fabric") -> None:
    """Weights, history and, last of all, predictions, which say that the fold is finished."""
    from tumorscope.training.checkpoint import save_weights
    from tumorscope.training.loop import predict, reproducible

    frames = []
    with reproducible(job.seed, job.recipe.training.threads, fabric.device):
        for name, rows in (("validation", job.fold.validation), ("test", job.fold.test)):
            chances = predict(module, _tensor(_inputs(job, rows), fabric.device), job.recipe.training.mirror_average)
            frames.append(_predictions(job, name, rows, chances.numpy()))
    header = {"recipe": job.recipe.model_dump_json()}
    if job.features:
        own = (job.folder / BACKBONE).exists()
        header |= {"backbone": BACKBONE if own else job.features.weights, "backbone_sha256": job.features.sha256}
    save_weights(job.folder / "weights.safetensors", module.state_dict(), header)
    write_csv(job.folder / "history.csv", pd.DataFrame(history))
    write_csv(job.folder / "predictions.csv", pd.concat(frames, ignore_index=True))


def _write_regions(job: Job, module: "nn.Module", masks: np.ndarray, fabric: "Fabric") -> None:
    """regions.csv: what the region map makes of every scored slice; see `evaluation.regions.region_scores`."""
    from tumorscope.evaluation.regions import region_scores
    from tumorscope.training.loop import reproducible

    frames = []
    with reproducible(job.seed, job.recipe.training.threads, fabric.device):
        for name, rows in (("validation", job.fold.validation), ("test", job.fold.test)):
            scored = region_scores(
                *(module, _inputs(job, rows), masks[rows], job.labels[rows], fabric.device),
                mirror_average=job.recipe.training.mirror_average,
            )
            frames.append(scored.assign(row=rows, part=name, fold=job.fold.index))
    write_csv(job.folder / "regions.csv", pd.concat(frames, ignore_index=True))


def under_torchrun() -> bool:
    """Whether this is one of several processes that train together."""
    return "LOCAL_WORLD_SIZE" in os.environ


def open_fabric(device: str, precision: str = "32") -> "Fabric":
    """Fabric on one device, or under torchrun on this process's share of them all; precision as in `config.Training`."""
    from lightning_fabric import Fabric

    local, world = (int(os.environ[name]) if under_torchrun() else 1 for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    kind: Any = "bf16-mixed" if precision == "bf16" else "32-true"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it would name the precision at every fold
    fabric = Fabric(accelerator=device, devices=local, num_nodes=world // local, precision=kind)
    fabric.launch()
    return fabric


def _tensor(inputs: np.ndarray, device: Any) -> Any:
    import torch

    inputs = np.array(inputs)
    return torch.from_numpy(inputs[:, None] if inputs.dtype == np.uint8 else inputs).to(device)


def _predictions(job: Job, part: str, rows: np.ndarray, chances: np.ndarray) -> pd.DataFrame:
    """A row a slice; `row` is its place in the catalogue, which the run turns into path, patient and picture."""
    frame = pd.DataFrame({"row": rows, "part": part, "fold": job.fold.index})
    frame[PROBABILITIES] = chances.astype(np.float64)
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` atomically."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
