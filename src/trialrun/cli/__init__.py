"""The command line: parses arguments, calls the package's functions, prints results and errors."""

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import typer

from trialrun.cli.flags import add_switch_values
from trialrun.cli.output import open_missing_streams, print_error, print_message, set_quiet
from trialrun.distributed import read_ranks
from trialrun.engine.compute.openmp import limit_spinning
from trialrun.errors import FirstRankFailedError, RunInterruptedError, TrialrunError
from trialrun.fast_exit import FastExit
from trialrun.fast_start import start_fast
from trialrun.files import as_storage_error
from trialrun.runs.signals import interrupt_on_signals

_USAGE_EXIT = 2
_INTERNAL_EXIT = 1
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
_DEBUG_FLAGS = {"--debug"}
_QUIET_FLAGS = {"-q", "--quiet"}


def main() -> None:
    """Run `trialrun` with the process's arguments and exit."""
    open_missing_streams()
    fast_exit = FastExit()
    limit_spinning()
    start_fast()
    fast_exit.exit_code = run_cli(sys.argv[1:])
    sys.exit(fast_exit.exit_code)


def run_cli(arguments: list[str]) -> int:
    """Run one command line and return its exit code; an error is printed as two lines."""
    debug = not _DEBUG_FLAGS.isdisjoint(arguments)
    quiet = not _QUIET_FLAGS.isdisjoint(arguments)
    others = [argument for argument in arguments if argument not in _DEBUG_FLAGS | _QUIET_FLAGS]
    rank = 0
    try:
        rank = read_ranks(os.environ).rank
        with _silence_other_ranks(rank), interrupt_on_signals(), set_quiet(quiet):
            return _call_app(others)
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            traceback.print_exc()
        return _report_error(_translate_error(error), rank)


@contextmanager
def _silence_other_ranks(rank: int) -> Iterator[None]:
    """Inside the context, discard the output of every rank but 0; errors are printed after it."""
    if rank == 0:
        yield
        return
    with (
        Path(os.devnull).open("w") as devnull,
        redirect_stdout(devnull),
        redirect_stderr(devnull),
    ):
        yield


def _call_app(arguments: list[str]) -> int:
    from trialrun.cli.commands import app

    command = typer.main.get_command(app)
    code = command.main(add_switch_values(arguments), prog_name="trialrun", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _translate_error(error: BaseException) -> BaseException:
    """Translate errors of Typer and the operating system to those of this package."""
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        return error.__cause__
    if isinstance(error, typer.Abort | KeyboardInterrupt):
        return RunInterruptedError("SIGINT")
    if isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS:
        return as_storage_error("cannot write", error)
    return error


def _report_error(error: BaseException, rank: int) -> int:
    """Print the error and return the exit code."""
    prefix = f"rank {rank}: " if rank else ""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, RunInterruptedError):
        if not rank:
            print_error("Interrupted", str(error), error.hint)
        return error.exit_code
    if isinstance(error, FirstRankFailedError):
        return error.exit_code
    if isinstance(error, TrialrunError):
        print_error(type(error).__name__, f"{prefix}{error}", error.hint)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        if not rank:
            _print_usage_error(error)
        return _USAGE_EXIT
    hint = "This is a bug in trialrun; --debug prints the traceback."
    print_error(type(error).__name__, f"{prefix}{error}", hint)
    return _INTERNAL_EXIT


def _print_usage_error(error: typer.TyperException) -> None:
    """Print what is wrong with the arguments, or the help if only a group was named."""
    context = getattr(error, "ctx", None)  # Typer does not export the error's class
    command = context.command_path if context else "trialrun"
    if type(error).__name__ == "NoArgsIsHelpError":
        print_message(error.format_message())
        return
    print_error(
        "InvalidParameterError",
        error.format_message(),
        f"`{command} --help` lists its arguments and options.",
    )
