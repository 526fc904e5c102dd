"""Cost of checkpoints and of the journal, of a start without a server, and of a resumption.

    python -m benchmarks.recovery [--windows 100] [--photos 512] [--skip-commands]

- Checkpoints and journal: ResNet-18 with the default settings, on the sample digits and on photos
  at 224 pixels. On a shared machine, equal epochs differ by more than the cost. So the cost is
  measured in windows of some seconds: every second one begins with what the end of an epoch costs,
  a checkpoint and the epoch's records. The cost is the median difference between such a window
  and the mean of its neighbours; the share is of an epoch's training steps. `waited` is the time
  that training itself spent, `thread` the processor time of the writing thread per core.
- Start: the time from the start of `trialrun train` until its first epoch has ended, with a server,
  and with `--offline` while no server answers.
- Resumption: a run of ten epochs is stopped by SIGTERM in the middle of an epoch and resumed: the
  seconds from the signal to the end of the process, and from the start of `resume` until it
  continues with the next step. No step is repeated. For comparison, a process that only imports
  torch, torchvision and mlflow. The weights must have the bits of an unbroken run.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.concurrency import run_server
from benchmarks.photos import write_photos
from benchmarks.table import format_table, make_heading

ROUNDS = 3
WINDOW_SECONDS = 2.0  # long enough for a checkpoint to be on the disk
DIGITS = "sample:digits"
SMALL = ["--model", "shufflenet_v2_x0_5", "--epochs", "1"]


@dataclass(frozen=True, slots=True)
class EpochCost:
    """Seconds of an epoch, and those that checkpoint and journal add; the direct costs of both."""

    epoch: float
    extra: float
    waited: float
    thread: float

    @property
    def share(self) -> float:
        """The cost as a share of an epoch."""
        return self.extra / self.epoch


@dataclass(slots=True)
class Windows:
    """Divides training into windows of `num_steps` steps; calls `record` at every second one."""

    num_steps: int
    record: Callable[[], None]
    seconds: list[float] = field(default_factory=list)  # the even ones without records
    _num_done: int = 0
    _started: float = field(default_factory=time.perf_counter)

    def count_step(self) -> None:
        """End the window after its last step."""
        self._num_done += 1
        if self._num_done == self.num_steps:
            self.seconds.append(time.perf_counter() - self._started)
            self.restart()

    def restart(self) -> None:
        """Begin a window."""
        self._num_done, self._started = 0, time.perf_counter()
        if len(self.seconds) % 2:
            self.record()

    def compute_extra(self) -> float:
        """Return the median seconds that a window with records took more than its neighbours."""
        triples = zip(self.seconds[2::2], self.seconds[3::2], self.seconds[4::2], strict=False)
        return statistics.median(now - (before + after) / 2 for before, now, after in triples)


def measure_epochs(data: str, num_windows: int, folder: Path) -> EpochCost:
    """Train `num_windows` windows, half of them with a checkpoint and records."""
    from trialrun.checkpoint.run_folder import create_run_folder
    from trialrun.distributed import SINGLE_PROCESS
    from trialrun.engine.early_stopping import EarlyStopping
    from trialrun.engine.fit import fit
    from trialrun.engine.steps import count_steps_per_epoch
    from trialrun.mlflow_client import connect_client
    from trialrun.runs.callbacks import NoOpCallback
    from trialrun.runs.training.inputs.data import prepare_data
    from trialrun.runs.training.logging import log_epoch
    from trialrun.runs.training.plan import plan_training
    from trialrun.runs.training.resumption.checkpoints import RunCheckpoints
    from trialrun.runs.training.resumption.identity import describe_identity
    from trialrun.runs.training.resumption.progress import RunProgress
    from trialrun.runs.training.session import resolve_rank_compute, start_session
    from trialrun.tracking import JournalOptions, open_run

    plan = plan_training({"train_data": data, "weights": None, "epochs": 1000, "patience": 1000})
    compute = resolve_rank_compute(plan)
    prepared = prepare_data(plan, NoOpCallback())
    session = start_session(plan, prepared, compute, SINGLE_PROCESS)
    run_folder = create_run_folder(folder, {})
    options = JournalOptions(folder=run_folder)
    with open_run(connect_client(), experiment=None, name=None, tags={}, journal=options) as run:
        identity = describe_identity(plan, prepared, compute)
        progress = RunProgress(EarlyStopping(plan.config))
        checkpoints = RunCheckpoints(run_folder, session, progress, identity, minutes=5)
        writer = checkpoints.writer
        assert writer is not None
        fitting = fit(session.state, plan.config, on_step=lambda: windows.count_step())
        windows = Windows(10**9, lambda: None)
        status = progress.stopping.update(next(fitting), 0.0)  # this epoch warms up

        def record() -> None:
            # The best weights are not a part: at the end of the best epoch they are the network's.
            log_epoch(run, status)
            checkpoints.save(in_epoch=True)

        step_seconds = status.result.epoch_seconds / count_steps_per_epoch(
            plan.config, len(prepared.train.dataset), 1
        )
        windows = Windows(max(4, round(WINDOW_SECONDS / step_seconds)), record)
        while len(windows.seconds) < num_windows:
            windows.restart()  # the validation before it is not in a window
            next(fitting)
        writer.wait()
        checkpoints.release()
    num_cores = len(os.sched_getaffinity(0))
    num_steps = count_steps_per_epoch(plan.config, len(prepared.train.dataset), 1)
    return EpochCost(
        epoch=num_steps * statistics.median(windows.seconds[::2]) / windows.num_steps,
        extra=windows.compute_extra(),
        waited=writer.waited_seconds / writer.num_written,
        thread=writer.processor_seconds / writer.num_written / num_cores,
    )


def measure_child(data: str, num_windows: int) -> EpochCost:
    """Call `measure_epochs` in a process of its own, with a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        command = [sys.executable, "-m", "benchmarks.recovery", "--child", data]
        command += ["--windows", str(num_windows), "--folder", folder]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return EpochCost(**json.loads(output.stdout.splitlines()[-1]))


