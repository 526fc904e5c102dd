"""A trainer's process and the seconds since its start at which each epoch's accuracy appeared."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from benchmarks.accuracy.trainers import Job, Trainer

_STOP_SECONDS = 10.0
_NUM_LAST_LINES = 20


@dataclass(frozen=True, slots=True)
class Curve:
    """The validation accuracies of a process, in order, and its seconds in total."""

    points: tuple[tuple[float, float], ...]  # seconds since the start of the process, accuracy
    seconds: float

    def find_seconds(self, accuracy: float) -> float | None:
        """Return the seconds at which `accuracy` was first reached, or None."""
        return next((at for at, found in self.points if found >= accuracy), None)


def measure_curve(trainer: Trainer, job: Job, *, to_the_end: bool = False) -> Curve:
    """Run the trainer; unless `to_the_end`, stop it when it has reached the set's accuracy.

    The lines of both streams are timed as they arrive, so the seconds include the start of Python,
    all imports, decoding, training and validation up to the line.
    """
    command = trainer.make_command(trainer, job)
    values = {name: text.format(scratch=job.scratch) for name, text in trainer.environment.items()}
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | values
    points: list[tuple[float, float]] = []
    lines: list[str] = []
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=job.scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # its data workers end with it
    )
    assert process.stdout is not None
    for line in process.stdout:
        now = time.perf_counter() - started
        lines = [*lines[-_NUM_LAST_LINES:], line]
        if found := re.search(trainer.pattern, line):
            points.append((now, float(found.groups()[-1]) * trainer.accuracy_unit))
            if points[-1][1] >= job.images.accuracy and not to_the_end:
                _stop(process)
                break
    code = process.wait()
    curve = Curve(tuple(points), time.perf_counter() - started)
    if curve.find_seconds(job.images.accuracy) is None and (code or not points):
        sys.exit(f"{trainer.name} failed with exit code {code}:\n{''.join(lines)}")
    return curve


def _stop(process: "subprocess.Popen[str]") -> None:
    """End the process and its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(_STOP_SECONDS)
