"""The worker pool of a search: processes that share the machine's processors and GPUs.

A worker process is `python -m trialrun.tuning.workers FILE`; the file holds its arguments. Its
standard input is a pipe from the parent: the worker ends when the pipe closes.
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
from trialrun.tuning.study.claims import Finished, NothingYet
from trialrun.tuning.study.trial_queue import TrialQueue
from trialrun.tuning.workers.division import Division

if TYPE_CHECKING:
    from trialrun.tuning.workers.trial_runner import TrialRunner

POLL_SECONDS = 0.25

_STOP_SECONDS = 9  # for a worker to end its run after a signal; the search ends within ten
_MAX_RESTARTS = 3  # per worker; more deaths point to a common fault
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def run_trials(
    queue: TrialQueue, runner: "TrialRunner", worker: str, on_poll: Callable[[], None]
) -> None:
    """Claim and train trials in this process until the queue is finished.

    `on_poll` is called after each trial, and after each wait for one.

    Raises:
        TrialrunError: An error that is not caused by a trial's settings.
        RunInterruptedError: A signal was received.
    """
    while not isinstance(claim := queue.claim(worker), Finished):
        if isinstance(claim, NothingYet):
            time.sleep(POLL_SECONDS)
        else:
            runner.run(queue, claim)
        on_poll()


@dataclass(frozen=True, slots=True)
class WorkerArgs:
    """The arguments of a worker process."""

    raw_settings: Mapping[str, Any]  # the search's settings, as the caller gave them
    copies: Mapping[str, str]  # local paths of the images that the search downloaded, by URI
    storage: str
    study: str
    parent_run_id: str
    deadline: float | None  # seconds since 1970
    index: int  # among the workers of this machine, from 0
    worker: str  # unique name
    error_file: str  # for an error that ends the worker

    def to_json(self) -> str:
        """Return the content of the argument file."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


@dataclass(slots=True)
class _Worker:
    worker_args: WorkerArgs
    process: "subprocess.Popen[bytes]"


class WorkerPool:
    """The worker processes of one search on this machine."""

    def __init__(
        self,
        queue: TrialQueue,
        parent_run_id: str,
        division: Division,
        on_poll: Callable[[], None],
    ) -> None:
        self._queue, self._parent_run_id, self._on_poll = queue, parent_run_id, on_poll
        self._division = division
        self._num_workers = division.num_workers
        self._num_started = 0

    def run(self) -> None:
        """Let the workers train trials until the queue is finished.

        Raises:
            TrialrunError: A worker ended with this error, or too many workers died.
            RunInterruptedError: A signal was received; the workers have requeued their trials.
        """
        with scratch_directory() as scratch:
            workers = [self._start(scratch, index) for index in range(self._num_workers)]
            try:
                while workers:
                    time.sleep(POLL_SECONDS)
                    workers = [w for old in workers for w in self._check(old, scratch)]
                    self._on_poll()
            except BaseException:
                _stop_workers(workers)
                raise
            finally:
                for worker in workers:
                    self._queue.requeue_worker(worker.worker_args.worker)

    def _check(self, worker: _Worker, scratch: Path) -> list[_Worker]:
        """Return the worker if it runs, a new one if it was killed, none if it is done."""
        code = worker.process.poll()
        if code is None:
            return [worker]
        _close_stdin(worker.process)
        if code == 0:
            return []
        if error := _read_error(Path(worker.worker_args.error_file)):
            raise error
        self._queue.requeue_worker(worker.worker_args.worker)
        if self._num_started >= self._num_workers * (1 + _MAX_RESTARTS):
            raise TrialrunError(
                f"{self._num_started} workers have died, the last with exit code {code}",
                "Check the kernel log for its out-of-memory killer, and use fewer --workers.",
            )
        return [self._start(scratch, worker.worker_args.index)]

    def _start(self, scratch: Path, index: int) -> _Worker:
        self._num_started += 1
        queue, number = self._queue, self._num_started
        worker_args = WorkerArgs(
            raw_settings=queue.plan.raw_settings,
            copies=list_copies(),
            storage=queue.storage.url,
            study=queue.study.study_name,
            parent_run_id=self._parent_run_id,
            deadline=queue.deadline,
            index=index,
            worker=f"{make_worker_name()}-{number}",
            error_file=str(scratch / f"{number}.error.json"),
        )
        file = scratch / f"{number}.json"
        file.touch(mode=0o600)  # the storage URL may contain a password
        file.write_text(worker_args.to_json())
        process = subprocess.Popen(
            [sys.executable, "-m", "trialrun.tuning.workers", str(file)],
            stdin=subprocess.PIPE,
            env=_build_environment(self._division),
        )
        return _Worker(worker_args, process)


def make_worker_name() -> str:
    """Return a name that is unique among all processes and machines."""
    import socket

    return f"{socket.gethostname()}-{os.getpid()}-{time.time_ns() // 1_000_000}"


def _build_environment(division: Division) -> dict[str, str]:
    """Return this process's environment with a worker's threads and MLflow variables set."""
    import mlflow

    thread_variables = dict.fromkeys(_THREADS, str(division.num_threads))
    mlflow_variables = {
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
        # The links to runs that MLflow prints contain the password of the server's URL.
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }
    return {**os.environ, **thread_variables, **mlflow_variables}


def _read_error(path: Path) -> TrialrunError | None:
    """Return the error in a worker's error file; None if the file does not exist."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text("utf-8"))
    error_class = getattr(errors, values["kind"], TrialrunError)
    error = error_class(values["message"], values["hint"])
    assert isinstance(error, TrialrunError)
    return error


def write_error(path: Path, error: TrialrunError) -> None:
    """Write an error file for the parent process."""
    values = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
    path.write_text(json.dumps(values), "utf-8")


def _stop_workers(workers: list[_Worker]) -> None:
    """Send SIGTERM to the workers, and SIGKILL after a timeout."""
    for worker in workers:
        if worker.process.poll() is None:
            worker.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    for worker in workers:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        _close_stdin(worker.process)


def _close_stdin(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin:
        process.stdin.close()
    process.wait()
