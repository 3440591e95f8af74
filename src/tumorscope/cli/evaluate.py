"""`tumorscope evaluate`: scores of runs, made again from their predictions."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tumorscope.cli.common import ClassesOption, DataOption, class_mapping, counting, hush_parsers, say

if TYPE_CHECKING:
    from tumorscope.evaluation.evaluate import Scored


def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Run folders.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    package: Annotated[
        str, typer.Option(help="Score a model package on --data instead; shipped for the one inside.")
    ] = "",
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for a package's findings and scores.")] = Path("reports/package"),
    classes: ClassesOption = None,
) -> None:
    """Score runs from their predictions alone, validation and test apart, and write scores.json into each.

    With --package: score a model package on images, DICOM, NIfTI or MATLAB files in a folder for each class.
    That writes findings.csv and scores.json and needs the base installation alone.
    Exit code 0 when every file could be read, 1 when one could not.
    """
    if bool(runs) == bool(package):
        raise typer.BadParameter("give run folders, or --package with --data")
    if package:
        _package(None if package == "shipped" else Path(package), data, out, classes, as_json)
        return
    assert runs is not None
    from tumorscope.evaluation.evaluate import by_model, evaluate_run, why_unscored

    runs = belonging(runs, {run: why for run in runs if (why := why_unscored(run))})
    if as_json:
        typer.echo(json.dumps({str(run): evaluate_run(run) for run in runs}, indent=2, default=str))
    else:
        show(by_model(runs))


def belonging(runs: list[Path], apart: dict[Path, str]) -> list[Path]:
    """The runs without those that are left `apart`, which is said with the reasons.

    Raises `DataNotFound` for a path that is not there, which is mistyped rather than of runs/*; `RunMismatch` where none is left.
    """
    from tumorscope.errors import DataNotFound, RunMismatch

    for run, why in apart.items():
        if not run.exists():
            raise DataNotFound(f"{run}: {why}")
    kept = [run for run in runs if run not in apart]
    if not kept:
        raise RunMismatch(" ".join(f"{run}: {why}" for run, why in apart.items()))
    for why in dict.fromkeys(apart.values()):
        say(f"Left apart: {', '.join(str(run) for run in apart if apart[run] == why)}: {why}")
    return kept


def _package(package: Path | None, data: Path | None, out: Path, classes: list[str] | None, as_json: bool) -> None:
    from tumorscope.data.locate import find_data
    from tumorscope.evaluation.package_scores import score_package
    from tumorscope.files import write_json, write_text

    hush_parsers()
    place = find_data(data, say)
    with counting("Answering") as progress:
        found, result = score_package(package, place, class_mapping(classes), progress)
    write_text(out / "findings.csv", found.to_csv(index=False))
    write_json(out / "scores.json", result)
    for notice in result["data"]["notices"]:
        say(f"Note: {notice}")
    unread = found[found["status"] == "error"]
    if len(unread):
        first = unread.iloc[0]
        say(
            f"Not read: {len(unread)}, with reasons in {out / 'findings.csv'}; the first: {first['path']}: {first['reasons']}"
        )
    _warn(result)
    if as_json:
        typer.echo((out / "scores.json").read_text())
    else:
        _told(result)
        typer.echo((out / "scores.json").resolve())
    if len(unread):
        raise typer.Exit(1)


def _told(result: dict[str, Any]) -> None:
    typer.echo(", ".join(f"{count} {status}" for status, count in result["status"].items()))
    _print(result)
    if "not in training" in result:
        typer.echo("Without the slices of its training set:")
        _print(result["not in training"])


def _warn(result: dict[str, Any]) -> None:
    """Say how many slices the model was trained on."""
    if result["trained on this"]:
        say("Careful: the model was trained on these very slices; its card says how it does on new patients.")
    elif result["in training"] is None:
        say("Careful: whether slices are in its training set is not known, since the package does not list its files.")
    elif result["in training"]["n"]:
        say(
            "Careful: {n:,} of {of:,} slices are in its training set; on these it is no test.".format(
                **result["in training"]
            )
        )


def _print(result: dict[str, Any]) -> None:
    if "scores" in result:
        scores = result["scores"]
        left = result["of unknown kind"]
        told = f"; without {left:,} of an unknown kind" if left else ""
        typer.echo(
            f"accuracy {scores['accuracy']:.4f}, balanced {scores['balanced_accuracy']:.4f}, n {scores['n']}{told}"
        )
        for by, parts in result["set coverage"].items():
            told = ", ".join(f"{name} {part['coverage']:.3f} (n {part['n']})" for name, part in parts.items())
            typer.echo(f"sets hold the truth {by}: {told}")
    if result.get("regions", {}).get("all", {}).get("slices"):
        found = result["regions"]["all"]
        shares = ", ".join(f"{name} {_with_ends(found, name)}" for name in ("hit", "pointing"))
        typer.echo(
            f"regions: {shares}, median Dice {found['dice_median']:.2f}, n {found['slices']} tumours with a mask"
        )
    if "presence" in result:
        presence = result["presence"]
        three = " ".join(short(presence[name]) for name in ("auc", "sensitivity", "specificity"))
        typer.echo(f"tumour or none: AUC, sensitivity, specificity {three}, n {presence['n']}")


def _with_ends(found: dict[str, Any], name: str) -> str:
    """A share with its 95 % interval by patient, where there is one."""
    low, high = found[f"{name}_low"], found[f"{name}_high"]
    return f"{found[name]:.2f}" + ("" if math.isnan(low) else f" ({low:.2f} to {high:.2f})")


def show(scored: "Scored") -> None:
    """Print a table of runs: a row for each recipe, protocol and part, over its seeds."""
    from rich.console import Console
    from rich.table import Table

    from tumorscope.evaluation.evaluate import comparison_rows, leak_notes
    from tumorscope.evaluation.report import under

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
    for row in comparison_rows(scored):
        table.add_row(
            *(row["model"], under(row["protocol"], row["test_set"]), row["part"], str(row["seeds"])),
            *(spread(row, name) for name in ("accuracy", "balanced_accuracy", "f1_weighted")),
            f"{row['accuracy_low']:.3f}-{row['accuracy_high']:.3f}",
            "" if row["memoriser_accuracy"] is None else f"{row['memoriser_accuracy']:.4f}",
            " ".join(short(row[f"presence_{name}_mean"]) for name in ("auc", "sensitivity", "specificity")),
            str(row["slices"]),
        )
    console = Console()
    Console(width=None if console.is_terminal else 150).print(table)
    typer.echo("* tumour or none: AUC, sensitivity, specificity. Across collections they say which collection it is.")
    for note in leak_notes(scored):
        typer.echo(note)
    first = next(iter(scored.values()))[0]["run"]
    typer.echo(f"Scores of each run are in its scores.json, for example {first / 'scores.json'}")


def short(value: float | None) -> str:
    """Two decimals, a dash for what is not known."""
    return "-" if value is None else f"{value:.2f}"


def spread(row: dict[str, Any], metric: str) -> str:
    """Mean and standard deviation over seeds, for people."""
    mean, deviation = row[f"{metric}_mean"], row[f"{metric}_sd"]
    if mean is None:
        return "-"
    return f"{mean:.4f}" + ("" if deviation is None else f" ±{deviation:.4f}")
