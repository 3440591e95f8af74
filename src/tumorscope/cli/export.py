"""`tumorscope export`: a model package from finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, name_pictures, open_catalogue, say


def export(
    run: Annotated[
        Path,
        typer.Argument(
            help="Run folder of the model, trained with --protocol all; or a package folder, whose card --external is added to."
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
    from tumorscope.errors import DataNotFound

    if (run / "card.json").exists():
        if scores or out or not external:
            raise typer.BadParameter("to a package --external alone is added", param_hint="RUN")
        from tumorscope.package.export import add_external

        typer.echo(add_external(run, external, say).resolve())
        return
    if not (run / "predictions.csv").exists():
        raise DataNotFound(f"{run}: no finished run there. Train one with tumorscope train RECIPE --protocol all")
    recipe = load_recipe(run / "recipe.toml")
    catalogue = name_pictures(open_catalogue(data, classes, (30,)))
    from tumorscope.package.export import export_run

    made = export_run(run, scores or (), catalogue, out or Path("packages") / recipe.name, say, external or ())
    typer.echo(made.resolve())
