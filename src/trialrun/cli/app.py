"""The Typer application that the commands join, and the arguments that they share."""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trialrun.cli.output import print_result

_ORDER = (  # of the work: images, a network, runs, their judgement, the registry
    "data",
    "model",
    "train",
    "search",
    "evaluate",
    "score",
    "promote",
    "rollback",
    "history",
    "compare",
    "reproduce",
)


class _OrderedGroup(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, by its place in the work."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="trialrun",
    cls=_OrderedGroup,
    help="Train PyTorch image classifiers as MLflow runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(asked: bool) -> None:
    if asked:
        print_result(f"trialrun {version('trialrun')}")
        raise typer.Exit


@app.callback()
def _root_options(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
    _debug: Annotated[  # taken off before typer sees it, wherever it stands
        bool, typer.Option("--debug", help="Show where an error came from; for any command.")
    ] = False,
) -> None:
    """Train PyTorch image classifiers as MLflow runs."""


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Model = Annotated[
    str,
    typer.Argument(help="models:/NAME/3, models:/NAME@alias, runs:/ID/model, or a ModelDirectory."),
]
