"""A stop signal ends runs as KILLED within ten seconds and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import psutil
import pytest
from mlflow.entities import Run

from tests.conftest import SMALL, write_classes
from tests.processes import ForkedProgram
from tests.system.test_distributed import find_free_port
from trialrun.launchers import is_alive

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = ("--epochs=100000", "--patience=100000", "--batch-size=4", f"--model={SMALL}")
LIMIT_SECONDS = 10

pytestmark = pytest.mark.slow


@contextmanager
def start(command: list[str], folder: Path, sign: str = "Epoch 2/") -> "Iterator[Started]":
    """Start a program in its own session; wait until a line of its errors starts with `sign`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with watch(process, sign) as started:
        yield started


@contextmanager
def start_forked(command: list[str], folder: Path, sign: str = "Epoch 2/") -> "Iterator[Started]":
    """Start a program as `start` does, without the time of its imports."""
    with watch(ForkedProgram(command, cwd=folder, stderr=subprocess.PIPE), sign) as started:
        yield started


@contextmanager
def watch(process: "subprocess.Popen[str] | ForkedProgram", sign: str) -> "Iterator[Started]":
    """Wait until a line of the program's errors starts with `sign`; kill what is left."""
    started = Started(process)
    try:
        started.wait_for(sign)
        yield started
    finally:
        started.kill()


class Started:
    """A program that trains, and the processes below it."""

    def __init__(self, process: "subprocess.Popen[str] | ForkedProgram") -> None:
        self.process = process
        self.family: list[psutil.Process] = []

    def wait_for(self, sign: str) -> None:
        """Read lines until one starts with `sign`; note the processes below the program."""
        assert self.process.stderr is not None
        lines = []
        while not (line := self.process.stderr.readline()).startswith(sign):
            lines.append(line)
            assert self.process.poll() is None, "".join(lines)
        self.note_family()

    def note_family(self) -> None:
        """Note the processes below the program."""
        top = psutil.Process(self.process.pid)
        self.family = [top, *top.children(recursive=True)]

    def list_workers(self) -> list[psutil.Process]:
        """Return the processes below the program, without the git process that MLflow keeps."""
        return [process for process in self.family[1:] if process.name() != "git"]

    def find(self, *words: str) -> psutil.Process:
        """Return the running process whose command line has these words."""
        alive = filter(is_alive, self.family)
        return next(p for p in alive if set(words) <= set(p.cmdline()))

    def wait_for_end(self) -> str:
        """Check that all processes end in time; return what they printed to standard error."""
        deadline = time.monotonic() + LIMIT_SECONDS
        alive = self.family
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            self.process.poll()
            alive = [process for process in alive if is_alive(process)]
        assert alive == []
        return self.process.communicate(timeout=LIMIT_SECONDS)[1]

    def kill(self) -> None:
        """Kill what is left of them after a failed test."""
        for process in self.family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.kill()
        self.process.communicate()


def list_runs(store: str) -> list[Run]:
    """Return the runs of the tests' experiment."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    runs: list[Run] = client.search_runs([experiment.experiment_id])
    return runs


def read_statuses(store: str) -> set[str]:
    """Return the statuses of all runs."""
    return {run.info.status for run in list_runs(store)}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of two classes."""
    return write_classes(tmp_path / "data", {"a": 12, "b": 12})


