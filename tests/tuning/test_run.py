"""Complete searches on real stores: records, resumption, workers and the choice of the best."""

import json
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes, write_weights
from tests.processes import ForkedProgram
from tests.tuning.conftest import SMALL, make_queue, nested_runs, settings
from trialrun import mlflow_client
from trialrun.cli import run_cli
from trialrun.config import METRIC_DIRECTIONS
from trialrun.errors import InvalidParameterError
from trialrun.runs.callbacks import DECODING
from trialrun.runs.datasets import downloads
from trialrun.tuning.callbacks import NoOpSearchCallback
from trialrun.tuning.plan import plan_search
from trialrun.tuning.reporting.seed_replicates import compute_mean_interval
from trialrun.tuning.result import SearchResult


class CountingCallback(NoOpSearchCallback):
    """Counts the decoded images."""

    num_decoded = 0
    what = ""

    def on_scan_start(self, what: str, num_images: int) -> None:
        """Remember whether images are decoded or only read."""
        self.what = what

    def on_scan_progress(self, num_images: int) -> None:
        """Count decoded images."""
        self.num_decoded += num_images * (self.what == DECODING)


def test_a_combination_that_cannot_be_trained_is_not_trained(store: str, colors: Path) -> None:
    """A warm-up longer than the run: a reason in the table, no run, and the search continues."""
    grid = {"learning_rate": 0.01, "warmup_steps": "0,1000", "sampler": "grid", "trials": 2}
    result = trialrun.search(**settings(colors, **grid))
    (run,) = nested_runs(store, result.run_id)
    assert run.info.status == "FINISHED"
    table = mlflow.artifacts.load_text(f"runs:/{result.run_id}/trials.csv")
    assert "warmup_steps=1000 is not shorter than the run" in table
    assert result.best_params["warmup_steps"] == 0


