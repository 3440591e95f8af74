"""`tumorscope pretrain`: weights for a backbone from other images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tumorscope.cli.common import counting, name_pictures, open_catalogue, say, training_progress

if TYPE_CHECKING:
    from tumorscope.config import Input
    from tumorscope.data.folder import Pictures


def pretrain(
    recipe: Annotated[str, typer.Argument(help="Recipe with a backbone: shipped (train --list) or a .toml file.")],
    data: Annotated[Path, typer.Option("--data", help="Folder or zip archive of images; folders in it are classes.")],
    apart_from: Annotated[
        list[Path] | None,
        typer.Option("--apart-from", help="Set to train and score on later: its pictures are left out. Repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Weights file (.safetensors) to write. Default weights/<recipe>-<data>.safetensors."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Override a field: pretrain.method (simclr, barlow_twins or labels), pretrain.epochs, pretrain.batch_size, "
            "pretrain.learning_rate, input.size, model.backbone.name=resnet18. Repeatable.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Learn a backbone's weights on other images, with their labels or without, for `weights = "file:..."`.

    An interrupted one goes on where it stopped when it is called again.
    Weights made without --apart-from are refused for training on any set: they may know its test slices.
    """
    import json

    from tumorscope.config import load_recipe, parse_override
    from tumorscope.training.pretrain import ORIGIN, check
    from tumorscope.training.pretrain import pretrain as learn
    from tumorscope.training.runs import device_here

    if out is not None and out.suffix != ".safetensors":
        raise typer.BadParameter(f"{out}: weights are .safetensors files", param_hint="--out")
    chosen = load_recipe(recipe, dict(parse_override(item) for item in set_ or []))
    check(chosen)
    here = device_here(device)
    pictures, digests = _read(data, chosen.input, apart_from or [])
    file = out or Path("weights") / f"{chosen.name}-{Path(pictures.name).stem}.safetensors"
    origin = {
        **{"name": pictures.name, "digest": pictures.digest, "slices": len(pictures.labels)},
        **{"method": chosen.pretrain.method, "apart_from": digests},
    }
    with training_progress() as report:
        from tumorscope.training.fold import progress_of

        work = f"Pretraining {chosen.name} ({chosen.pretrain.method}) on {len(pictures.labels):,} images"
        learn(
            chosen,
            pictures.images,
            pictures.labels,
            file,
            {ORIGIN: json.dumps(origin)},
            seed=seed,
            device=here,
            progress=progress_of(report, work, "epochs"),
        )
    typer.echo(file.resolve())
    say(following(recipe, file, set_ or [], apart_from or []))


def _read(data: Path, view: "Input", apart_from: list[Path]) -> tuple["Pictures", list[str]]:
    """The images to learn on, said in words, and the digests of the sets whose slices were left out of them.

    Raises `DataNotFound` where nothing is left.
    """
    from tumorscope.data.folder import read_pictures
    from tumorscope.errors import DataNotFound

    with counting("Reading images") as progress:
        pictures = read_pictures(data, view, progress)
    for notice in pictures.notices:
        say(f"Note: {notice}")
    if pictures.refused:
        say(f"Left out: {pictures.refused} files that are no readable image.")
    say(by_class(pictures))
    digests = []
    for place in apart_from:
        from tumorscope.audit.apart import apart

        catalogue = name_pictures(open_catalogue(place))
        before = len(pictures.labels)
        pictures = apart(pictures, data, catalogue)
        say(f"{before - len(pictures.labels):,} of {before:,} images are slices of {catalogue.name} and were left out.")
        digests.append(catalogue.digest)
    if not len(pictures.labels):
        raise DataNotFound(f"{data}: every image of it is a slice of {', '.join(map(str, apart_from))}.")
    return pictures, digests


def following(recipe: str, file: Path, set_: list[str], apart_from: list[Path]) -> str:
    """The command that trains with the weights: on the set that they are proven apart from, with the network that learnt them."""
    import shlex

    if not apart_from:
        return "Training refuses these weights on any set: name the set that is trained on with --apart-from."
    learnt = ("pretrain.", "model.backbone.weights=")  # how and from what they were learnt, which is done
    kept = [item for item in set_ if not item.startswith(learnt)]
    options = [word for item in (*kept, f"model.backbone.weights=file:{file}") for word in ("--set", item)]
    return f"Next: {shlex.join(['tumorscope', 'train', recipe, '--data', str(apart_from[0]), *options])}"


def by_class(pictures: "Pictures") -> str:
    """How many images were read and of which classes, in words; of many classes the first few."""
    from textwrap import shorten

    counts = (f"{(pictures.labels == code).sum()} {name or '.'}" for code, name in enumerate(pictures.classes))
    told = shorten(", ".join(counts), 300, placeholder=" ...")
    return f"Read {len(pictures.labels):,} images of {len(pictures.classes)} classes: {told}"
