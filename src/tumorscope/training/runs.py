"""Runs: one recipe under one protocol with one seed, a folder each. Folds of all runs are trained side by side and resume.

A run folder holds recipe.toml, environment.json, predictions.csv (a row a slice), scores.json and, for each fold, its
history, weights and (while it trains) a checkpoint.
"""

import importlib.metadata
import json
import multiprocessing
import os
import platform
import queue
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tumorscope import home
from tumorscope.config import Recipe
from tumorscope.data.cache import path_of, pixels
from tumorscope.data.catalogue import Catalogue
from tumorscope.errors import RunMismatch
from tumorscope.files import replacing, write_json, write_text
from tumorscope.labels import CLASSES, INDEX
from tumorscope.protocols import Fold, folds

PROBABILITIES = [f"p_{name}" for name in CLASSES]
LIBRARIES = ("tumorscope", "torch", "lightning-fabric", "numpy", "pandas", "pillow", "scikit-learn", "imbalanced-learn")


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

    @property
    def folder(self) -> Path:
        """Where this fold's files go."""
        return self.run / f"fold-{self.fold.index}"


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

    workers : folds trained at the same time; 0 is one a core over the recipe's threads
    device : "auto", "cpu" or "cuda"

    Raises `RunMismatch` where a run folder exists and neither `resume` nor `overwrite` is set, or holds something else.
    """
    pixels(catalogue, recipe.input.size)
    jobs: list[Job] = []
    folders = []
    for seed in seeds:
        folder = runs / f"{recipe.name}-{protocol}-s{seed}"
        made = folds(protocol, catalogue.table, seed)
        _open_run(folder, recipe, catalogue, protocol, seed, made, device, resume, overwrite)
        folders.append(folder)
        jobs += [
            Job(recipe, seed, folder, fold, path_of(catalogue, recipe.input.size), _labels(catalogue), device)
            for fold in made
            if not (folder / "predictions.csv").exists()
        ]
    _work([job for job in jobs if not (job.folder / "predictions.csv").exists()], workers, report)
    for folder in folders:
        _gather(folder, catalogue)
    return folders


def _open_run(
    folder: Path,
    recipe: Recipe,
    catalogue: Catalogue,
    protocol: str,
    seed: int,
    made: list[Fold],
    device: str,
    resume: bool,
    overwrite: bool,
) -> None:
    """Make the run folder, or check that the one that is there is the same run."""
    identity = {
        "recipe": recipe.model_dump(mode="json"),
        "protocol": protocol,
        "seed": seed,
        "data": {"name": catalogue.name, "digest": catalogue.digest, "slices": len(catalogue.table)},
    }
    file = folder / "environment.json"
    if file.exists() and overwrite:
        shutil.rmtree(folder)
    if file.exists():
        stored = json.loads(file.read_text())
        different = [key for key, value in identity.items() if stored.get(key) != value]
        if different:
            raise RunMismatch(
                f"{folder} holds a run with another {' and '.join(different)}. Give the recipe another --name, or use "
                "--overwrite to train it anew."
            )
        if not resume:
            raise RunMismatch(f"{folder} exists. Use --resume to go on with it or --overwrite to train it anew.")
        return
    write_text(folder / "recipe.toml", recipe.toml())
    parts = [{name: len(getattr(fold, name)) for name in ("train", "validation", "test")} for fold in made]
    leak = [fold.leak for fold in made if fold.leak]
    write_json(file, {**identity, "folds": parts, "leak": leak, "device": device, **environment()})


def environment() -> dict[str, Any]:
    """Versions of libraries, machine and cores: what a number was made with."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    machine = {"system": platform.platform(), "processor": _processor(), "cores": home.cores()}
    return {"python": platform.python_version(), "versions": versions, "machine": machine}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _work(jobs: list[Job], workers: int, report: Report) -> None:
    """Train every job, in this process when one at a time, else by a pool; reports are passed on as they come."""
    if not jobs:
        return
    workers = min(len(jobs), workers or max(1, home.cores() // jobs[0].recipe.training.threads))
    if workers == 1 or jobs[0].device == "cuda" or "WORLD_SIZE" in os.environ:
        for job in jobs:
            train_fold(job, report)
        return
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(workers, mp_context=context) as pool:
        events: queue.Queue[Event] = manager.Queue()
        futures = [pool.submit(train_fold, job, events.put) for job in jobs]
        try:
            _pass_on(futures, events, report)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _pass_on(futures: list[Future[None]], events: "queue.Queue[Event]", report: Report) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.2, return_when=FIRST_EXCEPTION)
        while not events.empty():
            report(events.get())
        for future in done:
            future.result()


def train_fold(job: Job, report: Report) -> None:
    """Train one fold and write its weights, history and predictions; the checkpoint goes when they are there."""
    from lightning_fabric import Fabric

    from tumorscope.training.checkpoint import save_weights
    from tumorscope.training.loop import fit, predict

    fabric = Fabric(accelerator=job.device, devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
    fabric.launch()
    images = np.load(job.pixels, mmap_mode="r")
    parts = {name: (images[rows], job.labels[rows]) for name, rows in _rows(job.fold)}
    checkpoint = job.folder / "checkpoint.safetensors"
    job.folder.mkdir(parents=True, exist_ok=True)
    module, history = fit(
        job.recipe,
        job.seed,
        parts["train"],
        parts["validation"],
        fabric=fabric,
        checkpoint=checkpoint,
        report=lambda row: report(Event(job.run.name, job.fold.index, job.recipe.training.epochs, row)),
    )
    if fabric.is_global_zero:
        frames = []
        for name, rows in _rows(job.fold)[1:]:
            chances = predict(module, _tensor(images[rows], fabric.device), job.recipe.training.mirror_average)
            frames.append(_predictions(job, name, rows, chances.numpy()))
        save_weights(job.folder / "weights.safetensors", module.state_dict(), {"recipe": job.recipe.model_dump_json()})
        _write_csv(job.folder / "history.csv", pd.DataFrame(history))
        _write_csv(job.folder / "predictions.csv", pd.concat(frames, ignore_index=True))
        checkpoint.unlink(missing_ok=True)
    fabric.barrier()
    report(Event(job.run.name, job.fold.index, job.recipe.training.epochs, {}))


def _rows(fold: Fold) -> list[tuple[str, np.ndarray]]:
    return [("train", fold.train), ("validation", fold.validation), ("test", fold.test)]


def _tensor(images: np.ndarray, device: Any) -> Any:
    import torch

    return torch.from_numpy(np.array(images)[:, None]).to(device)


def _predictions(job: Job, part: str, rows: np.ndarray, chances: np.ndarray) -> pd.DataFrame:
    """A row a slice; `row` is its place in the catalogue, which `_gather` turns into path, patient and picture."""
    frame = pd.DataFrame({"row": rows, "part": part, "fold": job.fold.index})
    frame[PROBABILITIES] = chances.astype(np.float64)
    return frame


def _gather(folder: Path, catalogue: Catalogue) -> None:
    """Pool the folds' predictions into predictions.csv: path, label, patient, picture, part, fold and probabilities."""
    if (folder / "predictions.csv").exists():
        return
    frames = [pd.read_csv(file, float_precision="round_trip") for file in sorted(folder.glob("fold-*/predictions.csv"))]
    pooled = pd.concat(frames, ignore_index=True)
    facts = catalogue.table.iloc[pooled.pop("row")][["path", "label", "source", "plane", "patient", "picture"]]
    _write_csv(folder / "predictions.csv", pd.concat([facts.reset_index(drop=True), pooled], axis=1))


def read_predictions(run: str | os.PathLike[str]) -> pd.DataFrame:
    """predictions.csv of a run folder; ids stay text."""
    text = dict.fromkeys(("path", "label", "source", "plane", "patient", "picture", "part"), str)
    return pd.read_csv(Path(run) / "predictions.csv", dtype=text, keep_default_na=False, float_precision="round_trip")


def _labels(catalogue: Catalogue) -> np.ndarray:
    return catalogue.table["label"].map(INDEX).to_numpy().astype(np.int64)


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
