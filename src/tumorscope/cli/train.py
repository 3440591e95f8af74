"""`tumorscope train`: a recipe under a protocol, for one seed or several."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, RunsOption, open_catalogue, say, training_progress


def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe (see --list) or path of a .toml file.")] = "",
    data: DataOption = None,
    protocol: Annotated[str, typer.Option(help="official, clean, picture-cv, patient-cv or external.")] = "official",
    seed: Annotated[int, typer.Option(help="First seed.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted up from --seed.")] = 1,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Override a field: training.epochs=30. Repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name for the changed recipe; run folders are named after it.")] = "",
    runs: RunsOption = Path("runs"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was interrupted; finished folds are kept.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew over existing run folders.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Folds trained at once; 0: as many as cores allow.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    classes: ClassesOption = None,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
) -> None:
    """Train a recipe and score it beside the memoriser. Every epoch is saved; --resume goes on after any stop."""
    from tumorscope.config import load_recipe, parse_override, shipped_recipes

    if list_ or not recipe:
        for shipped in shipped_recipes():
            typer.echo(f"{shipped:20} {load_recipe(shipped).title}")
        raise typer.Exit(0 if list_ else 2)
    overrides = dict(parse_override(item) for item in set_ or [])
    chosen = load_recipe(recipe, {**overrides, **({"name": name} if name else {})})
    catalogue = open_catalogue(data, classes, (chosen.input.size,))
    say(f"Training {chosen.name} under {protocol}, {seeds} seed{'s' if seeds > 1 else ''}, into {runs}/")
    with training_progress() as report:
        from tumorscope.api import train as train_recipe

        folders = train_recipe(
            chosen,
            catalogue,
            protocol,
            range(seed, seed + seeds),
            runs=runs,
            resume=resume,
            overwrite=overwrite,
            workers=workers,
            device=device,
            report=report,
        )
    from tumorscope.cli.evaluate import show

    show(folders)