def start_training(folder: Path, uri: str, arguments: list[str]) -> "subprocess.Popen[str]":
    """Start `trialrun train` or another command in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "trialrun", *arguments],
        cwd=folder,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_lines(process: "subprocess.Popen[str]") -> Iterator[tuple[float, str]]:
    """Yield the lines on standard error with the time at which each came."""
    assert process.stderr is not None
    for line in process.stderr:
        yield time.perf_counter(), line


def measure_start(folder: Path, uri: str, *flags: str) -> float:
    """Return the seconds from the start of a process until its first epoch has ended."""
    started = time.perf_counter()
    process = start_training(folder, uri, ["train", *SMALL, *flags])
    first = next(moment for moment, line in read_lines(process) if line.startswith("Epoch 1"))
    process.communicate()
    return first - started


def run_to_end(folder: Path, uri: str, arguments: list[str]) -> tuple[float, dict[str, Any]]:
    """Run a command; return its seconds and its JSON object."""
    started = time.perf_counter()
    output, _ = start_training(folder, uri, [*arguments, "--json"]).communicate()
    return time.perf_counter() - started, json.loads(output.splitlines()[-1])


@dataclass(frozen=True, slots=True)
class Resumption:
    """Seconds of a stop, of the start of `resume` and of bare imports; and equality of the bits."""

    stop: float
    start: float
    imports: float
    has_equal_bits: bool


def measure_resumption(folder: Path) -> Resumption:
    """Stop a run of ten epochs in the middle of one, and resume it."""
    uri = f"sqlite:///{folder}/mlflow.db"
    settings = ["train", "--model", "shufflenet_v2_x0_5", "--epochs", "10", "--patience", "10"]
    _, unbroken = run_to_end(folder, uri, settings)
    process = start_training(folder, uri, settings)
    for _, line in read_lines(process):
        if line.startswith("Epoch 5"):
            time.sleep(unbroken["metrics"]["epoch_seconds"] / 2)
            break
    stopped = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    stop = time.perf_counter() - stopped
    started = time.perf_counter()
    process = start_training(folder, uri, ["resume", "--last", "--json"])
    resumed = next(moment for moment, line in read_lines(process) if "resumed at" in line)
    output, _ = process.communicate()
    weights = json.loads(output.splitlines()[-1])["weights_sha256"]
    return Resumption(
        stop, resumed - started, measure_imports(), weights == unbroken["weights_sha256"]
    )


def measure_imports(num_rounds: int = ROUNDS) -> float:
    """Return the median seconds of a process that imports the large packages."""
    seconds = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch, torchvision, mlflow"], check=True)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--photos", type=int, default=512)
    parser.add_argument("--skip-commands", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        cost = measure_epochs(options.child, options.windows, options.folder)
        fields = ("epoch", "extra", "waited", "thread")
        sys.stdout.write(json.dumps({name: getattr(cost, name) for name in fields}) + "\n")
        return 0
    sys.stdout.write(make_heading("Checkpoints, journal and resumption") + "\n")
    print_epoch_costs(options.windows, options.photos)
    if not options.skip_commands:
        print_commands()
    return 0


def print_epoch_costs(num_windows: int, num_photos: int) -> None:
    """Print the cost of checkpoints and journal as a share of an epoch."""
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder), num_photos, seed=1)
        costs = {
            "digits, 32 pixels": measure_child(DIGITS, num_windows),
            f"{num_photos} photos, 224 pixels": measure_child(str(photos), num_windows),
        }
    rows = [
        [name, cost.epoch, cost.extra, f"{cost.share:.2%}", cost.waited, cost.thread]
        for name, cost in costs.items()
    ]
    columns = ("data", "epoch, s", "cost, s", "share", "waited, s", "thread, s per core")
    sys.stdout.write(format_table(columns, rows) + "\n")


def print_commands() -> None:
    """Print the times of starts and of a resumption."""
    starts: dict[str, list[float]] = {"server": [], "offline": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            (place := Path(folder, f"server-{len(starts['server'])}")).mkdir()
            with run_server(place) as uri:
                starts["server"].append(measure_start(place, uri))
            starts["offline"].append(measure_start(place, uri, "--offline"))
        rows = [[name, statistics.median(values)] for name, values in starts.items()]
        sys.stdout.write(format_table(("store", "to the end of the first epoch, s"), rows) + "\n")
        found = measure_resumption(Path(folder))
    columns = ("signal to end, s", "resume to next step, s", "bare imports, s", "same bits")
    row = [found.stop, found.start, found.imports, str(found.has_equal_bits)]
    sys.stdout.write(format_table(columns, [row]))


if __name__ == "__main__":
    sys.exit(main())
