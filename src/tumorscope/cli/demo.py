"""`tumorscope demo`: the main job, from the archive to a scored, illustrated report."""

import time
from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, open_catalogue, say, training_progress

RECIPES = ("baseline_cnn", "improved_cnn")


def demo(
    data: DataOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds a recipe.")] = 5,
    runs: Annotated[Path, typer.Option(help="Folder that run folders go to.")] = Path("runs/demo"),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/demo"),
    classes: ClassesOption = None,
) -> None:
    """The main job: find the data, catalogue, cache, train two networks, score them and write a report."""
    started = time.perf_counter()
    catalogue = open_catalogue(data, classes)
    from tumorscope.study.main_job import run_main_job

    with training_progress() as report:
        page = run_main_job(catalogue, RECIPES, range(seeds), runs / catalogue.digest, out, report)
    say(f"Done in {time.perf_counter() - started:.0f} s. The report:")
    typer.echo(page.resolve())
