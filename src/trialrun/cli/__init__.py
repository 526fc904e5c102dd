"""The command line: it parses, prints and exits, and decides nothing."""

import errno
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from trialrun.cli.flags import with_values
from trialrun.cli.lifetime import Departure, load_without_collections
from trialrun.cli.output import say, tell
from trialrun.distributed import ranks_of
from trialrun.errors import CutBySignalError, TrialrunError
from trialrun.files import as_storage_error

_USAGE_EXIT = 2
_INTERNAL_EXIT = 1
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run `trialrun` with the process's arguments and exit."""
    departure = Departure()
    load_without_collections()
    departure.exit_code = run(sys.argv[1:])
    sys.exit(departure.exit_code)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code, the two lines of an error having been said."""
    from trialrun.cli.commands import app

    if not ranks_of(os.environ).is_first:  # one of several ranks speaks, the others keep silent
        with (
            Path(os.devnull).open("w") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            return _run(app, arguments)
    return _run(app, arguments)


def _run(app: typer.Typer, arguments: list[str]) -> int:
    debug = "--debug" in arguments
    arguments = with_values([argument for argument in arguments if argument != "--debug"])
    try:
        typer.main.get_command(app).main(arguments, prog_name="trialrun", standalone_mode=False)
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _exit_code(error)
    return 0


def _exit_code(error: BaseException) -> int:
    """Say what went wrong; the code to leave with."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        error = CutBySignalError("SIGINT")
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        error = as_storage_error("cannot write", error)
    if isinstance(error, CutBySignalError):
        tell("Interrupted", str(error), "Its MLflow run has ended as KILLED; start it again.")
        return error.exit_code
    if isinstance(error, TrialrunError):
        tell(type(error).__name__, str(error), error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        _tell_usage(error)
        return _USAGE_EXIT
    tell(type(error).__name__, str(error), "This is a fault of trialrun's: --debug shows where.")
    return _INTERNAL_EXIT


def _tell_usage(error: typer.TyperException) -> None:
    """What is wrong with the command line; the help, where no more than a group was named."""
    context = getattr(error, "ctx", None)  # typer's parser is a part it does not export
    command = context.command_path if context else "trialrun"
    if type(error).__name__ == "NoArgsIsHelpError":
        say(error.format_message())
        return
    tell(
        "InvalidParameterError", error.format_message(), f"`{command} --help` lists what it takes."
    )
