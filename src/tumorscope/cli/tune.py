"""`tumorscope tune`: search over a recipe's space on validation folds."""

from pathlib import Path
from typing import Annotated

import typer

from tumorscope.cli.common import ClassesOption, DataOption, name_pictures, open_catalogue, say


def tune(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe or path of a .toml file.")],
    data: DataOption = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in all, those of earlier calls counted.")] = 30,
    space: Annotated[str, typer.Option(help="Search space: a .toml file; else the one shipped for the recipe.")] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="patient-cv, published-cv, picture-cv or clean; its training and validation parts are used, never its test."
        ),
    ] = "patient-cv",
    folds: Annotated[int, typer.Option(min=1, max=5, help="Folds that a trial is judged on.")] = 1,
    sampler: Annotated[str, typer.Option(help="tpe, random or grid.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="median, hyperband or none.")] = "median",
    storage: Annotated[
        str, typer.Option(help="Journal file, or a database URL for several machines. Default OUT/journal.log.")
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0: one a core.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of folds, sampler and training.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the best recipe, trials and figures.")] = None,
    classes: ClassesOption = None,
) -> None:
    """Search over a recipe's fields. The same command goes on after any stop; `train OUT/best.toml` takes the best."""
    from typing import cast, get_args

    from tumorscope.tuning.search import tune as search
    from tumorscope.tuning.searchable import need_grouped
    from tumorscope.tuning.space import load_space
    from tumorscope.tuning.trials import Pruner, Sampler

    for option, value, known in (("--sampler", sampler, Sampler), ("--pruner", pruner, Pruner)):
        if value not in get_args(known):
            raise typer.BadParameter(f"{value}: expected {', '.join(get_args(known))}", param_hint=option)
    need_grouped(protocol)
    chosen = load_space(space or recipe)
    catalogue = name_pictures(open_catalogue(data, classes))
    folder = out or Path("runs") / f"tune-{Path(recipe).stem}"
    say(f"Searching {len(chosen)} fields of {recipe}, {trials} trials by {sampler}, into {folder}/")
    best = search(
        recipe,
        chosen,
        catalogue,
        trials=trials,
        out=folder,
        protocol=protocol,
        inner_folds=folds,
        storage=storage,
        sampler=cast(Sampler, sampler),
        pruner=cast(Pruner, pruner),
        workers=workers,
        seed=seed,
        say=say,
    )
    say(f"The best recipe; train it with: tumorscope train {best} --data DATA --protocol {protocol}")
    typer.echo(best.resolve())
