"""`tumorscope study`: the published student report, row by row."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import (
    ClassesOption,
    DataOption,
    RunsOption,
    TestDataOption,
    WorkersOption,
    name_pictures,
    need_fitting,
    open_joined,
    say,
    training_progress,
)

app = typer.Typer(no_args_is_help=True, help="The published student report, row by row, under an honest protocol too.")

OutOption = Annotated[Path, typer.Option(help="Folder for the table, its figures and page.")]


@app.command("run")
def run(
    data: DataOption = None,
    rows: Annotated[
        list[str] | None, typer.Option("--rows", help="Row or group by name; repeatable. Default report.")
    ] = None,
    protocols: Annotated[
        list[str] | None,
        typer.Option("--protocol", help="Repeatable. Default official and patient-cv; external with --test-data."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of every row; its own 3, 5 or 10 by default.")] = None,
    runs: RunsOption = Path("runs/study"),
    out: OutOption = Path("reports/study"),
    classes: ClassesOption = None,
    test_data: TestDataOption = None,
    against: Annotated[
        str | None, typer.Option(help="Row to compare each row with, slice by slice; its runs must be there.")
    ] = None,
    workers: WorkersOption = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite/--resume", help="Train rows anew, or go on with what is there (default).")
    ] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the rows, all of them or those of --rows.")] = False,
) -> None:
    """Train the rows and write the table after each; what is finished is kept, so that it goes on after any stop."""
    from tumorscope.protocols import PROTOCOLS as KNOWN
    from tumorscope.study.rows import all_rows, chosen_rows

    if list_:
        for row in chosen_rows(rows) if rows else all_rows():
            typer.echo(f"{row.group:16} {row.name:24} {row.title}")
        return
    chosen = chosen_rows(rows or [])
    reference = next((row for row in all_rows() if row.name == against), None)
    if against and reference is None:
        raise typer.BadParameter(f"{against}: no row of that name; see --list", param_hint="--against")
    protocols = protocols or (["external"] if test_data is not None else [])
    for protocol in protocols:
        need_fitting(protocol, list(KNOWN), test_data is not None)
    catalogue = name_pictures(open_joined(data, test_data, classes, (30,)))
    with training_progress() as report:
        from tumorscope.study.table import PROTOCOLS, read_study, run_study

        page = run_study(
            catalogue,
            chosen,
            protocols or PROTOCOLS,
            seeds,
            runs,
            out,
            against=reference,
            overwrite=overwrite,
            workers=workers,
            report=report,
            say=say,
        )
    typer.echo(page.resolve())
    asked = {(row.name, protocol) for row in chosen for protocol in protocols or PROTOCOLS}
    if any((line["row"], line["protocol"]) in asked for line in read_study(out / "study.json")["not_measured"]):
        say("Not all rows could be run here; the page lists what is missing, why, and what runs it.")
        raise typer.Exit(1)


@app.command("show")
def show(out: OutOption = Path("reports/study")) -> None:
    """Print the table that `study run` made, and where its page lies."""
    from tumorscope.errors import DataNotFound
    from tumorscope.study.table import read_study, write_study

    file = out / "study.json"
    if not file.exists():
        raise DataNotFound(f"{file}: no study here yet; make one with tumorscope study run.")
    kept = read_study(file)
    for row in kept["rows"]:
        figure = f"{row['reported']['accuracy']:.4f}" if row["reported"] else row["said"]
        said = f", report {figure}" if figure else ""
        sd = "" if row["accuracy_sd"] is None else f" ±{row['accuracy_sd']:.4f}"
        floor = f"memoriser {row['memoriser_accuracy']:.4f}"
        seeds = f"{row['seeds']} seed{'s' if row['seeds'] > 1 else ''}"
        typer.echo(f"{row['title']:52} {row['protocol']:11} {row['accuracy']:.4f}{sd} ({seeds}; {floor}{said})")
    for row in kept.get("not_measured", ()):
        typer.echo(f"{row['title']:52} {row['protocol']:11} not measured here; {row['command']}")
    typer.echo(write_study(out).resolve())