def build_train(data: Path, *flags: str) -> list[str]:
    """Return the command line of a training that does not end by itself."""
    return [sys.executable, "-m", "trialrun", "train", f"--train-data={data}", *ENDLESS, *flags]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training(store: str, data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The exit code is 75."""
    with start_forked(build_train(data), tmp_path) as started:
        started.process.send_signal(number)
        errors = started.wait_for_end()
        assert started.process.returncode == 75, errors
    assert f"stopped by {number.name}" in errors
    assert read_statuses(store) == {"KILLED"}


def test_second_signal(store: str, data: Path, tmp_path: Path) -> None:
    """The second signal ends a training whose first one waits for a step of many seconds."""
    photos = write_classes(tmp_path / "photos", {"a": 600, "b": 600}, size=8)
    command = build_train(photos, "--batch-size=900", "--image-size=128", "--weights=none")
    with start_forked(command, tmp_path, sign="Run ") as started:
        time.sleep(4)  # within the first step
        started.process.send_signal(signal.SIGTERM)
        time.sleep(0.6)
        begin = time.monotonic()
        started.process.send_signal(signal.SIGTERM)
        started.wait_for_end()
        assert started.process.returncode == 75
        assert time.monotonic() - begin < 2


def write_project(folder: Path, data: Path, *, has_shell: bool) -> Path:
    """Write an MLproject that trains; with a shell that stays alive, as in an environment."""
    command = " ".join(build_train(data))
    if has_shell:
        command = f"true && {command}; true"
    folder.mkdir()
    text = f"name: project\nentry_points:\n  main:\n    command: {command!r}\n"
    (folder / "MLproject").write_text(text)
    return folder


# MLflow does not handle SIGTERM: both signals have the same effect.
@pytest.mark.parametrize(
    ("number", "has_shell"),
    [
        pytest.param(signal.SIGTERM, True, id="SIGTERM-shell"),
        pytest.param(signal.SIGKILL, False, id="SIGKILL-direct"),
    ],
)
def test_mlflow_run_alone(
    store: str, data: Path, tmp_path: Path, number: signal.Signals, has_shell: bool
) -> None:
    """Only the process `mlflow run` receives the signal: its child notices that it is gone."""
    project = write_project(tmp_path / "project", data, has_shell=has_shell)
    command = [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager=local"]
    with start(command, tmp_path) as started:
        assert len(started.family) == (3 if has_shell else 2)
        started.process.send_signal(number)
        errors = started.wait_for_end()
    assert "stopped by SIGTERM" in errors
    assert read_statuses(store) == {"KILLED"}


def test_interrupted_mlflow_run(store: str, data: Path, tmp_path: Path) -> None:
    """Ctrl-C: the terminal sends SIGINT to all, and MLflow SIGTERM to the shell below it."""
    project = write_project(tmp_path / "project", data, has_shell=True)
    command = [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager=local"]
    with start(command, tmp_path) as started:
        os.killpg(started.process.pid, signal.SIGINT)
        errors = started.wait_for_end()
    assert "stopped by SIGINT" in errors
    deadline = time.monotonic() + 20
    while read_statuses(store) != {"KILLED"} and time.monotonic() < deadline:
        time.sleep(0.2)  # MLflow has set FAILED, which a process of its own corrects
    assert read_statuses(store) == {"KILLED"}


def test_search_below_mlflow_run(store: str, data: Path, tmp_path: Path) -> None:
    """A search with workers stops with `mlflow run`, and its workers with it."""
    project = write_project(tmp_path / "project", data, has_shell=True)
    file = project / "MLproject"
    text = file.read_text().replace(" train ", " search ")
    file.write_text(text.replace("--batch-size=4", "--batch-size=4,8 --workers=2 --trials=4"))
    command = [sys.executable, "-m", "mlflow", "run", str(project), "--env-manager=local"]
    with start(command, tmp_path, sign="Run ") as started:
        wait_for_trials(store, started)
        started.process.kill()
        started.wait_for_end()
    assert read_statuses(store) == {"KILLED"}


def test_process_outlives_other_parents(store: str, data: Path, tmp_path: Path) -> None:
    """A run below `nohup mlflow run . &` goes on when its shell ends."""
    project = write_project(tmp_path / "project", data, has_shell=False)
    mlflow_run = f"{sys.executable} -m mlflow run {project} --env-manager=local"
    script = f"nohup {mlflow_run} & sleep 1000; true"
    with start(["bash", "-c", script], tmp_path) as started:
        started.process.kill()
        time.sleep(2)
        assert is_alive(started.find("trialrun", "train"))
        assert read_statuses(store) == {"RUNNING"}


def stop_torchrun(started: Started) -> None:
    """Send SIGTERM to torchrun alone."""
    started.process.send_signal(signal.SIGTERM)


def interrupt_group(started: Started) -> None:
    """Send SIGINT to the process group, as Ctrl-C does."""
    os.killpg(started.process.pid, signal.SIGINT)


def kill_torchrun(started: Started) -> None:
    """Send SIGKILL to torchrun alone."""
    started.process.kill()


def stop_last_rank(started: Started) -> None:
    """Send SIGTERM to rank 1 alone, which does not end the MLflow run."""
    for process in started.family[1:]:
        if process.environ().get("RANK") == "1":
            process.send_signal(signal.SIGTERM)


def stop_all(started: Started) -> None:
    """Send SIGTERM to torchrun and to its ranks, as a scheduler does."""
    for process in started.family:
        process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    "stop",
    [
        stop_torchrun,
        interrupt_group,
        kill_torchrun,
        stop_last_rank,
        stop_all,
    ],
    ids=["SIGTERM", "Ctrl-C", "SIGKILL", "one rank", "all"],
)
def test_torchrun(store: str, data: Path, tmp_path: Path, stop: Callable[[Started], None]) -> None:
    """All ranks stop after the same step, whichever process received the signal."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, f"--master-port={find_free_port()}", *build_train(data)[1:]]
    with start(command, tmp_path) as started:
        assert len(started.list_workers()) == 2
        stop(started)
        errors = started.wait_for_end()
        assert started.process.returncode not in (0, None)
    assert "Error: Interrupted: stopped by SIG" in errors
    assert "exitcode  : 1 " not in errors
    assert read_statuses(store) == {"KILLED"}


def build_search(data: Path) -> list[str]:
    """Return the command line of a search with two workers that does not end by itself."""
    command = build_train(data, "--workers=2", "--trials=4", "--study=stopped")
    return [{"train": "search", "--batch-size=4": "--batch-size=4,8"}.get(w, w) for w in command]


def wait_for_trials(store: str, started: Started) -> None:
    """Wait until two trials train."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        trials = [run for run in list_runs(store) if "trial" in run.data.tags]
        if sum("valid_loss" in run.data.metrics for run in trials) == 2:
            started.note_family()
            return
        time.sleep(0.2)
    raise AssertionError("the trials did not start")


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_search(store: str, data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """The workers end with the search; after SIGKILL its own run stays RUNNING."""
    with start_forked(build_search(data), tmp_path, sign="Run ") as started:
        wait_for_trials(store, started)
        assert len(started.list_workers()) == 2
        started.process.send_signal(number)
        started.wait_for_end()
        code = started.process.returncode
    assert code == (75 if number == signal.SIGTERM else -number)
    trials = [run.info.status for run in list_runs(store) if "trial" in run.data.tags]
    assert trials == ["KILLED", "KILLED"]
    assert read_statuses(store) == ({"KILLED"} if code == 75 else {"KILLED", "RUNNING"})


def test_second_signal_to_a_search(store: str, data: Path, tmp_path: Path) -> None:
    """The second signal kills the workers too."""
    with start_forked(build_search(data), tmp_path, sign="Run ") as started:
        wait_for_trials(store, started)
        for process in started.list_workers():
            process.suspend()  # the search waits for them
        started.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        begin = time.monotonic()
        started.process.send_signal(signal.SIGTERM)
        started.wait_for_end()
        assert started.process.returncode == 75
        assert time.monotonic() - begin < 2
