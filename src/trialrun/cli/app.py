"""The Typer application that the commands join, and the arguments that they share."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

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


class _InOrder(TyperGroup):
    """Lists the commands in the order in which they are used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command, by its place in the work."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    name="trialrun",
    cls=_InOrder,
    help="Train PyTorch image classifiers as MLflow runs; --debug shows where an error came from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Model = Annotated[
    str,
    typer.Argument(help="models:/NAME/3, models:/NAME@alias, runs:/ID/model, or a ModelDirectory."),
]
