"""The Python API beyond the stages' own functions: train, and read what a run found."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tumorscope.audit.identify import with_pictures
from tumorscope.audit.memoriser import memoriser_run
from tumorscope.config import Recipe, load_recipe
from tumorscope.data.catalogue import Catalogue
from tumorscope.evaluation.evaluate import evaluate_run
from tumorscope.protocols import ALL
from tumorscope.training.fold import Report
from tumorscope.training.runs import read_predictions, train_runs


def train(
    recipe: Recipe | str | os.PathLike[str],
    catalogue: Catalogue,
    protocol: str = "official",
    seeds: Sequence[int] = (0,),
    *,
    runs: str | os.PathLike[str] = "runs",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    device: str = "auto",
    report: Report = lambda _: None,
) -> list[Path]:
    """Train a recipe (or one by name or path) for every seed, score it beside the memoriser; the run folders.

    Every protocol but `official` needs to know copies; they are looked for where the catalogue does not name them yet.
    Protocol `all` trains on every distinct picture and scores nothing.
    Folds are trained in worker processes (on a GPU where `workers` asks for several), so a script that calls this needs
    `if __name__ == "__main__":`, or workers=1.
    Raises `RecipeError`, `DataNotFound`, `SplitLeak` or `RunMismatch`.
    """
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if protocol != "official":
        catalogue = with_pictures(catalogue)
    folder = Path(runs)
    made = train_runs(
        chosen,
        catalogue,
        protocol,
        seeds,
        runs=folder,
        resume=resume,
        overwrite=overwrite,
        workers=workers,
        device=device,
        report=report,
    )
    for seed, run in zip(seeds, made, strict=True) if protocol != ALL else ():
        memoriser_run(catalogue, protocol, seed, folder)
        evaluate_run(run)
    return made


def scores(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Scores of a run folder, made again from its predictions."""
    return evaluate_run(Path(run))


def read_run(run: str | os.PathLike[str]) -> pd.DataFrame:
    """Predictions of a run folder: path, label, part, fold and a probability a class, a row a slice."""
    return read_predictions(run)
