"""`tumorscope train`: a recipe under a protocol, for one seed or several."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorscope.cli.common import (
    ClassesOption,
    DataOption,
    RunsOption,
    TestDataOption,
    WorkersOption,
    name_pictures,
    need_fitting,
    open_joined,
    say,
    training_progress,
)

if TYPE_CHECKING:
    from tumorscope.data.catalogue import Catalogue


def train(
    recipe: Annotated[str, typer.Argument(help="Shipped recipe (see --list) or path of a .toml file.")] = "",
    data: DataOption = None,
    test_data: TestDataOption = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="official (default), clean, picture-cv, patient-cv or published-cv; external with --test-data; "
            "all: every picture trains and none is scored, for export."
        ),
    ] = "",
    folds: Annotated[
        str, typer.Option(help="published: the figshare author's five folds, with patient-cv. Default ours.")
    ] = "",
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
    workers: WorkersOption = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    classes: ClassesOption = None,
    list_: Annotated[bool, typer.Option("--list", help="List the shipped recipes.")] = False,
) -> None:
    """Train a recipe and score it beside the memoriser. Every epoch is saved; --resume goes on after any stop."""
    from tumorscope.config import load_recipe, parse_override, shipped_recipes

    if list_ or not recipe:
        if not list_:
            say("Which recipe? Name one of these, or the path of a .toml file:")
        for shipped in shipped_recipes():
            typer.echo(f"{shipped:20} {load_recipe(shipped).title}")
        raise typer.Exit(0 if list_ else 2)
    overrides = dict(parse_override(item) for item in set_ or [])
    chosen = load_recipe(recipe, {**overrides, **({"name": name} if name else {})})
    protocol = chosen_protocol(protocol, folds, test_data is not None)
    if chosen.model.backbone is not None:
        from tumorscope.models.backbones import contract_of
        from tumorscope.models.weights import weights_of

        contract_of(chosen.model.backbone.name)  # what is not there is said before the data are read
        if chosen.model.backbone.weights != "pretrain":
            weights_of(chosen.model.backbone)
    catalogue = open_joined(data, test_data, classes, (chosen.input.size,))
    if protocol != "official":
        catalogue = name_pictures(catalogue)
    if test_data is not None:
        say(removed(catalogue))
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
    from tumorscope.protocols import ALL

    if protocol == ALL:
        typer.echo(
            f"Trained on every picture, scored on none. Next: tumorscope export {folders[0]} --scores PATIENT_CV_RUN"
        )
        return
    from tumorscope.cli.evaluate import show
    from tumorscope.evaluation.evaluate import by_model

    show(by_model(folders))


def chosen_protocol(protocol: str, folds: str, external: bool) -> str:
    """The protocol's own name from the options; wrong combinations are wrong use."""
    from tumorscope.protocols import ALL, PROTOCOLS

    protocol = protocol or ("external" if external else "official")
    need_fitting(protocol, [*PROTOCOLS, ALL], external)
    if folds not in ("", "published"):
        raise typer.BadParameter(f"{folds}: expected published", param_hint="--folds")
    if folds and protocol != "patient-cv":
        raise typer.BadParameter("published folds go with --protocol patient-cv", param_hint="--folds")
    return "published-cv" if folds else protocol


def removed(catalogue: "Catalogue") -> str:
    """How much of the external set is left out because training holds it, in words."""
    import numpy as np

    from tumorscope.protocols import leaks

    training, test = (np.flatnonzero(catalogue.table["split"] == part) for part in ("train", "test"))
    leak = leaks(catalogue.table, training, test)
    again = len(test) - leak["none"]
    if not again:
        return f"External set: {len(test):,} slices; none of them is in the training set."
    kinds = ", ".join(f"{leak[kind]:,} by {kind}" for kind in ("picture", "patient") if leak.get(kind))
    return (
        f"External set: {len(test):,} slices; {again:,} are in the training set again ({kinds}) and were removed, "
        f"{leak['none']:,} are left. Equal patient ids in both sets count as one patient."
    )
