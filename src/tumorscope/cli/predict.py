"""`tumorscope predict`: findings for slices, without torch."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tumorscope.inference.classifier import Finding


class Format(StrEnum):
    """How findings are printed."""

    table = "table"
    json = "json"
    csv = "csv"


class Plane(StrEnum):
    """Which way a volume is cut."""

    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


def predict(
    paths: Annotated[list[str], typer.Argument(help="Files, folders or patterns; - for one file on standard input.")],
    model: Annotated[
        Path | None, typer.Option(help="Model package; the one that comes with tumorscope by default.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="How findings are printed.")] = Format.table,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for heat maps, as PNG overlay and array.")] = None,
    plane: Annotated[Plane, typer.Option(help="Which way NIfTI volumes are cut.")] = Plane.axial,
    force: Annotated[bool, typer.Option(help="Read DICOM of another modality than MR too.")] = False,
) -> None:
    """Say what slices show: a class with its probability and a set of classes, or a refusal with the reason.

    Exit code 0 when every file could be read, 1 when one could not.
    """
    import warnings

    from tumorscope.inference.batch import expand
    from tumorscope.inference.classifier import Classifier

    warnings.simplefilter("ignore")  # what parsers mutter about damaged files is said once, as the finding's reason
    items = [sys.stdin.buffer.read() if path == "-" else path for path in expand(paths)]
    classifier = Classifier.load(model)
    findings = classifier.predict(items, plane=plane.value, force=force, heat=heatmaps is not None)
    show = {"table": _table, "json": _json, "csv": _csv}[format_.value]
    if heatmaps is not None:
        from tumorscope.inference.batch import with_heatmaps

        findings = with_heatmaps(findings, heatmaps)
    bad = show(findings)
    if heatmaps is not None:
        typer.echo(f"Heat maps: {heatmaps.resolve()}", err=True)
    if bad:
        raise typer.Exit(1)


def _table(findings: Iterator["Finding"]) -> int:
    bad = 0
    for one in findings:
        bad += one.status == "error"
        if one.probabilities:
            others = ", ".join(name for name in one.prediction_set if name != one.label)
            text = f"{one.label:11} {one.probabilities[one.label]:6.1%}" + (f"  or {others}" if others else "")
        else:
            text = ""
        typer.echo(f"{one.path}: {one.status:8} {text}{'  ' if text and one.reasons else ''}{'; '.join(one.reasons)}")
    return bad


def _json(findings: Iterator["Finding"]) -> int:
    found = list(findings)
    typer.echo(json.dumps([one.plain() for one in found], indent=2))
    return sum(one.status == "error" for one in found)


def _csv(findings: Iterator["Finding"]) -> int:
    from tumorscope.labels import CLASSES

    bad = 0
    columns = ["path", "status", "label", *(f"p_{name}" for name in CLASSES), "prediction_set", "reasons", "plane"]
    for number, one in enumerate(findings):
        bad += one.status == "error"
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        if number == 0:
            writer.writerow(columns)
        chances = [f"{one.probabilities[name]:.6f}" if one.probabilities else "" for name in CLASSES]
        writer.writerow(
            [one.path, one.status, one.label, *chances, " ".join(one.prediction_set), "; ".join(one.reasons), one.plane]
        )
        typer.echo(line.getvalue(), nl=False)
    return bad
