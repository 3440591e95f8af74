"""`tumorscope compare`: runs side by side, as a table and an illustrated report."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, open_catalogue
from tumorscope.cli.evaluate import show


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    data: DataOption = None,
    classes: ClassesOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/compare"),
) -> None:
    """Compare runs: a table here, and a report with figures, JSON and CSV; prints where the report lies."""
    from tumorscope.evaluation.assemble import report_of

    show(runs)
    catalogue = open_catalogue(data, classes)
    typer.echo(report_of(runs, catalogue, out))
