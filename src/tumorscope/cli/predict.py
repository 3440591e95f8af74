"""`tumorscope predict`: findings for slices, without torch."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorscope.cli.common import counting, hush_parsers, say

if TYPE_CHECKING:
    from tumorscope.inference.record import Journal, Record


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
    heatmaps: Annotated[
        Path | None, typer.Option(help="Folder for heat maps, as PNG overlay and array; NIfTI of a volume.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder for the regions taken for tumour, as PNG masks; NIfTI of a volume.")
    ] = None,
    plane: Annotated[Plane, typer.Option(help="Which way NIfTI volumes are cut.")] = Plane.axial,
    force: Annotated[bool, typer.Option("--force", help="Read DICOM of another modality than MR too.")] = False,
    error_rate: Annotated[
        float | None,
        typer.Option(help="How often a set of classes may miss the truth: 0.01, 0.05, 0.1 (default) or 0.2."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the findings, with progress; after any stop the same command goes on."),
    ] = None,
) -> None:
    """Say what slices show: a class with its probability and a set of classes, or a refusal with the reason.

    Exit code 0 when every file could be read, 1 when one could not.
    """
    from tumorscope.errors import InputRejected
    from tumorscope.files import check_folder
    from tumorscope.inference.batch import expand, with_maps
    from tumorscope.inference.classifier import Classifier
    from tumorscope.inference.reading import READING, read_stream
    from tumorscope.inference.record import Journal

    hush_parsers()
    folders = {name: folder.resolve() for name, folder in (("Heat maps", heatmaps), ("Masks", masks)) if folder}
    for folder in folders.values():
        check_folder(folder)
    names = expand(paths, say)
    if out:
        _need_free(out, names)
    classifier = Classifier.load(model)
    if masks and classifier.package.card["map"] != "regions":
        raise InputRejected(
            f"--masks with {classifier.package.card['name']}", "no region model", "masks need one", "Use --heatmaps."
        )
    settings = [classifier.package.sha256, str(READING), plane.value, str(force), str(error_rate)]
    settings += map(str, folders.items())
    journal = Journal(out, settings, names, numbered=bool(folders)) if out else None
    _tell_of_before(journal, [*folders.values()], len(names))
    done = len(journal.records()) if journal else 0
    left = [names[number] for number in journal.left] if journal else names
    items = [read_stream(sys.stdin.buffer) if path == "-" else path for path in left]
    findings = classifier.predict(
        items, names=left, plane=plane.value, force=force, heat=bool(folders), error_rate=error_rate
    )
    if folders:
        findings = with_maps(findings, heatmaps, masks, start=done + 1)
    records = (one.plain() for one in findings)
    rate = classifier.package.card["conformal"]["error_rate"] if error_rate is None else error_rate
    if journal and out:
        bad = _kept(journal, records, len(names), format_, rate)
        typer.echo(f"Findings: {out.resolve()}", err=True)
    else:
        shown: dict[str, Callable[[Iterator[Record]], int]] = {"json": _json, "csv": _csv}
        bad = shown.get(format_.value, partial(_table, rate))(records)
    for name, folder in folders.items():
        typer.echo(f"{name}: {folder}", err=True)
    if bad:
        raise typer.Exit(1)


def _need_free(out: Path, names: list[str]) -> None:
    """Raise where findings would take the place of what is no file, or of a file that is read."""
    from tumorscope.errors import InputRejected
    from tumorscope.files import check_target

    check_target(out)
    if out.exists() and out.resolve() in {Path(name).resolve() for name in names}:
        raise InputRejected("--out", out, "a file that is read", "Choose another for the findings.")


def _tell_of_before(journal: "Journal | None", folders: list[Path], total: int) -> None:
    """Say what earlier calls have left: findings of this one, part files of others, maps in the folders for them."""
    for file in journal.others() if journal else []:
        say(f"{file}: kept from a call with other options. The same call goes on with it; else it can be deleted.")
    if journal and journal.done:
        say(f"Going on after {journal.done:,} of {total:,} files.")
        return
    for folder in folders:
        if folder.is_dir() and any(folder.iterdir()):
            say(f"{folder} holds files already: maps of other slices stay in it. Findings as JSON or CSV name theirs.")


def _kept(journal: "Journal", records: Iterator["Record"], total: int, format_: Format, error_rate: float) -> int:
    """Each kept as it comes, then all of them written; how many could not be read."""
    from tumorscope.inference.record import as_csv, as_json, as_table

    try:
        with counting("Files") as count:
            for _ in journal.follow(records):
                count(journal.done, total)
    except KeyboardInterrupt:
        say("What was answered is kept: the same command goes on.")
        raise
    written: dict[str, Callable[[list[Record]], str]] = {"json": as_json, "csv": as_csv}
    journal.finish(written.get(format_.value, partial(as_table, error_rate=error_rate)))
    return _told(journal.records())


def _table(error_rate: float, records: Iterator["Record"]) -> int:
    """Each as it comes, volumes at the end; how many could not be read."""
    from tumorscope.inference.record import as_line, summaries

    shown = []
    for one in records:
        typer.echo(as_line(one, error_rate))
        shown.append(one)
    for volume in summaries(shown):
        typer.echo(volume["text"])
    return _bad(shown)


def _json(records: Iterator["Record"]) -> int:
    from tumorscope.inference.record import as_json

    found = list(records)
    typer.echo(as_json(found), nl=False)
    return _bad(found)


def _csv(records: Iterator["Record"]) -> int:
    from tumorscope.inference.record import as_csv

    typer.echo(as_csv([]), nl=False)
    bad = 0
    for one in records:
        bad += _bad([one])
        # As bytes: text loses the escape sequences that a file's name may hold.
        typer.echo(as_csv([one], header=False).encode("utf-8", "surrogateescape"), nl=False)
    return bad


def _told(records: list["Record"]) -> int:
    """Say what a run found in a line; how many could not be read."""
    counts = Counter(one["status"] for one in records)
    labels = Counter(one["label"] for one in records if one["label"])
    parts = [f"{counts[status]:,} {status}" for status in ("accepted", "warned", "refused", "error")]
    named = ", ".join(f"{count:,} {label}" for label, count in labels.most_common())
    typer.echo(f"{len(records):,} slices: {', '.join(parts)}" + (f"; {named}" if named else ""), err=True)
    return _bad(records)


def _bad(records: list["Record"]) -> int:
    return sum(one["status"] == "error" for one in records)
