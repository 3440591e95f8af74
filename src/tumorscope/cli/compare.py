"""`tumorscope compare`: runs side by side, as a table and an illustrated report."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, TestDataOption, open_joined
from tumorscope.cli.evaluate import belonging, show


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    data: DataOption = None,
    classes: ClassesOption = None,
    test_data: TestDataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/compare"),
) -> None:
    """Compare runs: a table here, and a report with figures, JSON and CSV; prints where the report lies.

    Runs scored on other slices than those given, and folders without scores, are left apart, which is said with the reason.
    Runs tested on another set are compared with --test-data.
    """
    from tumorscope.evaluation.assemble import left_apart, report_of
    from tumorscope.evaluation.evaluate import by_model
    from tumorscope.evaluation.report import under, write_report

    catalogue = open_joined(data, test_data, classes)
    runs = belonging(runs, left_apart(runs, catalogue))
    scored = by_model(runs)
    show(scored)
    report = report_of(scored, catalogue)
    for row in report.differences:
        points = "{:+.1f} points (95 % {:+.1f} to {:+.1f}".format(
            *(100 * row[k] for k in ("difference", "low", "high"))
        )
        pair = f"test accuracy of {row['one']} less that of {row['other']}"
        typer.echo(f"{under(row['protocol'], row['test_set'])}: {pair}: {points}, p {row['p']:.3f})")
    typer.echo(write_report(out, report))
