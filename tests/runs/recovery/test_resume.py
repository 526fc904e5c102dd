"""`trialrun resume`: exact continuation, damaged checkpoints, and what it refuses."""

import json
import os
import shutil
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.conftest import make_network, write_classes, write_image
from tests.runs.recovery.interruptions import (
    SETTINGS,
    Interrupted,
    flip_byte,
    interrupt_training,
)
from trialrun.cli import run_cli as command
from trialrun.errors import (
    InvalidDatasetError,
    InvalidParameterError,
    StorageError,
)
from trialrun.runs.datasets.shard import shard_dataset
from trialrun.runs.training.outcome.result import TrainResult


@pytest.fixture(scope="module")
def whole(initialised_store: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The result of a training that is not interrupted, with the images of `colors`."""
    folder = tmp_path_factory.mktemp("whole")
    colors = write_classes(folder / "colors", {"blue": 12, "green": 12, "red": 12})
    shutil.copy(initialised_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)
        return trialrun.train(train_data=str(colors), **SETTINGS)


@pytest.fixture
def interrupted(store: str, colors: Path) -> Interrupted:
    """A run that a signal interrupted in its second epoch."""
    return interrupt_training(store, colors, register_as="colors")


def test_resumed_run_equals_an_unbroken_one(interrupted: Interrupted, whole: TrainResult) -> None:
    """The same weights to the bit, each metric once per step, one version, and no error left."""
    assert "error" in interrupted.read_run().data.tags
    result, notes = interrupted.resume()
    assert (result.run_id, result.status) == (interrupted.run_id, "FINISHED")
    assert result.weights_sha256 == whole.weights_sha256
    assert notes[0] == "resumed at epoch 2, step 2"
    histories = interrupted.list_histories()
    assert histories["valid_loss"] == [1, 2, 3]
    assert all(steps in ([0], [1, 2, 3]) for steps in histories.values()), histories
    tags = interrupted.read_run().data.tags
    assert (tags["stop_reason"], tags.get("error")) == ("completed", None)
    [version] = mlflow.MlflowClient(interrupted.store).search_model_versions()
    assert version.tags["weights_sha256"] == whole.weights_sha256
    assert not interrupted.folder.path.exists()


def test_damaged_checkpoint_is_passed_over(interrupted: Interrupted, whole: TrainResult) -> None:
    """One flipped byte: the older checkpoint is used, with a note."""
    older, newest = interrupted.checkpoints
    flip_byte(newest / "state.safetensors")
    result, notes = interrupted.resume()
    assert notes[:2] == [
        f"checkpoint {newest.name}: checksum mismatch: {newest / 'state.safetensors'}: the one "
        "before it is used",
        "resumed at epoch 2, step 1",
    ]
    assert result.weights_sha256 == whole.weights_sha256
    assert older.name == str(int(newest.name) - 1)


def test_only_damaged_checkpoints_are_an_error(interrupted: Interrupted) -> None:
    """Training does not start over silently, and the checkpoints remain."""
    for path in interrupted.checkpoints:
        flip_byte(path / "state.safetensors")
    with pytest.raises(StorageError, match="no intact checkpoint is left"):
        interrupted.resume()
    assert len(interrupted.checkpoints) == 2


def test_repeated_best_epoch_keeps_its_first_values(store: str, colors: Path) -> None:
    """The last epoch was logged before the checkpoint of its end: its values are not logged twice.

    The same holds for the values that are linked to the model.
    """
    interrupted = interrupt_training(
        store, colors, epoch=2, epochs=2, checkpoint_minutes=9.0, patience=5, learning_rate=0.001
    )
    older, newest = interrupted.checkpoints
    shutil.rmtree(newest)
    result, notes = interrupted.resume()
    assert notes == ["resumed at epoch 2, step 1"]
    assert result.best_epoch == 2
    histories = interrupted.list_histories()
    assert all(steps in ([0], [1, 2]) for steps in histories.values()), histories
    assert older.name == "1"


def test_changed_image_is_refused(interrupted: Interrupted, colors: Path) -> None:
    """The error says which set has changed, and the run stays as it is."""
    write_image(colors / "blue" / "000.png", (1, 2, 3), seed=5)
    with pytest.raises(InvalidDatasetError, match="images have changed since") as raised:
        interrupted.resume()
    assert raised.value.exit_code == 3
    assert interrupted.read_run().info.status == "KILLED"


def test_changed_shards_are_refused(store: str, colors: Path, tmp_path: Path) -> None:
    """Shards that were written again, with one other image, are other data."""
    shards = tmp_path / "shards"
    shard_dataset(str(colors), str(shards))
    interrupted = interrupt_training(store, shards)
    write_image(colors / "blue" / "000.png", (1, 2, 3), seed=5)
    shutil.rmtree(shards)
    shard_dataset(str(colors), str(shards))
    with pytest.raises(InvalidDatasetError, match="images have changed since"):
        interrupted.resume()
    assert interrupted.read_run().info.status == "KILLED"


def test_moved_data_is_accepted(
    interrupted: Interrupted, whole: TrainResult, colors: Path, tmp_path: Path
) -> None:
    """Images are compared by name and content, not by place."""
    colors.rename(tmp_path / "moved")
    with pytest.raises(trialrun.errors.DataError) as raised:
        interrupted.resume()
    assert "--train-data" in raised.value.hint
    result, _ = interrupted.resume(train_data=str(tmp_path / "moved"))
    assert result.weights_sha256 == whole.weights_sha256


def test_changed_settings_are_refused(interrupted: Interrupted) -> None:
    """The error names the setting and both values."""
    path = interrupted.folder.path / "settings.json"
    values = json.loads(path.read_text())
    values["settings"]["learning_rate"] = "0.5"
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidParameterError, match=r"learning_rate=0\.5 \(was 0\.05\)") as raised:
        interrupted.resume()
    assert raised.value.exit_code == 2


def test_replaced_weights_are_refused(store: str, colors: Path, tmp_path: Path) -> None:
    """The file of initial weights is part of the run."""
    import safetensors.torch

    path = tmp_path / "start.safetensors"

    safetensors.torch.save_file(make_network(seed=1).state_dict(), path)
    interrupted = interrupt_training(store, colors, weights=str(path))
    safetensors.torch.save_file(make_network(seed=2).state_dict(), path)
    with pytest.raises(InvalidParameterError, match="files have changed") as raised:
        interrupted.resume()
    assert raised.value.exit_code == 2


def test_run_in_progress_is_refused(interrupted: Interrupted) -> None:
    """The error names the process, and the run is left alone."""
    with (
        interrupted.folder.lock(),
        pytest.raises(StorageError, match=f"process {os.getpid()} .* still working") as raised,
    ):
        interrupted.resume()
    assert raised.value.exit_code == 6
    assert interrupted.read_run().info.status == "KILLED"


def test_trial_of_a_search_is_continued_by_the_search(interrupted: Interrupted) -> None:
    """The hint names the command."""
    client = mlflow.MlflowClient(interrupted.store)
    client.set_tag(interrupted.run_id, "study", "first")
    with pytest.raises(InvalidParameterError, match="belongs to the search first") as raised:
        interrupted.resume()
    assert "trialrun search --study first" in raised.value.hint


def test_finished_run_returns_its_result(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is trained; the command prints the run's result and exits with 0."""
    trained = trialrun.train(train_data=str(colors), register_as="colors", **SETTINGS)
    assert command(["resume", trained.run_id, "--json"]) == 0
    out, error = capsys.readouterr()
    assert "has finished: there is nothing to resume" in error
    assert json.loads(out.splitlines()[-1]) == trained.to_json()


def test_folder_of_a_run_that_was_killed_at_its_end_is_deleted(
    store: str, interrupted: Interrupted, tmp_path: Path
) -> None:
    """The store has the status FINISHED, and the process did not delete the folder any more."""
    copy = tmp_path / "copy"
    shutil.copytree(interrupted.folder.path, copy)
    interrupted.resume()
    shutil.copytree(copy, interrupted.folder.path)
    shutil.rmtree(interrupted.folder.journal)
    root = interrupted.folder.path.parent
    (root / f".{interrupted.folder.path.name}.trash-0" / "journal").mkdir(parents=True)
    result, notes = interrupted.resume()
    assert result.status == "FINISHED"
    assert notes == [f"run {interrupted.run_id} has finished: there is nothing to resume"]
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["resume"], 2, "no run is given"),
        (["resume", "0123", "--last"], 2, "both given"),
        (["resume", "0123456789abcdef0123456789abcdef"], 5, "not found"),
        (["resume", "--last"], 5, "no interrupted training run"),
    ],
)
def test_wrong_arguments(
    store: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """Each is an error of two lines."""
    assert command(arguments) == code
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["Error", "Hint"]
    assert words in lines[0]


@pytest.mark.slow
def test_last_is_the_newest_interrupted_run(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished runs are passed over."""
    interrupted = interrupt_training(store, colors)
    trialrun.train(train_data=str(colors), **{**SETTINGS, "epochs": 1})
    assert command(["resume", "--last", "--json"]) == 0
    values = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (values["run_id"], values["status"]) == (interrupted.run_id, "FINISHED")
