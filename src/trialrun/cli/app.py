"""The Typer application, its command groups, and the options that several commands share.

`app` is the application; the modules of `trialrun.cli.commands` add their commands to it with
`@app.command()`, or to a group of `add_command_group`. A new command of `app` also gets a place in
`_COMMAND_ORDER`.
"""

from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trialrun.cli.completion import list_model_names
from trialrun.cli.output import print_result

_COMMAND_ORDER = (  # of `trialrun --help`: the order in which a project uses them
    "data",
    "model",
    "train",
    "resume",
    "search",
    "ui",
    "sync",
    "doctor",
    "evaluate",
    "score",
    "serve",
    "export",
    "bench",
    "promote",
    "rollback",
    "history",
    "compare",
    "reproduce",
    "cache",
)
_COMMAND_EPILOG = (
    "Every command also takes -q/--quiet (hide progress and status lines) and --debug (print the "
    "traceback of an error)."
)


class _Group(TyperGroup):
    """A group that appends the options of every command to the help of its commands."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command of that name, or None."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and not isinstance(command, TyperGroup):
            command.epilog = _COMMAND_EPILOG
        return command


class _RootGroup(_Group):
    """The root group, which lists its commands in `_COMMAND_ORDER`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        return sorted(super().list_commands(ctx), key=_COMMAND_ORDER.index)


app = typer.Typer(
    name="trialrun",
    cls=_RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def add_command_group(name: str, help_text: str) -> typer.Typer:
    """Add the command group `trialrun NAME` to the application and return it."""
    group = typer.Typer(cls=_Group, help=help_text, no_args_is_help=True)
    app.add_typer(group, name=name)
    return group


def _show_version(ctx: typer.Context, value: bool) -> None:
    if value and not ctx.resilient_parsing:  # a shell that completes a command line parses it too
        print_result(f"trialrun {version('trialrun')}")
        raise typer.Exit


@app.callback()
def _root_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
    # `run_cli` removes the next two from the arguments, because they may follow the command too.
    _quiet: Annotated[
        bool,
        typer.Option(
            "-q",
            "--quiet",
            help="Hide progress and status lines; accepted before and after the command.",
        ),
    ] = False,
    _debug: Annotated[
        bool,
        typer.Option(
            "--debug",
            help="Print the traceback of an error; accepted before and after the command.",
        ),
    ] = False,
) -> None:
    """Train PyTorch image classifiers as MLflow runs.

    `trialrun COMMAND --help` describes the arguments and options of a command.
    """


Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object on the last line.")
]
CheckpointDir = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Parent of the run folders, if training was given another than the default.",
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="Trained model: models:/NAME/3, models:/NAME@alias, runs:/ID/model or a "
        "ModelDirectory.",
    ),
]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Network, as `trialrun model list` names it.",
        autocompletion=list_model_names,
    ),
]
