"""Which processes of workers have ended."""

import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from trialrun.tuning.study.processes import describe_process, has_ended


def test_own_process_has_not_ended() -> None:
    """A worker that claims its next trial does not give up its own."""
    assert not has_ended(describe_process())


@pytest.mark.parametrize(
    "changed", [{"host": "elsewhere"}, {"namespace": "pid:[1]"}], ids=["host", "container"]
)
def test_processes_of_other_machines_are_unknown(changed: dict[str, Any]) -> None:
    """Their process numbers mean nothing here: missing heartbeats tell."""
    assert not has_ended({**describe_process(), "pid": 2**22 + 1, **changed})
    assert not has_ended(None)


def test_process_with_a_used_number_has_ended() -> None:
    """Another process has the number now: it started at another time."""
    own = describe_process()
    assert has_ended({**own, "created": own["created"] - 60})


def test_killed_process_has_ended() -> None:
    """Also while its parent has not waited for it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    other = {
        **describe_process(),
        "pid": process.pid,
        "created": psutil.Process(process.pid).create_time(),
    }
    assert not has_ended(other)
    process.kill()
    deadline = time.monotonic() + 10
    while not has_ended(other):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.communicate()
    assert has_ended(other)
