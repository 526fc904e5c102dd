"""The command line: it parses, prints and exits, and decides nothing."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from trialrun.cli.flags import with_values
from trialrun.cli.output import open_missing_streams, say, tell
from trialrun.cli.process import Departure, load_without_collections
from trialrun.distributed import ranks_of
from trialrun.engine.compute.openmp import limit_spinning
from trialrun.errors import CutBySignalError, TrialrunError
from trialrun.files import as_storage_error
from trialrun.runs.signals import cut_by_signals

_USAGE_EXIT = 2
_INTERNAL_EXIT = 1
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run `trialrun` with the process's arguments and exit."""
    open_missing_streams()
    departure = Departure()
    limit_spinning()
    load_without_collections()
    departure.exit_code = run(sys.argv[1:])
    sys.exit(departure.exit_code)


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code, the two lines of an error having been said."""
    debug = "--debug" in arguments
    rank = 0
    try:
        rank = ranks_of(os.environ).rank
        with _silent(rank), cut_by_signals():
            return _call([argument for argument in arguments if argument != "--debug"])
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _exit_code(_as_meant(error), rank)


@contextmanager
def _silent(rank: int) -> Iterator[None]:
    """One of several ranks speaks; the others say no more than what went wrong with them."""
    if rank == 0:
        yield
        return
    with (
        Path(os.devnull).open("w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def _call(arguments: list[str]) -> int:
    from trialrun.cli.commands import app

    command = typer.main.get_command(app)
    code = command.main(with_values(arguments), prog_name="trialrun", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _as_meant(error: BaseException) -> BaseException:
    """The error behind what typer and the operating system make of it."""
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        return error.__cause__
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return CutBySignalError("SIGINT")
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        return as_storage_error("cannot write", error)
    return error


def _exit_code(error: BaseException, rank: int) -> int:
    """Say what went wrong; the code to leave with."""
    who = f"rank {rank}: " if rank else ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, CutBySignalError):
        if not rank:
            tell("Interrupted", str(error), error.hint)
        return error.exit_code
    if isinstance(error, TrialrunError):
        tell(type(error).__name__, f"{who}{error}", error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if not rank:
            _tell_usage(error)
        return _USAGE_EXIT
    hint = "This is a fault of trialrun's: --debug shows where."
    tell(type(error).__name__, f"{who}{error}", hint)
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