@pytest.mark.slow
def test_only_the_best_trial_is_registered(store: str, colors: Path) -> None:
    """The parent run names the best trial and has plots; the only version has its weights."""
    import mlflow

    result = trialrun.search(**settings(colors, trials=3, register_as="best"))
    client = mlflow.MlflowClient(store)
    runs = nested_runs(store, result.run_id)
    losses = [min(_history(client, run, "valid_loss")) for run in runs]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert result.best_trial == losses.index(min(losses))
    assert result.best_run_id == runs[result.best_trial].info.run_id
    (version,) = client.search_model_versions("name = 'best'")
    assert version.run_id == result.best_run_id
    assert version.tags["weights_sha256"] == result.weights_sha256
    assert "trialrun score models:/best/1 IMAGES" in str(version.description)
    assert runs[result.best_trial].data.tags["weights_sha256"] == result.weights_sha256
    parent = client.get_run(result.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["best_trial"] == str(result.best_trial)
    assert parent.data.params["learning_rate"] == "0.001:0.1"
    names = {item.path for item in client.list_artifacts(result.run_id)}
    assert names >= {"trials.csv", "best.json", "plots"}
    plots = {item.path for item in client.list_artifacts(result.run_id, "plots")}
    assert {"plots/history.png", "plots/slice.png"} <= plots


def _history(client: Any, run: Any, name: str) -> list[float]:
    return [metric.value for metric in client.get_metric_history(run.info.run_id, name)]


@pytest.mark.slow
@pytest.mark.parametrize("are_published_here", [True, False])
def test_trials_start_from_the_same_weights(
    store: str,
    tmp_path: Path,
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    are_published_here: bool,
) -> None:
    """`weights=auto`: all trials record the same file, or random weights after one try."""
    attempts = []

    def refuse(host: str, *_args: object, **_kwargs: object) -> None:
        attempts.append(host)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    photos = write_classes(tmp_path / "photos", {"cat": 8, "dog": 8}, size=100)
    if are_published_here:
        write_weights(hub, SMALL["model"])
    result = trialrun.search(**settings(photos, trials=2, pruner="none", batch_size=4))
    params = [run.data.params for run in nested_runs(store, result.run_id)]
    names, files = (
        [values.get(name) for values in params]
        for name in ("resolved_weights", "weights_file_sha256")
    )
    assert names == ["default" if are_published_here else "random"] * 2
    assert len(set(files)) == 1
    assert len(attempts) == (0 if are_published_here else 1)


@pytest.mark.slow
def test_trials_have_their_own_settings_and_seeds(store: str, colors: Path) -> None:
    """Seeds differ between trials, and are equal for equal numbers in two studies."""
    first = trialrun.search(**settings(colors, trials=2, pruner="none", study="one"))
    again = trialrun.search(**settings(colors, trials=2, pruner="none", study="two"))
    runs, others = nested_runs(store, first.run_id), nested_runs(store, again.run_id)
    seeds = [run.data.params["random_seed"] for run in runs]
    assert len(set(seeds)) == 2
    assert seeds == [run.data.params["random_seed"] for run in others]
    assert len({run.data.params["learning_rate"] for run in runs}) == 2
    best = runs[first.best_trial].data.params
    assert float(best["learning_rate"]) == first.best_params["learning_rate"]
    assert first.weights_sha256 == again.weights_sha256


@pytest.mark.slow
def test_a_search_below_mlflow_run_uses_its_run(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that `mlflow run` opened is the parent run; the trials have nested runs."""
    import mlflow

    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    project_run_id = client.create_run(experiment.experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", project_run_id)
    result = trialrun.search(**settings(colors, trials=1))
    assert result.run_id == project_run_id
    assert [run.info.run_id for run in nested_runs(store, project_run_id)] == [result.best_run_id]
    assert result.best_run_id != project_run_id


@pytest.mark.slow
def test_images_are_decoded_once_for_all_trials(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four trials decode 36 images once."""
    from trialrun.tuning.run import execute_search

    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    callback = CountingCallback()
    execute_search(plan_search(settings(colors, trials=4)), callback)
    assert callback.num_decoded == 36


@pytest.mark.slow
def test_a_study_is_resumed_in_the_same_run(store: str, colors: Path) -> None:
    """A second call adds a trial below the same parent run; a third adds none."""
    first = trialrun.search(**settings(colors, trials=1, study="long", register_as="long"))
    second = trialrun.search(**settings(colors, trials=2, study="long", register_as="long"))
    assert second.run_id == first.run_id
    assert second.num_trials["complete"] == 2
    third = trialrun.search(**settings(colors, trials=2, study="long", register_as="long"))
    assert third.num_trials["complete"] == 2
    assert third.model_version == second.model_version


def test_a_study_is_not_resumed_with_other_settings(store: str, colors: Path) -> None:
    """Trials with another number of epochs would not be comparable."""
    make_queue(store, colors, study="taken")
    with pytest.raises(InvalidParameterError, match="epochs=1"):
        make_queue(store, colors, study="taken", epochs=2)


@pytest.mark.slow
def test_a_hopeless_trial_is_pruned(store: str, colors: Path, tmp_path: Path) -> None:
    """A trial far worse than the median ends after an epoch as FINISHED, without a model."""
    enqueued_params = [
        {"learning_rate": rate} for rate in (0.001, 0.0011, 0.0012, 0.0013, 0.0014, 0.1)
    ]
    file = tmp_path / "enqueued.json"
    file.write_text(json.dumps(enqueued_params))
    raw_settings = settings(colors, trials=6, epochs=2, batch_size=4, enqueue=str(file))
    result = trialrun.search(**raw_settings)
    last = nested_runs(store, result.run_id)[-1]
    assert (result.num_trials["complete"], result.num_trials["pruned"]) == (5, 1)
    assert last.info.status == "FINISHED"
    assert last.data.tags["stop_reason"] == "pruned"
    assert last.data.tags["stopped_epoch"] == "1"
    assert last.info.run_id != result.best_run_id


@pytest.mark.slow
def test_an_interrupted_search_can_be_resumed(store: str, colors: Path) -> None:
    """SIGINT ends the runs as KILLED with exit code 75; the next call completes the study."""
    import mlflow

    raw_settings = settings(colors, epochs=4, trials=3, study="cut", pruner="none", patience=9)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in raw_settings.items()]
    process = ForkedProgram([sys.executable, "-m", "trialrun", "search", *flags])
    client = mlflow.MlflowClient(store)
    _wait_for_trial(client)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 75
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    statuses = {run.info.status for run in client.search_runs([experiment.experiment_id])}
    assert "RUNNING" not in statuses
    assert "KILLED" in statuses
    result = trialrun.search(**raw_settings)
    runs = nested_runs(store, result.run_id)
    assert sum(run.info.status == "FINISHED" for run in runs) == 3
    assert client.get_run(result.run_id).info.status == "FINISHED"


def _wait_for_trial(client: Any) -> None:
    (experiment,) = client.search_experiments(filter_string="name = 'tests'")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        runs = client.search_runs([experiment.experiment_id], "tags.trial = '0'")
        if runs and client.get_metric_history(runs[0].info.run_id, "valid_loss"):
            return
        time.sleep(0.1)
    raise AssertionError("no trial started")


@pytest.fixture(scope="module")
def searched_by_workers(
    initialised_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SearchResult, list[Any]]:
    """The result of a search with two workers on images in the artifact store, and its trials.

    The images are deleted from the store before the workers start.
    """
    folder = tmp_path_factory.mktemp("workers")
    shutil.copy(initialised_store, folder / "mlflow.db")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(store)
    run = client.create_run(client.create_experiment("tests", str(folder / "artifacts")))
    images = write_classes(folder / "colors", {"blue": 12, "green": 12, "red": 12})
    client.log_artifacts(run.info.run_id, str(images), "set")

    def download(uri: str, folder: Path) -> Path:
        path = mlflow_client.download_artifact(uri, folder)
        shutil.rmtree(Path(run.info.artifact_uri) / "set")
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
        patch.setattr(downloads, "download_artifact", download)
        raw_settings = settings(Path("unused"), trials=4, workers=2)
        result = trialrun.search(**raw_settings | {"train_data": f"runs:/{run.info.run_id}/set"})
        return result, nested_runs(store, result.run_id)


@pytest.mark.slow
def test_worker_processes_share_a_study(
    searched_by_workers: tuple[SearchResult, list[Any]],
) -> None:
    """Two workers train exactly the requested number of trials, all different."""
    result, runs = searched_by_workers
    assert result.num_trials["complete"] + result.num_trials["pruned"] == 4
    assert len({run.data.params["learning_rate"] for run in runs}) == 4
    assert len({run.data.params["random_seed"] for run in runs}) == 4


@pytest.mark.slow
def test_workers_share_downloaded_images(
    searched_by_workers: tuple[SearchResult, list[Any]],
) -> None:
    """Images in the artifact store are downloaded once, not by each worker."""
    result, runs = searched_by_workers
    assert result.num_trials["complete"] + result.num_trials["pruned"] == 4
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


def test_no_trial_starts_after_the_timeout(store: str, colors: Path) -> None:
    """The search is finalized with the trials that started before it."""
    result = trialrun.search(**settings(colors, trials=1000, timeout=4.0))
    assert 1 <= sum(result.num_trials.values()) < 1000
    assert result.search_stop_reason == "time_budget"
    assert result.status == "FINISHED"


@pytest.mark.slow
def test_several_metrics_give_a_pareto_front(store: str, colors: Path) -> None:
    """The result lists the Pareto front, and the parent run has its plot."""
    import mlflow

    metric = "valid_accuracy,train_images_per_second"
    result = trialrun.search(**settings(colors, trials=2, metric=metric))
    assert result.best_trial in result.pareto_trials
    plots = mlflow.MlflowClient(store).list_artifacts(result.run_id, "plots")
    assert "plots/pareto_front.png" in {item.path for item in plots}


@pytest.mark.slow
def test_replicates_give_a_noise_floor(store: str, colors: Path) -> None:
    """The two best settings are trained twice more, with the same two seeds."""
    import mlflow

    result = trialrun.search(
        **settings(colors, trials=2, pruner="none", replicates=2, register_as="sure")
    )
    assert result.noise_floor is not None
    runs = [run for run in nested_runs(store, result.run_id) if "replicate" in run.data.tags]
    assert len(runs) == 4
    seeds = {(run.data.tags["replicate"], run.data.params["random_seed"]) for run in runs}
    assert len(seeds) == 2
    client = mlflow.MlflowClient(store)
    tags = client.get_run(result.run_id).data.tags
    assert tags["noise_floor.is_beyond_noise"] in ("true", "false")
    assert int(tags["noise_floor.chosen"]) == result.best_trial
    (version,) = client.search_model_versions("name = 'sure'")
    assert version.tags["weights_sha256"] == result.weights_sha256


def test_the_confidence_interval_is_students() -> None:
    """Differences 1, 2, 3: mean 2, half width 4.303 / sqrt(3) (t with 2 degrees, 95 %)."""
    low, high = compute_mean_interval([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4)
    assert high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)


def test_the_metrics_are_those_of_the_engine(store: str, colors: Path) -> None:
    """The metrics that a search accepts are those that an epoch logs."""
    result = trialrun.train(train_data=str(colors), epochs=1, **{**SMALL, "batch_size": 8})
    assert set(METRIC_DIRECTIONS) == {*result.metrics, "valid_top5_accuracy"}


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (["--learning-rate", "1e-1:1e-4"], 2),
        (["--no-such-setting", "1"], 2),
        (["--storage", "mongodb://host/db"], 2),
        (["--replicates", "1"], 2),
        (["--sampler", "grid", "--learning-rate", "1e-3:1e-2"], 2),
        (["--from-study", "missing"], 2),
        (["--storage", "sqlite:////no/such/folder/x.db"], 5),
        (["--storage", "postgresql://127.0.0.1:1/none"], 5),
    ],
)
def test_errors_are_reported_in_two_lines(
    flags: list[str],
    code: int,
    store: str,
    colors: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """For a reversed range, an unknown setting, a missing storage and others."""
    assert run_cli(["search", "--train-data", str(colors), *flags]) == code
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("Error: ")
    assert hint.startswith("Hint: ")
