"""Runs on a full disk: real file systems of a few megabytes in memory."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from tests.processes import run_program
from tests.system.conftest import skip_unless_ci
from trialrun.engine.early_stopping import EpochStatus
from trialrun.errors import StorageError
from trialrun.runs.api import resume_training, run_training
from trialrun.runs.callbacks import NoOpCallback

Disk = Callable[[int], Path]
QUICK: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
}  # weights of 1.5 MB


def drop_progress(errors: str) -> list[str]:
    """Return the lines of standard error without the run's name and the table of epochs."""
    table = ("Run ", "Epoch ", " ")  # the heading begins with spaces
    return [line for line in errors.splitlines() if not line.startswith(table)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Return a function that mounts a small disk of a size in bytes."""
    made: list[Path] = []

    def make(size_bytes: int) -> Path:
        folder = tmp_path / f"disk{len(made)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
            skip_unless_ci("only root may mount a disk, and not everywhere")
        made.append(folder)
        return folder

    yield make
    for folder in made:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_model_that_does_not_fit_fails_the_run(
    store: str, colors: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the disk; run and model are FAILED, and no version is registered."""
    client = mlflow.MlflowClient(store)
    small = disk(1_000_000)
    experiment = client.create_experiment("small", artifact_location=str(small))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "small")
    with pytest.raises(StorageError, match="No space left") as raised:
        trialrun.train(train_data=str(colors), register_as="colors", **QUICK)
    assert "space" in raised.value.hint
    [run] = client.search_runs([experiment])
    [model] = client.search_logged_models([experiment])
    assert (run.info.status, str(model.status)) == ("FAILED", "FAILED")
    assert run.data.tags["error"].startswith("StorageError")
    assert client.search_model_versions("name = 'colors'") == []


def test_full_folder_for_temporary_files_is_reported(
    store: str, colors: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is written there first; the error names the folder, not MLflow."""
    small = disk(1_000_000)
    monkeypatch.setattr(tempfile, "tempdir", str(small))
    with pytest.raises(StorageError, match=f"{small}.*No space left"):
        trialrun.train(train_data=str(colors), **QUICK)
    assert [path.name for path in small.iterdir() if path.name.startswith("trialrun-")] == []


@pytest.mark.slow
def test_full_disk_under_the_database_is_reported_in_two_lines(
    store: str, colors: Path, disk: Disk
) -> None:
    """MLflow prints no traceback, and the exit code is 6."""
    source = Path(store.removeprefix("sqlite:///"))
    folder = disk(source.stat().st_size + 400_000)
    shutil.copy(source, folder)
    (folder / "filler").write_bytes(bytes(395_000))
    settings = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    ended = run_program(
        [sys.executable, "-m", "trialrun", "train", f"--train-data={colors}", *settings],
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"},
    )
    lines = [
        line for line in ended.stderr.splitlines() if not line.startswith(("Run ", "Epoch ", " "))
    ]
    assert ended.returncode == 6, ended.stderr
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    assert "disk is full" in lines[0]


def test_cache_that_does_not_fit_is_replaced_by_decoding_on_the_fly(
    store: str, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk for the cache costs speed, but the run finishes."""
    photos = write_classes(tmp_path / "photos", {"a": 40, "b": 40}, size=64)
    cache = disk(200_000)
    monkeypatch.setenv("TRIALRUN_CACHE", str(cache))
    result = trialrun.train(train_data=str(photos), **QUICK)
    assert result.status == "FINISHED"
    assert [path for path in cache.rglob("*.pack*") if path.is_file()] == []


def free_space(disk: Path) -> None:
    """Make a small disk larger."""
    subprocess.run(["mount", "-o", "remount,size=60m", str(disk)], check=True)


@pytest.mark.slow
def test_full_disk_under_the_checkpoints_leaves_the_last_good_one(
    store: str, colors: Path, disk: Disk
) -> None:
    """The exit code is 6, with two lines; after space is freed, the run ends bit-identically."""
    settings = {**QUICK, "epochs": 6, "patience": 6}
    whole = trialrun.train(train_data=str(colors), **settings)
    # Two checkpoints, but no third: 2.9 MB each, or 4.3 MB if the epoch is not the best so far.
    small = disk(7_600_000)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    flags.append(f"--checkpoint-dir={small}")
    command = [sys.executable, "-m", "trialrun", "train", f"--train-data={colors}", *flags]
    ended = run_program(command)
    assert ended.returncode == 6, ended.stderr
    lines = [
        line for line in ended.stderr.splitlines() if not line.startswith(("Run ", "Epoch ", " "))
    ]
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    assert "No space left" in lines[0]
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id], "status = 'FAILED'")
    free_space(small)
    result = resume_training(run.info.run_id, {})
    assert (result.status, result.weights_sha256) == ("FINISHED", whole.weights_sha256)
    steps = [v.step for v in client.get_metric_history(run.info.run_id, "valid_loss")]
    assert sorted(steps) == [1, 2, 3, 4, 5, 6]
    assert list(small.iterdir()) == []


class DiskFiller(NoOpCallback):
    """Fills a disk after the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.filler = folder / "filler"

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Write until there is no space left."""
        with suppress(OSError), self.filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(1000))


@pytest.mark.slow
def test_full_disk_under_the_journal_fails_the_run(store: str, colors: Path, disk: Disk) -> None:
    """The store has the status and the error all the same, and the run can be resumed."""
    folder = disk(30_000_000)
    settings = {**QUICK, "epochs": 3, "train_data": str(colors), "checkpoint_dir": str(folder)}
    filler = DiskFiller(folder)
    with pytest.raises(StorageError, match="No space left") as raised:
        run_training(settings, lambda: nullcontext(filler))
    assert raised.value.exit_code == 6
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert run.data.tags["error"].startswith("StorageError")
    filler.filler.unlink()
    result = resume_training(run.info.run_id, {})
    whole = trialrun.train(train_data=str(colors), **{**QUICK, "epochs": 3})
    assert result.weights_sha256 == whole.weights_sha256


@pytest.mark.slow
def test_read_only_folders_do_not_stop_training(
    store: str, colors: Path, disk: Disk, tmp_path: Path
) -> None:
    """Neither the working folder nor the home folder is writable; the store is elsewhere."""
    folder = disk(1_000_000)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    variables = {
        k: v for k, v in os.environ.items() if k not in ("XDG_STATE_HOME", "TRIALRUN_CACHE")
    }
    variables |= {"HOME": str(folder / "home"), "TMPDIR": str(tmp_path)}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items()]
    command = [sys.executable, "-m", "trialrun", "train", f"--train-data={colors}", *flags]
    for changes in ({}, {"HOME": None}):
        own = {k: v for k, v in (variables | changes).items() if v is not None}
        ended = run_program(command, cwd=folder, env=own)
        assert ended.returncode == 0, ended.stderr
    del variables["MLFLOW_TRACKING_URI"]
    ended = run_program(command, cwd=folder, env=variables)
    lines = [
        line for line in ended.stderr.splitlines() if not line.startswith(("Run ", "Epoch ", " "))
    ]
    assert ended.returncode in (5, 6), ended.stderr
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"], ended.stderr
