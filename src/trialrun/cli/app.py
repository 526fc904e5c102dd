"""The Typer application that the commands join, and the arguments that they share."""

from typing import Annotated

import typer

app = typer.Typer(
    name="trialrun",
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
