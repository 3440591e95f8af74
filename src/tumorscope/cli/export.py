"""`tumorscope export`: a model package from finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, name_pictures, open_catalogue, say


def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of the model, trained with --protocol all; or a package folder, whose card --scores and "
            "--external are added to."
        ),
    ],
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores", help="Run of the same recipe under any protocol; one patient-cv at least. Repeatable."
        ),
    ] = None,
    data: DataOption = None,
    external: Annotated[
        list[Path] | None,
        typer.Option(help="Another collection, which the package is asked about, for its card. Repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the package; packages/<recipe> by default.")] = None,
    classes: ClassesOption = None,
) -> None:
    """Make a model package: graph, card, calibration, gate and model card, as a folder and as one file beside it."""
    from tumorscope.config import load_recipe

    if (run / "card.json").exists():
        if out or not (scores or external):
            raise typer.BadParameter("to a package --scores or --external is added, in its place", param_hint="RUN")
        for one in scores or ():
            _need_finished(one)
        from tumorscope.package.export import add_to_card

        typer.echo(add_to_card(run, scores or (), external or (), say).resolve())
        return
    for one in (run, *(scores or ())):
        _need_finished(one)
    recipe = load_recipe(run / "recipe.toml")
    catalogue = name_pictures(open_catalogue(data, classes, (30,)))
    from tumorscope.package.export import export_run

    made = export_run(run, scores or (), catalogue, out or Path("packages") / recipe.name, say, external or ())
    typer.echo(made.resolve())


def _need_finished(run: Path) -> None:
    from tumorscope.errors import DataNotFound

    if not (run / "predictions.csv").exists():
        raise DataNotFound(
            f"{run}: no finished run there. Train one with tumorscope train RECIPE, for the model itself "
            "with --protocol all."
        )
