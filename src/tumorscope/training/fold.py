"""One fold: train it, predict, write its weights, history and predictions. What a worker process is given to do."""

import os
from collections.abc import Callable
from dataclasses import dataclass
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

PROBABILITIES = [f"p_{name}" for name in CLASSES]


@dataclass(frozen=True)
class Event:
    """Progress of one fold: its run's name, fold, and the epoch's history row; an empty row when the fold is done."""

    run: str
    fold: int
    epochs: int
    row: dict[str, float]


Report = Callable[[Event], None]


@dataclass(frozen=True)
class Job:
    """One fold to train: everything a worker process needs, no pixels."""

    recipe: Recipe
    seed: int
    run: Path
    fold: Fold
    pixels: Path
    labels: np.ndarray
    device: str
    masks: Path | None = None

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

    fabric = open_fabric(job.device)
    images = np.load(job.pixels, mmap_mode="r")
    train, validation = ((images[rows], job.labels[rows]) for rows in (job.fold.train, job.fold.validation))
    checkpoint = job.folder / "checkpoint.safetensors"
    job.folder.mkdir(parents=True, exist_ok=True)

    def note(row: dict[str, float]) -> None:
        if fabric.is_global_zero:
            report(Event(job.run.name, job.fold.index, job.recipe.training.epochs, row))

    masks = None if job.masks is None else np.load(job.masks, mmap_mode="r")
    module, history = fit(
        job.recipe,
        job.seed,
        train,
        validation,
        masks=None if masks is None else masks[job.fold.train],
        fabric=fabric,
        checkpoint=checkpoint,
        report=note,
    )
    if fabric.is_global_zero:
        if masks is not None and job.recipe.model.name == "region_unet":
            _write_regions(job, module, images, masks, fabric)
        _write_fold(job, module, history, images, fabric)
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()
    note({})


def _write_fold(
    job: Job, module: "nn.Module", history: list[dict[str, float]], images: np.ndarray, fabric: "Fabric"
) -> None:
    """Weights, history and, last of all, predictions, which say that the fold is finished."""
    from tumorscope.training.checkpoint import save_weights
    from tumorscope.training.loop import predict, reproducible

    frames = []
    with reproducible(job.seed, job.recipe.training.threads, fabric.device):
        for name, rows in (("validation", job.fold.validation), ("test", job.fold.test)):
            chances = predict(module, _tensor(images[rows], fabric.device), job.recipe.training.mirror_average)
            frames.append(_predictions(job, name, rows, chances.numpy()))
    save_weights(job.folder / "weights.safetensors", module.state_dict(), {"recipe": job.recipe.model_dump_json()})
    write_csv(job.folder / "history.csv", pd.DataFrame(history))
    write_csv(job.folder / "predictions.csv", pd.concat(frames, ignore_index=True))


def _write_regions(job: Job, module: "nn.Module", images: np.ndarray, masks: np.ndarray, fabric: "Fabric") -> None:
    """regions.csv: what the region map makes of every scored slice; see `evaluation.regions.region_scores`."""
    from tumorscope.evaluation.regions import region_scores
    from tumorscope.training.loop import reproducible

    frames = []
    with reproducible(job.seed, job.recipe.training.threads, fabric.device):
        for name, rows in (("validation", job.fold.validation), ("test", job.fold.test)):
            scored = region_scores(module, images[rows], masks[rows], job.labels[rows], fabric.device)
            frames.append(scored.assign(row=rows, part=name, fold=job.fold.index))
    write_csv(job.folder / "regions.csv", pd.concat(frames, ignore_index=True))


def under_torchrun() -> bool:
    """Whether this is one of several processes that train together."""
    return "LOCAL_WORLD_SIZE" in os.environ


def open_fabric(device: str) -> "Fabric":
    """Fabric on one device, or under torchrun on this process's share of them all."""
    from lightning_fabric import Fabric

    local, world = (int(os.environ[name]) if under_torchrun() else 1 for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    fabric = Fabric(accelerator=device, devices=local, num_nodes=world // local)
    fabric.launch()
    return fabric


def _tensor(images: np.ndarray, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(images)[:, None]).to(device)


def _predictions(job: Job, part: str, rows: np.ndarray, chances: np.ndarray) -> pd.DataFrame:
    """A row a slice; `row` is its place in the catalogue, which the run turns into path, patient and picture."""
    frame = pd.DataFrame({"row": rows, "part": part, "fold": job.fold.index})
    frame[PROBABILITIES] = chances.astype(np.float64)
    return frame


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Write `frame` atomically."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
