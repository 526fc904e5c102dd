"""Reproducing and comparing runs."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch

import trialrun
from tests.conftest import make_network, write_classes
from tests.processes import run_program
from tests.tuning.conftest import settings
from trialrun.engine.early_stopping import EpochStatus
from trialrun.errors import (
    InvalidDatasetError,
    InvalidModelDirectoryError,
    InvalidParameterError,
    RunInterruptedError,
    TrackingError,
)
from trialrun.mlflow_client import connect_client
from trialrun.registry.versions import read_artifact_text
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.inspection.compare import compare_runs
from trialrun.runs.inspection.reproduce import reproduce_run
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run

TINY: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


@pytest.mark.slow
def test_a_trial_of_a_search_is_reproduced(store: str, colors: Path) -> None:
    """The search's seed splits the data, the trial's own seed draws the weights."""
    search = trialrun.search(**settings(colors, trials=1, random_seed=5))
    repetition = reproduce_run(search.best_run_id)
    assert (repetition.verdict, repetition.data_changes) == ("identical", ())


@pytest.mark.slow
def test_runs_that_disagree_on_a_label_have_no_paired_comparison(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """Two runs have the same images, but one label was corrected in between."""
    corrected = tmp_path / "corrected"
    shutil.copytree(colors, corrected)
    shutil.move(corrected / "red" / "000.png", corrected / "blue" / "red.png")
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(valid), **TINY).run_id
        for valid in (colors, corrected)
    ]
    comparison = compare_runs(runs)
    assert comparison.paired == ()
    assert comparison.metrics


@pytest.mark.slow
def test_runs_with_the_same_images_have_a_paired_comparison(store: str, colors: Path) -> None:
    """Images are matched by content and label, in any order and under any name."""
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(colors), random_seed=seed, **TINY)
        for seed in (1, 2)
    ]
    comparison = compare_runs([run.run_id for run in runs])
    assert {pair.comparison.num_images for pair in comparison.paired} == {36}


def test_a_run_is_reproduced_from_another_folder(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the run's folder, even if they exist in the current one."""
    monkeypatch.chdir(tmp_path)
    trained = trialrun.train(train_data=colors.name, **TINY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copytree(colors / "red", tmp_path / "elsewhere" / colors.name / "red")
    assert trialrun.reproduce(trained.run_id).verdict == "identical"


def test_a_run_is_reproduced_by_its_model_version(store: str, colors: Path) -> None:
    """A version's URI identifies the run that trained it."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    assert trialrun.reproduce("models:/colors/1").verdict == "identical"


def test_moved_data_is_reproduced(store: str, colors: Path, tmp_path: Path) -> None:
    """An equal copy elsewhere is unchanged, in a folder or in an archive."""
    run = trialrun.train(train_data=str(colors), valid_data=str(colors), **TINY)
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", colors)
    moved = tmp_path / "moved"
    shutil.move(colors, moved)
    with pytest.raises(InvalidDatasetError) as raised:
        trialrun.reproduce(run.run_id)
    assert "--train-data" in raised.value.hint
    repetition = trialrun.reproduce(run.run_id, train_data=moved, valid_data=archive)
    assert (repetition.verdict, repetition.data_changes) == ("identical", ())


def test_other_data_is_refused_as_changed(store: str, colors: Path, tmp_path: Path) -> None:
    """Given data is compared with the run's manifest."""
    run = trialrun.train(train_data=str(colors), **TINY)
    other = tmp_path / "other"
    shutil.copytree(colors, other)
    shutil.copy(other / "red" / "000.png", other / "red" / "001.png")
    with pytest.raises(InvalidDatasetError, match=r"1 changed \(red/001.png\)"):
        trialrun.reproduce(run.run_id, train_data=other)


def test_changed_transforms_are_refused_before_training(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """Another list is named as the cause; another format of the same list is unchanged."""
    path = tmp_path / "transforms.json"
    path.write_text('[["Resize", 32]]')
    run = trialrun.train(train_data=str(colors), transforms=str(path), **TINY)
    path.write_text('[ ["Resize", {"size": 32}] ]\n')
    assert trialrun.reproduce(run.run_id).verdict == "identical"
    path.write_text('[["Resize", 48]]')
    with pytest.raises(InvalidParameterError, match="contains other transforms"):
        trialrun.reproduce(run.run_id)


@pytest.mark.slow
def test_split_folders_and_class_order_are_reproduced(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record says how the root was read; another order of the classes is refused."""
    for seed, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / "set" / part, {"cat": 8, "dog": 8}, seed=5000 * seed)
    monkeypatch.chdir(tmp_path)
    Path("classes.txt").write_text("dog\ncat\n")
    run = trialrun.train(train_data="set", classes="classes.txt", class_sampling="balanced", **TINY)
    assert run.model_uri is not None
    params = mlflow.MlflowClient(store).get_run(run.run_id).data.params
    assert params["resolved_data_layout"] == "splits (train=train; valid=val; not used: test)"
    assert list(trialrun.load_model(run.model_uri).classes) == ["dog", "cat"]
    evaluation = trialrun.evaluate(run.model_uri, "set/val", classes="classes.txt")
    [pair] = trialrun.compare(run.run_id, evaluation.run_id, group_pattern="(..)/").paired[:1]
    assert pair.comparison.difference == 0
    monkeypatch.chdir("/")
    assert trialrun.reproduce(run.run_id).verdict == "identical"
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(InvalidDatasetError, match="lists other classes or another order"):
        trialrun.reproduce(run.run_id)


def record_another_device(run_id: str) -> None:
    """Change the record of a run to that of a training on a GPU in fp16."""
    client = connect_client()
    settings = read_artifact_text(client, run_id, "config.yaml")
    environment = read_artifact_text(client, run_id, "environment.json")
    assert settings is not None
    assert environment is not None
    settings = settings.replace('precision: "fp32"', 'precision: "fp16"')
    settings = settings.replace('device: "auto"', 'device: "cuda:99"')
    client.log_text(run_id, settings, "config.yaml")
    values = {**json.loads(environment), "device": "GPU of another machine"}
    client.log_text(run_id, json.dumps(values), "environment.json")


@pytest.mark.slow
def test_run_on_another_device_is_reproduced_within_the_tolerance(store: str, colors: Path) -> None:
    """The device is a setting; notes name it and the precision that replaces an unavailable one."""
    run = trialrun.train(train_data=str(colors), **TINY)
    record_another_device(run.run_id)
    connect_client().set_tag(run.run_id, "weights_sha256", "of a GPU")
    with pytest.raises(InvalidParameterError, match="cuda:99 is not on this machine") as raised:
        trialrun.reproduce(run.run_id)
    assert "--device auto" in raised.value.hint
    change_param(store, "resolved_device", "cuda:99")
    repetition = trialrun.reproduce(run.run_id, device="cpu")
    assert repetition.verdict == "within tolerance"
    device, precision = repetition.notes
    assert "GPU of another machine, the repetition on cpu" in device
    assert precision.startswith("precision is fp32, not fp16")
    assert repetition.differences["precision"] == ("fp16", "fp32")


def test_run_stopped_in_its_first_epoch_is_not_compared(store: str, colors: Path) -> None:
    """A run without an epoch has no result: that is an error, and nothing is trained."""
    with pytest.raises(trialrun.errors.TrialrunError, match="NaN"):
        trialrun.train(train_data=str(colors), **TINY, learning_rate=1e30)
    client = connect_client()
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    with pytest.raises(TrackingError, match="has not completed an epoch"):
        trialrun.reproduce(run.info.run_id)
    assert len(client.search_runs([experiment.experiment_id])) == 1


@pytest.mark.parametrize("truncates", ["true", "false"])
def test_setting_longer_than_a_parameter_is_reproduced(
    store: str, colors: Path, truncates: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parameter is cut to MLflow's 6,000 characters, config.yaml has the whole path."""
    monkeypatch.setenv("MLFLOW_TRUNCATE_LONG_VALUES", truncates)
    path = "/" * 7000 + str(colors)
    run = trialrun.train(train_data=path, **TINY)
    params = connect_client().get_run(run.run_id).data.params
    assert params["train_data"] == path[:6000]
    assert trialrun.reproduce(run.run_id).verdict == "identical"


def test_cut_parameter_of_an_earlier_version_is_an_error(store: str, colors: Path) -> None:
    """Without config.yaml, a cut path is named instead of being opened."""
    run = trialrun.train(train_data="/" * 7000 + str(colors), **TINY)
    delete_settings_file(run.run_id)
    with pytest.raises(TrackingError, match="only the first 6000 characters of train_data"):
        trialrun.reproduce(run.run_id)


def delete_settings_file(run_id: str) -> None:
    """Delete the artifact that earlier versions do not record."""
    uri = str(connect_client().get_run(run_id).info.artifact_uri)
    Path(uri.removeprefix("file://"), "config.yaml").unlink()


def test_run_of_an_earlier_version_is_reproduced_by_its_parameters(
    store: str, colors: Path
) -> None:
    """The settings come from the parameters if the run has no config.yaml."""
    run = trialrun.train(train_data=str(colors), **TINY)
    delete_settings_file(run.run_id)
    assert trialrun.reproduce(run.run_id).verdict == "identical"


@pytest.mark.slow
def test_long_class_name_is_reproduced(store: str, colors: Path, tmp_path: Path) -> None:
    """A label of 7,000 characters from a metadata table."""
    data = tmp_path / "listed"
    shutil.copytree(colors, data / "images")
    rows = [
        (f"images/{path.parent.name}/{path.name}", "x" * 7000 if path.parent.name == "red" else "y")
        for path in sorted(colors.glob("*/*.png"))
    ]
    table = "".join(f"{name},{label}\n" for name, label in rows)
    (data / "metadata.csv").write_text("file_name,label\n" + table)
    run = trialrun.train(train_data=str(data), **TINY)
    assert trialrun.reproduce(run.run_id).verdict == "identical"


@pytest.mark.slow
def test_settings_that_differ_after_the_cut_are_compared(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """`compare` reads the whole texts."""
    copy = tmp_path / "copy"
    shutil.copytree(colors, copy)
    paths = ["/" * 7000 + str(folder) for folder in (colors, copy)]
    runs = [trialrun.train(train_data=path, **TINY).run_id for path in paths]
    (row,) = compare_runs(runs).parameters
    assert (row.name, row.values) == ("train_data", tuple(paths))


@pytest.mark.slow
def test_other_result_has_exit_code_8(store: str, colors: Path) -> None:
    """The command prints the result as the last line and then the error on standard error."""
    run = trialrun.train(train_data=str(colors), **TINY)
    settings = read_artifact_text(connect_client(), run.run_id, "config.yaml")
    assert settings is not None
    changed = settings.replace("learning_rate: 0.001", "learning_rate: 0.5")
    connect_client().log_text(run.run_id, changed, "config.yaml")
    command = [sys.executable, "-m", "trialrun", "reproduce", run.run_id, "--json"]
    done = run_program(command)
    assert done.returncode == 8, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["verdict"], result["since_epoch"]) == ("different", 1)
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(f"Error: NotReproducedError: run {result['run_id']}")
    assert hint.startswith("Hint: Known differences: ")


class InterruptingCallback(NoOpCallback):
    """Receives SIGINT after an epoch."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch

    def on_epoch_end(self, status: EpochStatus, epochs: int) -> None:
        """Raise what a signal raises."""
        if status.result.epoch == self._epoch:
            raise RunInterruptedError("SIGINT")


@pytest.mark.slow
def test_interrupted_run_is_compared_by_its_epochs(store: str, colors: Path) -> None:
    """The repetition trains to the end; a note says that only common epochs are compared."""
    plan = plan_training({**TINY, "epochs": 3, "train_data": str(colors)})
    with pytest.raises(RunInterruptedError):
        train_run(plan, InterruptingCallback(2))
    (run,) = mlflow.search_runs(experiment_names=["tests"], output_format="list")
    assert run.info.status == "KILLED"
    assert "best_valid_loss" in run.data.tags
    assert "best_valid_loss" not in run.data.metrics  # the resumed run logs the final one
    repetition = trialrun.reproduce(run.info.run_id)
    assert "the original was interrupted" in repetition.notes[0]
    assert {item.num_epochs for item in repetition.history.deviations} == {2}
    assert repetition.history.verdict == "identical"


def change_param(store: str, name: str, value: str | None) -> None:
    """Change or delete a parameter of all runs in the database."""
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as connection, connection:
        if value is None:
            connection.execute("DELETE FROM params WHERE key=?", (name,))
        else:
            connection.execute("UPDATE params SET value=? WHERE key=?", (value, name))


@pytest.mark.slow
def test_other_random_weights_are_noted_and_not_refused(store: str, colors: Path) -> None:
    """The user cannot restore what another version of torch draws."""
    run = trialrun.train(train_data=str(colors), **TINY)
    change_param(store, "initial_weights_sha256", "0" * 64)
    (note,) = trialrun.reproduce(run.run_id).notes
    assert "draws other random weights" in note


def test_changed_weights_of_an_earlier_version_are_refused(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """Without a digest of the file, the digest of the initial weights reveals the change."""
    path = tmp_path / "weights.pt"
    torch.save(make_network(seed=1).state_dict(), path)
    run = trialrun.train(train_data=str(colors), weights=str(path), **TINY)
    change_param(store, "weights_file_sha256", None)
    torch.save(make_network(seed=2).state_dict(), path)
    with pytest.raises(InvalidModelDirectoryError, match=f"{path} contains other weights"):
        trialrun.reproduce(run.run_id)


def test_weights_of_another_network_are_refused_as_changed(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """A file that no longer fits the network is named as changed, too."""
    path = tmp_path / "weights.pt"
    torch.save(make_network(seed=1).state_dict(), path)
    run = trialrun.train(train_data=str(colors), weights=str(path), **TINY)
    torch.save(make_network("squeezenet1_1").state_dict(), path)
    with pytest.raises(InvalidModelDirectoryError, match=f"{path} has changed since the original"):
        trialrun.reproduce(run.run_id)
