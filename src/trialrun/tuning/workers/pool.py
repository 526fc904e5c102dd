"""Who trains: this process, or several of this machine, each with its share of processors and GPUs.

A worker process is `python -m trialrun.tuning.workers FILE`, the file holding its orders. It ends
itself when its parent is gone, which it learns from the end of its standard input.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun import errors
from trialrun.errors import TrialrunError
from trialrun.files import scratch_directory
from trialrun.runs.datasets.sources import list_copies
from trialrun.tuning.study.trial_queue import Finished, NothingYet, TrialQueue

if TYPE_CHECKING:
    from trialrun.tuning.workers.trial_runner import TrialRunner

POLL_SECONDS = 0.25

_STOP_SECONDS = 10  # that a worker has for closing its run after a signal
_MAX_REPLACED = 3  # workers begun again for each one asked for, before something else is wrong
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_trials(
    queue: TrialQueue, runner: "TrialRunner", worker: str, after: Callable[[], None]
) -> None:
    """Take and run trials in this process until none is to be begun any more.

    Raises:
        TrialrunError: What is wrong is not one trial's settings.
        RunInterruptedError: A signal came.
    """
    while not isinstance(claim := queue.claim(worker), Finished):
        if isinstance(claim, NothingYet):
            time.sleep(POLL_SECONDS)
        else:
            runner.run(queue, claim)
        after()


@dataclass(frozen=True, slots=True)
class WorkerArgs:
    """What a worker process is told."""

    raw_settings: Mapping[str, Any]  # the search's settings, as they were given
    copies: Mapping[str, str]  # of the images that the search downloaded, by address
    storage: str
    study: str
    parent_run_id: str
    deadline: float | None
    place: int  # among the workers of this machine
    worker: str
    answer: str  # the file for its error, should it end with one

    def to_json(self) -> str:
        """As the orders' file holds them."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


@dataclass(slots=True)
class _Worker:
    worker_args: WorkerArgs
    process: "subprocess.Popen[bytes]"


class WorkerPool:
    """The worker processes of one search on this machine."""

    def __init__(self, queue: TrialQueue, parent_run_id: str, after: Callable[[], None]) -> None:
        self._desk, self._parent_run_id, self._after = queue, parent_run_id, after
        self._num_workers = queue.plan.config.workers
        self._num_begun = 0

    def work(self) -> None:
        """Let the workers take trials until none is to be begun any more.

        Raises:
            TrialrunError: A worker ended with it, or workers keep dying.
            RunInterruptedError: A signal came; the workers have put their trials back.
        """
        with scratch_directory() as scratch:
            pool = [self._begin(scratch, place) for place in range(self._num_workers)]
            try:
                while pool:
                    time.sleep(POLL_SECONDS)
                    pool = [w for each in pool for w in self._looked_after(each, scratch)]
                    self._after()
            except BaseException:
                _stop_workers(pool)
                raise
            finally:
                for each in pool:
                    self._desk.release(each.worker_args.worker)

    def _looked_after(self, worker: _Worker, scratch: Path) -> list[_Worker]:
        """The worker, nobody where it is done, or another in its place where it was killed."""
        code = worker.process.poll()
        if code is None:
            return [worker]
        _close_streams(worker.process)
        if code == 0:
            return []
        if error := _read_error(Path(worker.worker_args.answer)):
            raise error
        self._desk.release(worker.worker_args.worker)
        if self._num_begun >= self._num_workers * (1 + _MAX_REPLACED):
            raise TrialrunError(
                f"{self._num_begun} workers have died, the last with code {code}",
                "Look for the kernel's out-of-memory killer, and take fewer --workers.",
            )
        return [self._begin(scratch, worker.worker_args.place)]

    def _begin(self, scratch: Path, place: int) -> _Worker:
        self._num_begun += 1
        queue, number = self._desk, self._num_begun
        worker_args = WorkerArgs(
            raw_settings=queue.plan.raw_settings,
            copies=list_copies(),
            storage=queue.storage.url,
            study=queue.study.study_name,
            parent_run_id=self._parent_run_id,
            deadline=queue.deadline,
            place=place,
            worker=f"{make_worker_name()}-{number}",
            answer=str(scratch / f"{number}.error.json"),
        )
        file = scratch / f"{number}.json"
        file.touch(mode=0o600)  # the storage's address may hold a password
        file.write_text(worker_args.to_json())
        process = subprocess.Popen(
            [sys.executable, "-m", "trialrun.tuning.workers", str(file)],
            stdin=subprocess.PIPE,
            env=_build_environment(self._num_workers),
        )
        return _Worker(worker_args, process)


def make_worker_name() -> str:
    """A name that no other process has."""
    import socket

    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns() // 1_000_000}"


def _build_environment(num_workers: int) -> dict[str, str]:
    """Ours, with a worker's share of the processors and the tracking store named."""
    import mlflow

    num_processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    threads = str(max(num_processors // num_workers, 1))
    shared = {} if num_workers == 1 else dict.fromkeys(_THREADS, threads)
    own = {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        # MLflow prints links to runs, which hold the address's password, on standard output.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    return {**os.environ, **shared, **own}


def _read_error(path: Path) -> TrialrunError | None:
    """The error that a worker left behind."""
    if not path.is_file():
        return None
    told = json.loads(path.read_text("utf-8"))
    kind = getattr(errors, told["kind"], TrialrunError)
    error = kind(told["message"], told["hint"])
    assert isinstance(error, TrialrunError)
    return error


def write_error(path: str, error: TrialrunError) -> None:
    """Leave an error behind for the search."""
    told = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    Path(path).write_text(json.dumps(told), "utf-8")


def _stop_workers(pool: list[_Worker]) -> None:
    """Ask the workers to stop, and end those that do not."""
    for worker in pool:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in pool:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _close_streams(worker.process)


def _close_streams(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin:
        process.stdin.close()
    process.wait()
