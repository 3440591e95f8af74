"""`tumorscope augment`: a page of what a recipe's random changes do to slices."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, open_catalogue


def augment(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe by name, or the path of a .toml file.")] = "compact_cnn",
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the page and its figures.")] = Path("reports/augment"),
    seed: Annotated[int, typer.Option(help="Of the slices shown and of what is drawn.")] = 0,
    classes: ClassesOption = None,
) -> None:
    """Show each random change of training slices on a page, at the recipe's strength, and all of them together."""
    from tumorscope.config import load_recipe
    from tumorscope.evaluation.augmentation import augmentation_page

    chosen = load_recipe(recipe)
    catalogue = open_catalogue(data, classes, (chosen.input.size,))
    typer.echo(augmentation_page(chosen, catalogue, out, seed).resolve())
