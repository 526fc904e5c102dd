"""Stop signals in a process of its own: in a step, outside a step, and a second one."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from trialrun.launchers import is_alive
from trialrun.runs.signals import finish_step_on_signal

_PREAMBLE = """
import os, signal, subprocess, sys, threading, time
from trialrun.errors import RunInterruptedError
from trialrun.runs.signals import *
from trialrun.signals import act_if_stuck
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
say = lambda text: print(text, flush=True)

def work(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
"""

_STEPS = """
work = {work}
try:
    with interrupt_on_signals(), finish_step_on_signal() as request:
        say("ready")
        while True:
            work()
            say("step")
            request.raise_if_set()
except RunInterruptedError as interrupt:
    say(interrupt.signal_name)
    sys.exit(75)
"""

# A library releases Python's lock, and no bytecode runs until it returns.
_STUCK = """
import hashlib
with interrupt_on_signals(), act_if_stuck(lambda name: say("ended by " + name)):
    with finish_step_on_signal():
        say("ready")
        hashlib.pbkdf2_hmac("sha512", b"", b"", 10**9)
"""

_ENDING = """
try:
    with interrupt_on_signals():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                                 stdout=subprocess.DEVNULL)
        try:
            say(f"ready {{child.pid}}")
            work(60)
        except RunInterruptedError:
            say("ending")
            {ending}
finally:
    say("cleaned up")
"""

_EXITING = """
try:
    with interrupt_on_signals():
        say("ready")
        work(60)
except RunInterruptedError:
    say("ending")
time.sleep(60)
"""


@contextmanager
def start(body: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a program in a process that is killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PREAMBLE + body], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: "subprocess.Popen[str]") -> str:
    """Return the next line that the process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended may stay a zombie."""
    try:
        return is_alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> None:
    """Wait until a killed process has ended."""
    deadline = time.monotonic() + 5
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_many_open_files_do_not_matter() -> None:
    """The thread that reads signals works with file descriptors above 1,024."""
    body = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2048, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
try:
    with interrupt_on_signals(), finish_step_on_signal() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        work(0.2)
        request.raise_if_set()
except RunInterruptedError as interrupt:
    say(interrupt.signal_name)
"""
    with start(body) as process:
        output, _ = process.communicate(timeout=20)
    assert output.split() == ["SIGTERM"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_step_is_finished(number: signal.Signals) -> None:
    """The request is raised after the step in which the signal arrived."""
    with start(_STEPS.format(work="lambda: time.sleep(0.3)")) as process:
        assert read_line(process) == "ready"
        process.send_signal(number)
        output, _ = process.communicate(timeout=20)
    assert (output.split(), process.returncode) == (["step", number.name], 75)


@pytest.mark.slow
def test_long_step_is_interrupted() -> None:
    """A step that waits for another process does not delay the end beyond ten seconds."""
    with start(_STEPS.format(work="lambda ends=os.pipe(): os.read(ends[0], 1)")) as process:
        assert read_line(process) == "ready"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert (output.split(), process.returncode) == (["SIGTERM"], 75)
    assert 6 < time.monotonic() - started < 10


@pytest.mark.slow
def test_step_that_never_returns_is_ended() -> None:
    """The run is ended by another thread, and the process exits within ten seconds."""
    with start(_STUCK) as process:
        assert read_line(process) == "ready"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (output.strip(), process.returncode) == ("ended by SIGINT", 75)
    assert time.monotonic() - started < 10


def test_signal_at_the_end_of_the_block_is_raised() -> None:
    """A signal after the last step ends the run as any other."""
    body = """
with interrupt_on_signals():
    try:
        with finish_step_on_signal():
            os.kill(os.getpid(), signal.SIGTERM)
            say("last step")
    except RunInterruptedError as interrupt:
        say(interrupt.signal_name)
"""
    with start(body) as process:
        output, _ = process.communicate(timeout=20)
    assert output.split("\n")[:2] == ["last step", "SIGTERM"]


@pytest.mark.parametrize(
    "ending", ["work(60)", "import hashlib; hashlib.pbkdf2_hmac('sha512', b'', b'', 10**9)"]
)
def test_second_signal_ends_the_process_at_once(ending: str) -> None:
    """Nothing is cleaned up and no child process remains, also while C++ code runs."""
    with start(_ENDING.format(ending=ending)) as process:
        _, pid = read_line(process).split()
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "ending"
        time.sleep(1)  # two within 0.3 s count as one, and a busy machine notices the first late
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    assert (output, process.returncode) == ("", 75)
    assert time.monotonic() - started < 5  # an orderly end may take ten
    wait_until_gone(int(pid))


def test_pair_of_signals_is_one() -> None:
    """`mlflow run` sends SIGINT and SIGTERM at once; the run is still ended in order."""
    with start(_ENDING.format(ending="work(0.3)")) as process:
        _, pid = read_line(process).split()
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "ending"
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
    psutil.Process(int(pid)).kill()
    assert (output.strip(), process.returncode) == ("cleaned up", 0)


def test_second_signal_ends_an_exiting_process() -> None:
    """A process that waits after its block, for a thread or a file, is ended too."""
    with start(_EXITING) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGTERM)
        assert read_line(process) == "ending"
        time.sleep(0.4)
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 75


def test_program_that_calls_the_library_is_not_ended() -> None:
    """Later signals are ignored until the run has ended; then the program's handlers act."""
    body = """
try:
    with reraise_signal():
        try:
            say("ready")
            work(60)
        finally:
            say("ending")
            work(1)
except KeyboardInterrupt:
    say("interrupted")
"""
    with start(body) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGINT)
        assert read_line(process) == "ending"
        time.sleep(0.4)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
    assert (output.strip(), process.returncode) == ("interrupted", 0)


def test_signal_of_a_forked_process_is_its_own() -> None:
    """A signal to a forked child process does not count as one to its parent."""
    body = """
with interrupt_on_signals():
    if (pid := os.fork()) == 0:
        try:
            time.sleep(60)
        except RunInterruptedError:
            os._exit(3)
    time.sleep(0.3)
    os.kill(pid, signal.SIGTERM)
    say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.kill(os.getpid(), signal.SIGTERM)
"""
    with start(
        body.replace("os.kill(os.getpid()", "time.sleep(0.4); os.kill(os.getpid()")
    ) as process:
        output, _ = process.communicate(timeout=20)
    assert (output.strip(), process.returncode) == ("3", 1)  # an uncaught exception, not exit 75


def test_request_without_handlers_is_never_set() -> None:
    """Training in another thread than the main one changes no handler."""
    before = signal.getsignal(signal.SIGTERM)
    with finish_step_on_signal() as request:
        assert signal.getsignal(signal.SIGTERM) is before
        request.raise_if_set()
    assert not request.is_set
