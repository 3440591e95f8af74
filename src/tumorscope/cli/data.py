"""`tumorscope data`: list, fetch, import and info."""

import json
from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, open_catalogue, say

app = typer.Typer(no_args_is_help=True, help="Data sets: what is known, fetching, importing, facts.")


@app.command("list")
def list_cards() -> None:
    """Data sets that tumorscope knows, with licence and size."""
    from tumorscope.data.cards import CARDS

    for card in CARDS.values():
        origin = f"data fetch {card.name}" if card.handle else card.url or "made on first use"
        typer.echo(f"{card.name}\n  {card.title}\n  {card.slices}\n  licence: {card.licence}\n  from: {origin}")


@app.command()
def fetch(name: Annotated[str, typer.Argument(help="Name from `data list`.")] = "nickparvar") -> None:
    """Download a data set with kagglehub into tumorscope's folder; prints where it lies."""
    from tumorscope.data.locate import fetch as fetch_data

    typer.echo(fetch_data(name, say))


@app.command("import")
def import_data(
    path: Annotated[
        Path, typer.Argument(help="Zip archive or folder with Training/<class>/ and Testing/<class>/, or <class>/.")
    ],
    size: Annotated[
        list[int] | None, typer.Option("--size", min=8, max=1024, help="Sides to cache; repeatable. Default 30.")
    ] = None,
    classes: ClassesOption = None,
) -> None:
    """Catalogue a data set and build its pixel cache; the archive is read where it lies."""
    from tumorscope.cli.common import counting
    from tumorscope.data.cache import path_of, pixels

    sizes = tuple(size or [30])
    catalogue = open_catalogue(path, classes, sizes)
    for side in sizes:
        with counting(f"Pixels at {side}x{side}") as progress:
            pixels(catalogue, side, progress)
    typer.echo(f"{len(catalogue.table)} slices, {len(catalogue.rejected)} files refused.")
    typer.echo(f"Catalogue: {catalogue.folder / 'catalogue.csv'}")
    for side in sizes:
        typer.echo(f"Pixels: {path_of(catalogue, side)}")


@app.command()
def info(
    data: DataOption = None,
    classes: ClassesOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Facts about a data set: slices by class and split, modes, sizes, what was left out."""
    catalogue = open_catalogue(data, classes)
    facts = facts_of(catalogue.table)
    facts |= {"name": catalogue.name, "rejected": len(catalogue.rejected), "folder": str(catalogue.folder)}
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    typer.echo(f"{facts['name']}: {facts['slices']} slices, {facts['rejected']} files refused")
    for split, counts in facts["classes"].items():
        row = ", ".join(f"{name} {count}" for name, count in counts.items())
        typer.echo(f"  {split or 'no split'}: {sum(counts.values())} ({row})")
    typer.echo(f"  sizes: {facts['sizes']} different, {facts['smallest']} to {facts['largest']} px a side")
    typer.echo(f"  modes: {', '.join(f'{mode} {count}' for mode, count in facts['modes'].items())}")
    typer.echo(f"  formats: {', '.join(f'{name} {count}' for name, count in facts['formats'].items())}")
    typer.echo(
        f"  patients known: {facts['patients']}; redundant files: {facts['redundant_bytes']} by bytes, "
        f"{facts['redundant_pixels']} by pixels"
    )
    typer.echo(f"  catalogue: {catalogue.folder / 'catalogue.csv'}")


def facts_of(table) -> dict:  # type: ignore[no-untyped-def]  # pandas is not imported for a type
    """Counts that describe a catalogue's table."""
    classes: dict[str, dict[str, int]] = {}
    for (split, label), count in table.groupby(["split", "label"]).size().items():
        classes.setdefault(split, {})[label] = int(count)
    sides = table[["width", "height"]]
    return {
        "slices": len(table),
        "classes": classes,
        "sizes": len(sides.drop_duplicates()),
        "smallest": int(sides.min().min()),
        "largest": int(sides.max().max()),
        "modes": {str(key): int(value) for key, value in table["mode"].value_counts().items()},
        "formats": {str(key): int(value) for key, value in table["format"].value_counts().items()},
        "patients": int(table.loc[table["patient"] != "", "patient"].nunique()),
        "redundant_bytes": int(table["sha256"].duplicated().sum()),
        "redundant_pixels": int(table["pixels_sha256"].duplicated().sum()),
    }
