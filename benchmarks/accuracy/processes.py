"""A trainer's process and the seconds since its start at which each epoch's accuracy appeared."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.accuracy.trainers import Job, Trainer
from benchmarks.environments import make_peer_variables

_NUM_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class Curve:
    """The validation accuracies of a process, in order, and its seconds in total."""

    points: tuple[tuple[float, float], ...]  # seconds since the start of the process, accuracy
    seconds: float

    def find_seconds(self, accuracy: float) -> float | None:
        """Return the seconds at which `accuracy` was first reached, or None."""
        return next((at for at, found in self.points if found >= accuracy), None)


def measure_curve(
    trainer: Trainer, job: Job, *, to_the_end: bool = False, limit_seconds: float = math.inf
) -> Curve:
    """Run the trainer until it reaches the set's accuracy, or `to_the_end` of its epochs.

    A process that has not reached it is stopped at the first line after `limit_seconds`.

    The lines of both streams are timed as they arrive, so the seconds include the start of Python,
    all imports, decoding, training and validation up to the line.
    """
    points: list[tuple[float, float]] = []
    lines: list[str] = []
    started = time.perf_counter()
    with _start(trainer, job) as process:
        assert process.stdout is not None
        for line in process.stdout:
            now = time.perf_counter() - started
            lines = [*lines[-_NUM_LAST_LINES:], line]
            if found := re.search(trainer.pattern, line):
                points.append((now, float(found.groups()[-1]) * trainer.accuracy_unit))
            has_reached = bool(points) and points[-1][1] >= job.images.accuracy
            if (has_reached and not to_the_end) or now > limit_seconds:
                os.killpg(process.pid, signal.SIGKILL)
                return Curve(tuple(points), now)
        code = process.wait()
    if code or not points:
        sys.exit(f"{trainer.name} failed with exit code {code}:\n{''.join(lines)}")
    return Curve(tuple(points), time.perf_counter() - started)


def _start(trainer: Trainer, job: Job) -> "subprocess.Popen[str]":
    values = {name: text.format(scratch=job.scratch) for name, text in trainer.environment.items()}
    return subprocess.Popen(
        trainer.make_command(trainer, job),
        cwd=job.scratch,
        env=make_peer_variables() | {"PYTHONUNBUFFERED": "1"} | values,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its data workers end with it
    )
