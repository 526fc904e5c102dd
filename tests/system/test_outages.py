"""Outages of a real tracking server during training: nothing is lost, nothing is there twice."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.conftest import write_classes
from tests.processes import run_program
from tests.servers import copy_empty_store
from tests.system.outage_server import Server, describe_run, run_server
from trialrun.cli import run_cli as command
from trialrun.engine.early_stopping import EpochStatus
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

pytestmark = [pytest.mark.slow, pytest.mark.report]
SETTINGS: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 6,
    "batch_size": 8,
    "patience": 6,
    "register_as": "colors",
    "precision": "fp32",
}
_AWAY_SECONDS = 20.0


@pytest.fixture(scope="module")
def server(initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the module; every test leaves it running."""
    folder = tmp_path_factory.mktemp("server")
    copy_empty_store(initialised_store, folder)
    with run_server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images of two classes."""
    return write_classes(tmp_path_factory.mktemp("images"), {"blue": 12, "red": 12})


@pytest.fixture(scope="module")
def undisturbed(server: Server, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a run stores whose server is never away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.uri)
        folder = tmp_path_factory.mktemp("runs")
        plan = plan_training({**SETTINGS, "train_data": str(images), "checkpoint_dir": str(folder)})
        return describe_run(train_run(plan).run_id)


@pytest.fixture(autouse=True)
def tracked(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the server the tracking store; start it again if the test has left it stopped."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    yield
    server.resume()
    if not server.is_running:
        server.start()


class Disturbance(NoOpCallback):
    """Calls functions after epochs, and keeps the notes and the times of the epochs."""

    def __init__(self, actions: dict[int, Callable[[], None]]) -> None:
        self._actions = actions
        self.notes: list[str] = []
        self.epoch_ends: list[float] = []

    def on_note(self, text: str) -> None:
        """Keep a note."""
        self.notes.append(text)

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Call the function of the epoch."""
        self.epoch_ends.append(time.monotonic())
        self._actions.get(status.result.epoch, lambda: None)()


def train(images: Path, folder: Path, callback: NoOpCallback, **settings: Any) -> TrainResult:
    """Train with run folders in `folder`."""
    plan = plan_training(
        {**SETTINGS, "train_data": str(images), "checkpoint_dir": str(folder), **settings}
    )
    return train_run(plan, callback)


def test_run_survives_an_outage_of_20_seconds(
    server: Server, images: Path, undisturbed: Any, tmp_path: Path
) -> None:
    """The run stores what it would have stored without the outage."""

    def start_again() -> None:
        time.sleep(_AWAY_SECONDS)
        server.start()

    callback = Disturbance({2: server.kill, 4: start_again})
    result = train(images, tmp_path, callback)
    assert result.model_version is not None
    assert callback.notes == []
    assert without_settings(describe_run(result.run_id)) == without_settings(undisturbed)


def without_settings(described: dict[str, Any]) -> dict[str, Any]:
    """Return a described run without the settings that tests choose."""
    own = ("checkpoint_dir", "flush_seconds", "offline")
    params = {name: text for name, text in described["params"].items() if name not in own}
    return {**described, "params": params}


def test_server_that_stays_away_costs_a_note_and_sync_sends_all(
    server: Server,
    images: Path,
    undisturbed: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Training ends with a result and no model; `sync` adds the rest once, and then nothing."""
    callback = Disturbance({1: server.kill})
    result = train(images, tmp_path, callback, flush_seconds=1)
    assert (result.status, result.model_uri, result.model_version) == ("FINISHED", None, None)
    assert "trialrun sync" in callback.notes[-1]
    assert command(["sync", "--checkpoint-dir", str(tmp_path)]) == 5
    server.start()
    assert command(["sync", "--checkpoint-dir", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert (row["run_id"], row["outcome"], row["num_unsent"]) == (result.run_id, "sent", 0)
    sent = describe_run(result.run_id)
    assert without_settings(sent) == without_settings(undisturbed)
    assert command(["sync", "--checkpoint-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == []
    assert describe_run(result.run_id) == sent
    assert list(tmp_path.iterdir()) == []


def test_training_does_not_wait_for_a_server_that_hangs(
    server: Server, images: Path, undisturbed: Any, tmp_path: Path
) -> None:
    """A suspended server accepts connections and never answers; epochs go on as before."""
    callback = Disturbance({1: server.suspend, 5: server.resume})
    result = train(images, tmp_path, callback)
    ends = callback.epoch_ends
    assert ends[4] - ends[0] < 10
    assert without_settings(describe_run(result.run_id)) == without_settings(undisturbed)


def test_offline_run_contacts_no_server(
    server: Server,
    images: Path,
    undisturbed: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`sync` creates the run with its experiment, name and start time."""
    server.kill()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "away")
    started = time.time()
    callback = Disturbance({})
    result = train(images, tmp_path, callback, offline=True, run_name="far")
    assert [item.name for item in tmp_path.iterdir()] == [result.run_id]
    assert "trialrun sync" in callback.notes[-1]
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    server.start()
    assert command(["sync", "--checkpoint-dir", str(tmp_path)]) == 0
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("away")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "far"
    assert started <= run.info.start_time / 1000 <= started + 60
    described = without_settings(describe_run(run.info.run_id))
    assert drop_name(described) == drop_name(without_settings(undisturbed))


def drop_name(described: dict[str, Any]) -> dict[str, Any]:
    """Return a described run without its name."""
    params = {name: text for name, text in described["params"].items() if name != "run_name"}
    return {**described, "params": params}


_KILLED = """
import os, signal, sys
from pathlib import Path
import mlflow
from trialrun.runs.training.outcome import model_upload
from trialrun.registry import models

def kill(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[1] == "upload":
    models._check_upload = kill
elif sys.argv[1] == "files":
    mlflow.MlflowClient.log_model_artifacts = kill
else:
    register = model_upload.register_once
    model_upload.register_once = lambda *a, **k: kill(register(*a, **k))

from trialrun.cli import run_cli
sys.exit(run_cli(sys.argv[2:]))
"""


@pytest.mark.parametrize("moment", ["files", "upload", "registration"])
def test_killed_upload_is_completed(
    server: Server,
    images: Path,
    tmp_path: Path,
    moment: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After SIGKILL at any moment, the replay leaves one READY model and one version."""
    settings = {**SETTINGS, "epochs": 1, "register_as": f"killed-{moment}"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    flags += [f"--train-data={images}", f"--checkpoint-dir={tmp_path}"]
    command_line = [sys.executable, "-c", _KILLED, moment, "train", *flags]
    ended = run_program(command_line, timeout=120)
    assert ended.returncode == -9, ended.stderr
    assert command(["sync", "--checkpoint-dir", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["runs"]
    assert "trialrun resume" in row["reason"]
    described = describe_run(row["run_id"])
    assert [model[0] for model in described["models"]] == ["READY"]
    assert [name for name, _ in described["versions"]] == [f"killed-{moment}"]
    assert described["outputs"] == 1


def test_missing_server_is_reported_within_30_seconds(
    server: Server, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 5, and the hint names `--offline`."""
    server.kill()
    started = time.monotonic()
    arguments = [f"--train-data={images}", f"--checkpoint-dir={tmp_path}"]
    assert command(["train", *arguments]) == 5
    assert time.monotonic() - started < 30
    assert "--offline" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
