"""`trialrun resume` below torchrun: all ranks continue together, bit-identically."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from tests.conftest import SMALL, write_classes
from tests.processes import ForkedProgram
from tests.system.test_distributed import find_free_port, run_in_ranks, start_in_ranks
from trialrun.checkpoint.run_folder import RunFolder, list_run_folders
from trialrun.cli import run_cli

TRAINING = (
    f"--model={SMALL}",
    "--epochs=2",
    "--batch-size=4",
    "--class-sampling=balanced",
    "--mixup=0.2",  # draws from the generators of each rank
    "--checkpoint-minutes=1e-6",
    "--register-as=ranks",
)

pytestmark = pytest.mark.slow


@contextmanager
def start_ranks(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    """Start trialrun on two ranks with torchrun; kill what is left at the end."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*torchrun, f"--master-port={find_free_port()}", "-m", "trialrun", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_ranks(process)


def kill_ranks(process: "subprocess.Popen[str]") -> None:
    """Kill torchrun and its ranks, which are in sessions of their own."""
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for rank in family:
        with suppress(psutil.NoSuchProcess):
            rank.kill()
    process.communicate()


@contextmanager
def start_without_torchrun(*arguments: str) -> Iterator[list[ForkedProgram]]:
    """Start trialrun on two ranks; kill what is left at the end."""
    ranks = start_in_ranks(2, "-m", "trialrun", *arguments)
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def train_in_ranks(*arguments: str) -> dict[str, Any]:
    """Run a command on two ranks to its end, without torchrun; return its result."""
    outputs = run_in_ranks(2, "-m", "trialrun", *arguments, "--json")
    result: dict[str, Any] = json.loads(outputs[0])
    return result


def find_folder(store: str) -> RunFolder | None:
    """Return the folder of the only run that has not finished."""
    root = Path(store.removeprefix("sqlite:///")).parent / "trialrun-runs"
    return next(iter(list_run_folders(root)), None)


def read_newest_values(store: str) -> dict[str, Any]:
    """Return the values of the newest checkpoint; empty without one."""
    folder = find_folder(store)
    paths = [] if folder is None else list(folder.checkpoints.glob("[0-9]*/values.json"))
    try:
        newest = max(paths, key=lambda path: int(path.parent.name))
        values: dict[str, Any] = json.loads(newest.read_text())
    except (OSError, ValueError):  # none, or deleted meanwhile
        return {}
    return values


def wait_until(
    condition: Callable[[], bool], process: "subprocess.Popen[str] | ForkedProgram"
) -> None:
    """Wait for a state of the run."""
    deadline = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def whole(initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a training on two ranks that is not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_classes(folder / "colors", {"blue": 12, "green": 12, "red": 12})
    shutil.copy(initialised_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        result = train_in_ranks("train", f"--train-data={data}", *TRAINING)
    return str(result["weights_sha256"])


def test_interrupted_ranks_continue_together(
    store: str, colors: Path, whole: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """After SIGTERM in an epoch: the weights of an unbroken run; one process alone is refused."""

    def is_in_second_epoch() -> bool:
        state = read_newest_values(store).get("state", {})
        return bool(state.get("epoch") == 1 and 0 < state["step"] < 3)

    with start_ranks("train", f"--train-data={colors}", *TRAINING) as process:
        wait_until(is_in_second_epoch, process)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    folder = find_folder(store)
    assert folder is not None
    run_id = str(folder.run_id)
    client = mlflow.MlflowClient(store)
    assert client.get_run(run_id).info.status == "KILLED"
    assert read_newest_values(store)["state"]["step"] > 0
    assert run_cli(["resume", run_id]) == 2
    assert "the run was trained with 2 ranks, not 1" in capsys.readouterr().err
    result = train_in_ranks("resume", run_id)
    assert (result["run_id"], result["weights_sha256"]) == (run_id, whole)
    assert len(client.get_metric_history(run_id, "valid_loss")) == 2
    (version,) = client.search_model_versions("name = 'ranks'")
    assert version.tags["weights_sha256"] == whole
    assert find_folder(store) is None


def test_one_process_ends_a_run_whose_training_has_ended(
    store: str, colors: Path, whole: str
) -> None:
    """Only the upload and the registration remain: they need no ranks."""

    def has_ended() -> bool:
        progress = read_newest_values(store).get("progress", {})
        return bool(progress) and progress["stopping"]["stop_reason"] == "completed"

    with start_without_torchrun("train", f"--train-data={colors}", *TRAINING) as ranks:
        wait_until(has_ended, ranks[0])
        for rank in ranks:
            rank.kill()
    folder = find_folder(store)
    assert folder is not None
    run_id = str(folder.run_id)
    client = mlflow.MlflowClient(store)
    assert client.get_run(run_id).info.status == "RUNNING"
    assert run_cli(["resume", run_id]) == 0
    run = client.get_run(run_id)
    assert (run.info.status, run.data.tags["weights_sha256"]) == ("FINISHED", whole)
    (version,) = client.search_model_versions("name = 'ranks'")
    assert (version.run_id, version.tags["weights_sha256"]) == (run_id, whole)


def test_refusal_of_rank_0_ends_the_other_ranks(store: str, colors: Path) -> None:
    """One error is printed; rank 1 ends with rank 0, and creates no folder."""
    with start_without_torchrun("train", f"--train-data={colors}", *TRAINING) as ranks:
        wait_until(lambda: bool(read_newest_values(store)), ranks[0])
        for rank in ranks:
            rank.send_signal(signal.SIGTERM)
        for rank in ranks:
            rank.communicate(timeout=30)
    folder = find_folder(store)
    assert folder is not None
    for file in folder.checkpoints.glob("*/state.safetensors"):
        file.write_bytes(b"damaged")
    with start_ranks("resume", str(folder.run_id)) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    printed = [line for line in errors.splitlines() if line.startswith("Error: ")]
    assert len(printed) == 1
    assert "no intact checkpoint is left" in printed[0]
    assert len(list_run_folders(folder.path.parent)) == 1
