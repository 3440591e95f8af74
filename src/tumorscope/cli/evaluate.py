"""`tumorscope evaluate`: scores of runs, made again from their predictions."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def evaluate(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score runs from their predictions alone, validation and test apart, and write scores.json into each."""
    if as_json:
        from tumorscope.evaluation.evaluate import evaluate_run

        typer.echo(json.dumps({str(run): evaluate_run(run) for run in runs}, indent=2, default=str))
    else:
        show(runs)


def show(runs: list[Path]) -> None:
    """Print a table of runs: a row for each recipe, protocol and part, over its seeds."""
    from rich.console import Console
    from rich.table import Table

    from tumorscope.evaluation.evaluate import comparison_rows, leak_notes

    table = Table(box=None, pad_edge=False)
    for column in (
        "model",
        "protocol",
        "part",
        "seeds",
        "accuracy",
        "balanced",
        "F1 weighted",
        "95 %",
        "memoriser",
        "presence*",
        "n",
    ):
        table.add_column(column, justify="left" if column in ("model", "protocol", "part") else "right", no_wrap=True)
    for row in comparison_rows(runs):
        table.add_row(
            *(row["model"], row["protocol"], row["part"], str(row["seeds"])),
            *(spread(row, name) for name in ("accuracy", "balanced_accuracy", "f1_weighted")),
            f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            "" if row["memoriser_accuracy"] is None else f"{row['memoriser_accuracy']:.4f}",
            " ".join(short(row[f"presence_{name}_mean"]) for name in ("auc", "sensitivity", "specificity")),
            str(row["slices"]),
        )
    console = Console()
    Console(width=None if console.is_terminal else 150).print(table)
    typer.echo("* tumour or none: AUC, sensitivity, specificity. Across collections they say which collection it is.")
    for note in leak_notes(runs):
        typer.echo(note)
    typer.echo(f"Scores of each run are in its scores.json, for example {runs[0] / 'scores.json'}")


def short(value: float | None) -> str:
    """Two decimals, a dash for what is not known."""
    return "-" if value is None else f"{value:.2f}"


def spread(row: dict[str, Any], metric: str) -> str:
    """Mean and standard deviation over seeds, for people."""
    mean, deviation = row[f"{metric}_mean"], row[f"{metric}_sd"]
    if mean is None:
        return "-"
    return f"{mean:.4f}" + ("" if deviation is None else f" ±{deviation:.4f}")
