"""The command line: it parses, prints and exits, and decides nothing."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from trialrun.cli.flags import add_switch_values
from trialrun.cli.output import open_missing_streams, print_error, print_status
from trialrun.cli.process import FastExit, defer_gc
from trialrun.distributed import read_ranks
from trialrun.engine.compute.openmp import limit_spinning
from trialrun.errors import RunInterruptedError, TrialrunError
from trialrun.files import as_storage_error
from trialrun.runs.signals import interrupt_on_signals

_USAGE_EXIT = 2
_INTERNAL_EXIT = 1
_DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run `trialrun` with the process's arguments and exit."""
    open_missing_streams()
    departure = FastExit()
    limit_spinning()
    defer_gc()
    departure.exit_code = run_cli(sys.argv[1:])
    sys.exit(departure.exit_code)


def run_cli(arguments: list[str]) -> int:
    """Run one command line; its exit code, the two lines of an error having been said."""
    debug = "--debug" in arguments
    rank = 0
    try:
        rank = read_ranks(os.environ).rank
        with _silence_other_ranks(rank), interrupt_on_signals():
            return _call_app([argument for argument in arguments if argument != "--debug"])
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _report_error(_translate_error(error), rank)


@contextmanager
def _silence_other_ranks(rank: int) -> Iterator[None]:
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


def _call_app(arguments: list[str]) -> int:
    from trialrun.cli.commands import app

    command = typer.main.get_command(app)
    code = command.main(add_switch_values(arguments), prog_name="trialrun", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _translate_error(error: BaseException) -> BaseException:
    """The error behind what typer and the operating system make of it."""
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        return error.__cause__
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return RunInterruptedError("SIGINT")
    if isinstance(error, OSError) and error.errno in _DISK_IS_FULL:
        return as_storage_error("cannot write", error)
    return error


def _report_error(error: BaseException, rank: int) -> int:
    """Say what went wrong; the code to leave with."""
    who = f"rank {rank}: " if rank else ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, RunInterruptedError):
        if not rank:
            print_error("Interrupted", str(error), error.hint)
        return error.exit_code
    if isinstance(error, TrialrunError):
        print_error(type(error).__name__, f"{who}{error}", error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if not rank:
            _print_usage(error)
        return _USAGE_EXIT
    hint = "This is a fault of trialrun's: --debug shows where."
    print_error(type(error).__name__, f"{who}{error}", hint)
    return _INTERNAL_EXIT


def _print_usage(error: typer.TyperException) -> None:
    """What is wrong with the command line; the help, where no more than a group was named."""
    context = getattr(error, "ctx", None)  # typer's parser is a part it does not export
    command = context.command_path if context else "trialrun"
    if type(error).__name__ == "NoArgsIsHelpError":
        print_status(error.format_message())
        return
    print_error(
        "InvalidParameterError", error.format_message(), f"`{command} --help` lists what it takes."
    )
