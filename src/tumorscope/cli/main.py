"""The `tumorscope` command: one small file per verb, imported when it is used."""

import sys

import typer

from tumorscope import __version__
from tumorscope.cli import (
    audit,
    augment,
    compare,
    data,
    demo,
    evaluate,
    explain,
    export,
    predict,
    pretrain,
    study,
    train,
    tune,
)
from tumorscope.errors import TumorscopeError

#: What a verb that goes on after a stop says when it is interrupted; `predict` does with --out alone, and says so itself.
KEPT = {
    "train": " What was finished is kept: the same command with --resume goes on.",
    **dict.fromkeys(("demo", "pretrain", "study", "tune"), " What was finished is kept: the same command goes on."),
}
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Brain-tumour MRI classification whose numbers hold up on a new patient. "
    "For research and teaching; not a medical device.",
)
app.add_typer(data.app, name="data")
app.add_typer(study.app, name="study")
app.command("audit")(audit.audit)
app.command("train")(train.train)
app.command("augment")(augment.augment)
app.command("pretrain")(pretrain.pretrain)
app.command("tune")(tune.tune)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.command("explain")(explain.explain)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("demo")(demo.demo)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def main() -> None:
    """Run the command. Exit code 0: done; 1: bad input, said in a line; 2: wrong use; 130: interrupted."""
    try:
        app()
    except TumorscopeError as error:
        _fail(str(error), 1)
    except SystemExit as stop:  # typer ends an interrupted command with code 130 and says nothing
        if stop.code != 130:
            raise
        verb = next((one for one in sys.argv[1:] if not one.startswith("-")), "")
        _fail(f"Interrupted.{KEPT.get(verb, '')}", 130)
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed: pip install 'tumorscope[train,transfer,audit,fetch]'", 1)


def _fail(message: str, code: int) -> None:
    typer.secho(f"tumorscope: {message}", fg="red", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
