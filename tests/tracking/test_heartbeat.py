"""The heartbeat of a run: which process it names, and whether that process lives."""

import subprocess
import sys
from dataclasses import replace

import mlflow
import pytest

from tests.tracking.journaled import read_runs
from trialrun.tracking import HEARTBEAT_TAG, open_run, parse_heartbeat
from trialrun.tracking.heartbeat import make_heartbeat


def test_tag_is_parsed_to_the_same_heartbeat() -> None:
    """Nothing is lost in the text."""
    heartbeat = make_heartbeat()
    assert parse_heartbeat(heartbeat.to_tag()) == heartbeat


@pytest.mark.parametrize("text", [None, "", "x", "[]", "{}", '{"host": "a", "pid": 1}'])
def test_tag_of_another_program_is_no_heartbeat(text: str | None) -> None:
    """Such a run cannot be judged."""
    assert parse_heartbeat(text) is None


def test_this_process_lives() -> None:
    """It is of this machine, too."""
    heartbeat = make_heartbeat()
    assert heartbeat.is_of_this_machine()
    assert heartbeat.has_living_process()


def test_process_lives_although_the_clock_was_set() -> None:
    """A new clock moves the start of the process and that of the machine alike."""
    heartbeat = make_heartbeat()
    earlier = replace(heartbeat, created=heartbeat.created - 3600, booted=heartbeat.booted - 3600)
    assert earlier.has_living_process()


def test_pid_that_another_process_got_is_not_alive() -> None:
    """The other process started at another time."""
    heartbeat = make_heartbeat()
    assert not replace(heartbeat, created=heartbeat.created - 60).has_living_process()


def test_zombie_is_not_alive() -> None:
    """A process that has ended remains in the list of processes until its parent asks for it."""
    import psutil

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        created = psutil.Process(process.pid).create_time()
        heartbeat = replace(make_heartbeat(), pid=process.pid, created=created)
        assert heartbeat.has_living_process()
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            pass
        assert not heartbeat.has_living_process()
    assert not heartbeat.has_living_process()


@pytest.mark.parametrize("other", [{"host": "other"}, {"namespace": "pid:[1]"}])
def test_process_of_another_machine_or_container_is_not_judged(other: dict[str, str]) -> None:
    """Its pid means nothing here."""
    assert not replace(make_heartbeat(), **other).is_of_this_machine()  # type: ignore[arg-type]


def test_run_without_journal_names_its_process(store: str) -> None:
    """So do runs that are opened again, such as the run of a search."""
    client = mlflow.MlflowClient(store)
    with open_run(client, experiment=None, name="direct", tags={}) as run:
        pass
    with open_run(client, experiment=None, name=None, tags={}, run_id=run.run_id):
        (stored,) = read_runs(store)
        second = stored.data.tags[HEARTBEAT_TAG]
    heartbeat = parse_heartbeat(second)
    assert heartbeat is not None
    assert heartbeat.has_living_process()
