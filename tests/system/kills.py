"""A program that kills trainings at seeded random moments and resumes them until they finish.

    python -m tests.system.kills FOLDER DATA SEED NUM_KILLS

Each training has a sub-folder of FOLDER with its own store; `whole` is that of a training that is
not killed. The last line of standard output is a JSON object: for each training, what became of its
processes. Moments are exact writes and calls (`tests.system.kill_points`), or times.

A kill before the MLflow run exists leaves the empty folder of a run, and training is started again.
Later kills leave a run with the status RUNNING, which `resume` continues: the run folder is created
before the run, and a tag that the run is created with names it.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from tests.system.forked import fork_command, import_all
from tests.system.kill_points import GROUPS, Event, KillPoint, kill_at, observe

WHOLE = "whole"
SETTINGS = (
    "--model=shufflenet_v2_x0_5",
    "--epochs=4",
    "--batch-size=4",
    "--learning-rate=0.001",  # with 0.01 the running statistics lag: the model amplifies rounding
    "--checkpoint-minutes=0.005",
    "--register-as=colors",
    "--run-name=killed",
    "--device=cpu",
)
_TIMEOUT_SECONDS = 120.0
_NUM_EVENTS = 20  # of about two checkpoints


@dataclass(frozen=True, slots=True)
class Delay:
    """A moment some seconds after a line of the output starts with `sign`; "" is the start."""

    sign: str
    seconds: float


Moment = KillPoint | Delay


@dataclass(slots=True)
class Training:
    """One training in a folder with its own store, and the outcomes of its processes."""

    folder: Path
    data: str
    outcomes: list[str] = field(default_factory=list)
    num_started: int = 0  # trainings from the beginning

    @property
    def log(self) -> Path:
        """The output of all processes."""
        return self.folder / "log"

    def create_store(self, template: Path) -> None:
        """Copy an empty store; artifacts are stored beside it."""
        self.folder.mkdir()
        path = self.folder / "mlflow.db"
        shutil.copy(template, path)
        with closing(sqlite3.connect(path)) as database, database:
            location = str(self.folder / "artifacts")
            database.execute("UPDATE experiments SET artifact_location = ?", [location])

    def find_run(self) -> str | None:
        """Return the id of the only run, if it exists."""
        with closing(sqlite3.connect(self.folder / "mlflow.db")) as database:
            rows = database.execute("SELECT run_uuid FROM runs").fetchall()
        assert len(rows) <= 1
        return rows[0][0] if rows else None

    def start(self, moment: Moment | None) -> int:
        """Train, or resume the run if there is one, in a process of its own; return its id."""
        run_id = self.find_run()
        if run_id is None:
            self.num_started += 1
            arguments = ["train", f"--train-data={self.data}", *SETTINGS]
        else:
            is_odd = len(self.outcomes) % 2 and moment is not None
            arguments = ["resume", "--last" if is_odd else run_id]
        prepare = (
            (lambda: None)
            if not isinstance(moment, KillPoint)
            else partial(kill_at, moment, str(self.folder))
        )
        return fork_command(arguments, self.log, self.list_variables(), prepare)

    def list_variables(self) -> dict[str, str]:
        """Return the environment of the processes."""
        return {
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db",
            "TRIALRUN_CACHE": str(self.folder / "cache"),
            "PWD": str(self.folder),
        }

    def run(self, moment: Moment | None = None) -> int:
        """Start a process, kill it at `moment` and wait for it; return its exit code."""
        before = self.log.stat().st_size if self.log.exists() else 0
        pid = self.start(moment)
        if isinstance(moment, Delay):
            self._kill_later(pid, moment, before)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self.outcomes.append(f"{code} {moment}")
        return code

    def _kill_later(self, pid: int, moment: Delay, before: int) -> None:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while moment.sign not in self._read_log(before) and time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return
            time.sleep(0.002)
        time.sleep(moment.seconds)
        os.kill(pid, signal.SIGKILL)

    def _read_log(self, start: int) -> str:
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[start:].decode()


def draw_moments(random: np.random.Generator, counts: Counter[str]) -> list[Moment]:
    """Return moments of all phases in order; `counts` are the events of an unbroken training."""

    def draw(group: str, limit: int | None = None) -> KillPoint:
        return KillPoint(group, int(random.integers(1, (limit or counts[group]) + 1)))

    return [
        Delay("", float(random.uniform(0, 0.6))),
        draw("start", counts["before"]),
        draw("checkpoint", _NUM_EVENTS),
        Delay("Epoch ", float(random.uniform(0, 0.3))),
        draw("checkpoint", _NUM_EVENTS),
        draw("journal", _NUM_EVENTS),
        draw("upload"),
        draw("registration"),
        draw("end"),
    ]


def train_whole(training: Training) -> Counter[str]:
    """Train without a kill; return the number of events in each group and before checkpoints."""
    events = training.folder / "events"

    def write_events() -> None:
        stream = events.open("w", buffering=1)
        observe(lambda event: print(*event, file=stream), str(training.folder / ""))

    pid = fork_command(
        ["train", f"--train-data={training.data}", *SETTINGS],
        training.log,
        training.list_variables(),
        write_events,
    )
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == 0, training.log.read_text()
    listed: list[Event] = [
        (kind, name)
        for kind, _, name in (line.partition(" ") for line in events.read_text().splitlines())
    ]
    counts = Counter(g for event in listed for g, belongs in GROUPS.items() if belongs(event))
    counts["before"] = next(i for i, event in enumerate(listed) if GROUPS["checkpoint"](event))
    return counts


def kill_trainings(folder: Path, data: str, seed: int, num_kills: int) -> list[Training]:
    """Train without a kill, then with `num_kills` kills in all; return the killed trainings."""
    random = np.random.default_rng(seed)
    template = folder / "template.db"
    whole = Training(folder / WHOLE, data)
    whole.create_store(template)
    counts = train_whole(whole)
    trainings: list[Training] = []
    remaining = num_kills
    while remaining:
        training = Training(folder / str(len(trainings)), data)
        training.create_store(template)
        trainings.append(training)
        for moment in draw_moments(random, counts):
            code = training.run(moment)
            if code != -signal.SIGKILL:
                break
            remaining -= 1
            if not remaining:
                break
        else:
            code = training.run()
        while code == -signal.SIGKILL:
            code = training.run()
    return trainings


def main(folder: str, data: str, seed: str, num_kills: str) -> int:
    """Run the program; return its exit code."""
    import_all()
    trainings = kill_trainings(Path(folder), data, int(seed), int(num_kills))
    rows = [
        {"folder": str(item.folder), "outcomes": item.outcomes, "num_started": item.num_started}
        for item in trainings
    ]
    sys.stdout.write(json.dumps(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
