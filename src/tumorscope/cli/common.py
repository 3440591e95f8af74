"""What several verbs share: options, progress and the way to a catalogue."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from tumorscope.data.catalogue import Catalogue
    from tumorscope.training.fold import Event

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Zip archive or folder. Else $TUMORSCOPE_DATA, a download, or the phantom set."),
]
TestDataOption = Annotated[
    Path | None,
    typer.Option("--test-data", help="Another set, tested on where --data is trained on (protocol external)."),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that run folders go to.")]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Folds trained at once; 0: as many as cores allow, one on a GPU.")
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option("--classes", help="folder=class for other people's folder names, for example no=notumor. Repeatable."),
]


#: What progress shows of an epoch.
SHOWN = {"train_loss": "train loss", "val_loss": "val loss", "val_accuracy": "val accuracy"}


def class_mapping(pairs: list[str] | None) -> dict[str, str] | None:
    """`["no=notumor"]` to a mapping; None where nothing is given."""
    if not pairs:
        return None
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair}: expected folder=class, for example no=notumor", param_hint="--classes")
    return dict(pair.split("=", 1) for pair in pairs)


def hush_parsers() -> None:
    """Show nothing that parsers mutter about damaged files, without their names: it is said once, as the finding's reason."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)


def need_fitting(protocol: str, known: Sequence[str], other: bool) -> None:
    """Wrong use for a protocol that is not among `known`, or does not fit whether --test-data names another set."""
    if protocol not in known:
        raise typer.BadParameter(f"{protocol}: expected {', '.join(known)}", param_hint="--protocol")
    if other and protocol != "external":
        raise typer.BadParameter(f"{protocol}: with --test-data it is external", param_hint="--protocol")
    if not other and protocol == "external":
        raise typer.BadParameter("external needs the other set: --test-data PATH", param_hint="--protocol")


def say(message: str) -> None:
    """A line for people, on standard error, so that standard output stays for results."""
    typer.echo(message, err=True)


def open_catalogue(path: Path | None, classes: list[str] | None = None, sizes: tuple[int, ...] = (30,)) -> "Catalogue":
    """Find the data and catalogue them, with progress; says what was left out and why."""
    from tumorscope.data.catalogue import load_catalogue
    from tumorscope.data.locate import find_data

    found = find_data(path, say)
    with counting("Reading slices") as progress:
        catalogue = load_catalogue(found, classes=class_mapping(classes), sizes=sizes, progress=progress)
    for notice in catalogue.notices:
        say(f"Note: {notice}")
    if len(catalogue.rejected):
        first = catalogue.rejected.iloc[0]
        say(
            f"Refused: {len(catalogue.rejected)} files, listed with reasons in {catalogue.folder / 'rejected.csv'}; "
            f"the first: {first['path']}: {first['reason']}"
        )
    return catalogue


def open_joined(
    path: Path | None, other: Path | None, classes: list[str] | None = None, sizes: tuple[int, ...] = (30,)
) -> "Catalogue":
    """The catalogue at `path`, joined with that at `other` where one is given."""
    catalogue = open_catalogue(path, classes, sizes)
    if other is None:
        return catalogue
    from tumorscope.data.catalogue import join

    return join(catalogue, open_catalogue(other, classes, sizes))


def name_pictures(catalogue: "Catalogue") -> "Catalogue":
    """The catalogue with copies found where they are not known yet, with progress."""
    if (catalogue.table["picture"] != "").all():
        return catalogue
    say("Looking for copies (mirrored, turned or stored anew), which this protocol keeps on one side.")
    from tumorscope.audit.identify import with_pictures

    with counting_stages() as progress:
        return with_pictures(catalogue, progress)


@contextmanager
def counting(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar fed with (done, all); nothing appears for work that has nothing to do."""
    with _bars("{task.completed:.0f}/{task.total:.0f}") as bars:
        task: list[TaskID] = []

        def update(done: int, total: int) -> None:
            if not task:
                task.append(bars.add_task(title, total=total))
            bars.update(task[0], completed=done)

        yield update


@contextmanager
def counting_stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar a stage, fed with (stage, done, all), gone when the stage is done."""
    with _bars("{task.completed:.0f}/{task.total:.0f}") as bars:
        tasks: dict[str, TaskID] = {}

        def update(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)
            if done >= total:
                bars.remove_task(tasks.pop(stage))

        yield update


@contextmanager
def training_progress() -> Iterator[Callable[["Event"], None]]:
    """A bar for each piece of work with how much is done, losses, validation accuracy and time left; a line when it is done."""
    with _bars("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]} {task.fields[scores]}") as bars:
        tasks: dict[str, TaskID] = {}

        def update(event: "Event") -> None:
            if event.work not in tasks:
                tasks[event.work] = bars.add_task(event.work, total=event.total, unit=event.unit, scores="")
            scores = ", ".join(f"{said} {event.row[name]:.4f}" for name, said in SHOWN.items() if name in event.row)
            bars.update(tasks[event.work], completed=event.done, scores=scores)
            if event.finished:
                ended = ", ".join(part for part in (f"{event.work}: {event.done:,} {event.unit}", scores) if part)
                bars.print(ended, highlight=False, soft_wrap=not bars.console.is_terminal)
                bars.remove_task(tasks.pop(event.work))

        yield update


@contextmanager
def _bars(detail: str) -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(20), TextColumn(detail), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield bars
