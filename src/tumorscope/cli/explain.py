"""`tumorscope explain`: whether a run's heat maps lie on the tumour and on what the network uses."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, TestDataOption, counting, open_joined
from tumorscope.cli.evaluate import short


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    data: DataOption = None,
    slices: Annotated[int, typer.Option(min=1, help="Tumour slices of the test part, spread over it.")] = 200,
    classes: ClassesOption = None,
    test_data: TestDataOption = None,
) -> None:
    """Compare a run's own heat map with Grad-CAM and others, against tumour masks, chance and random weights.

    Writes explain.json, explain.csv (a row a slice and method) and explain.png (the slice, then each method) into the run.
    """
    from rich.console import Console
    from rich.table import Table

    from tumorscope.config import load_recipe
    from tumorscope.evaluation.explain import explain_run, explanation
    from tumorscope.evaluation.explain import write as write_explanation

    catalogue = open_joined(data, test_data, classes, (load_recipe(run / "recipe.toml").input.size,))
    with counting("Slices") as progress:
        found, sheets = explain_run(run, catalogue, slices, progress)
    result = explanation(found)
    write_explanation(run, found, sheets, result)
    table = Table(box=None, pad_edge=False)
    for column in ("method", "pointing", *result["slices_by_size"], "energy", "deletion", "insertion"):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in result["rows"]:
        sizes = [short(row["pointing_by_size"].get(name)) for name in result["slices_by_size"]]
        rest = [short(row[name]) for name in ("energy", "deletion", "insertion")]
        table.add_row(row["method"], short(row["pointing"]), *sizes, *rest)
    console = Console()
    Console(width=None if console.is_terminal else 130).print(table)
    counts = ", ".join(f"{count} {name}" for name, count in result["slices_by_size"].items())
    typer.echo(f"{result['slices']} tumour slices of the test part; by share of the slice that is tumour: {counts}.")
    typer.echo("Pointing and energy: higher is better. Deletion: lower, insertion: higher.")
    typer.echo((run / "explain.json").resolve())
