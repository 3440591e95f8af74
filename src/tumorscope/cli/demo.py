"""`tumorscope demo`: the main job, from the archive to a scored, illustrated report."""

import time
from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, open_catalogue, say, training_progress

#: Recipe to seeds: fewer of the slow one, so that the job ends within minutes on two cores.
SEEDS = {"baseline_cnn": 5, "improved_cnn": 2}


def demo(
    data: DataOption = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of every recipe; 5 of baseline_cnn and 2 of improved_cnn by default."),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder that run folders go to.")] = Path("runs/demo"),
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/demo"),
    classes: ClassesOption = None,
) -> None:
    """The main job: find the data, catalogue, cache, train two networks, score them and write a report."""
    started = time.perf_counter()
    catalogue = open_catalogue(data, classes)
    from tumorscope.study.main_job import run_main_job

    with training_progress() as report:
        plan = {recipe: range(seeds or count) for recipe, count in SEEDS.items()}
        page = run_main_job(catalogue, plan, runs / catalogue.digest, out, report)
    say(f"Done in {time.perf_counter() - started:.0f} s. The report:")
    typer.echo(page.resolve())
