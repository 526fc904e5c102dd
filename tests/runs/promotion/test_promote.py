"""From the command line to the champion: promotion, refusal, rollback, history, reproduction.

Three versions on a part of the digits, trained once for the module: 1 and 3 for one epoch, 2 for
ten. Every test works on a copy of their store.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trialrun
from trialrun.cache.location import cache_folder
from trialrun.cli import run_cli as command
from trialrun.errors import PromotionRefusedError
from trialrun.images.formats.sample import write_sample
from trialrun.runs.evaluation.predictions import load_predictions

TRAIN_IMAGES, TEST_IMAGES = 24, 15  # of each digit


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks: a second thread would wait more than it computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some of the digits, in `train` and `test`."""
    source = write_sample("sample:digits", cache_folder())
    folder = tmp_path_factory.mktemp("digits")
    for label in map(str, range(10)):
        files = sorted((source / label).glob("*.png"))
        for name, chosen in (
            ("train", files[:TRAIN_IMAGES]),
            ("test", files[TRAIN_IMAGES : TRAIN_IMAGES + TEST_IMAGES]),
        ):
            (folder / name / label).mkdir(parents=True)
            for file in chosen:
                shutil.copy(file, folder / name / label)
    return folder


@pytest.fixture(scope="module")
def trained(
    digits: Path,
    initialised_store: Path,
    one_thread: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, list[Any]]]:
    """A store with the three versions, and the results of their runs."""
    import mlflow

    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(initialised_store, folder / "mlflow.db")
    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")}
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.environ.pop("MLFLOW_RUN_ID", None)
    mlflow.MlflowClient().create_experiment("tests", artifact_location=str(folder / "artifacts"))
    results = [
        trialrun.train(
            model="shufflenet_v2_x0_5",
            train_data=str(digits / "train"),
            epochs=epochs,
            batch_size=16,
            learning_rate=0.02,
            random_seed=seed,
            patience=10,
            precision="fp32",
            register_as="digits",
            experiment="tests",
        )
        for seed, epochs in ((1, 1), (2, 10), (3, 1))
    ]
    yield folder / "mlflow.db", results
    for name, text in before.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


@pytest.fixture
def registry(
    trained: tuple[Path, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A client of a copy of that store."""
    import mlflow

    shutil.copy(trained[0], tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient(uri)


class Commands:
    """Runs command lines in this process and reads the JSON they print."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.errors = ""

    def __call__(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The JSON object of a command that ends with `code`."""
        self._capsys.readouterr()
        found = command([*arguments, "--json"])
        out, self.errors = self._capsys.readouterr()
        assert found == code, self.errors
        lines = out.splitlines()
        values = json.loads(lines[-1]) if lines else {}
        assert isinstance(values, dict)
        return values


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Commands:
    """The command line."""
    return Commands(capsys)


def promote(cli: Commands, digits: Path, version: int, *options: str, code: int = 0) -> Any:
    """`trialrun promote digits --version N --data TEST`."""
    data = str(digits / "test")
    arguments = ("promote", "digits", "--version", str(version), "--data", data, *options)
    return cli(*arguments, code=code)


def champion(client: Any) -> str:
    """The version that plain MLflow finds at models:/digits@champion."""
    return str(client.get_model_version_by_alias("digits", "champion").version)


def test_the_story_of_a_champion(registry: Any, digits: Path, cli: Commands) -> None:
    """Version 1 by --min, 2 promoted, 3 refused with the alias unmoved, rollback, history."""
    promote(cli, digits, 1, "--min", "accuracy=0.05")
    assert champion(registry) == "1"

    second = promote(cli, digits, 2, "--require", "better")
    assert (champion(registry), second["champion"]) == ("2", "1")
    assert second["comparison"]["low"] > 0

    third = promote(cli, digits, 3, code=5)
    assert champion(registry) == "2"
    assert not third["promoted"]
    assert "REFUSED  accuracy not-worse" in cli.errors
    assert "Error: PromotionRefusedError: digits version 3" in cli.errors

    back = cli("rollback", "digits", "--reason", "for the test")
    assert (back["version"], champion(registry)) == ("1", "1")

    told = cli("history", "digits")
    periods = [(each["version"], each["kind"]) for each in told["periods"]]
    assert periods == [("1", "promotion"), ("2", "promotion"), ("1", "rollback")]
    assert told["periods"][0]["until"] == told["periods"][1]["since"]
    assert told["periods"][2]["until"] is None
    assert told["periods"][1]["figures"]["accuracy"] == pytest.approx(
        second["metrics"]["accuracy"], abs=1e-6
    )


def test_the_evaluation_is_linked(registry: Any, digits: Path, cli: Commands) -> None:
    """The promotion's run knows both models, the data, and the answers it judged by."""
    promote(cli, digits, 1, "--min", "accuracy=0.05")
    done = promote(cli, digits, 2)
    run = registry.get_run(done["run_id"])
    versions = [registry.get_model_version("digits", number) for number in ("2", "1")]
    assert {model.model_id for model in run.inputs.model_inputs} == {
        version.source.removeprefix("models:/") for version in versions
    }
    assert run.inputs.dataset_inputs[0].dataset.digest == done["data_digest"]
    assert run.data.tags["trialrun.decision"] == "promoted"
    kept = load_predictions(registry, done["run_id"])
    assert kept is not None
    assert np.mean(kept.predictions.right) == done["metrics"]["accuracy"]
    tags = versions[0].tags | registry.get_model_version("digits", "2").tags
    assert tags["champion.promoted.data_digest"] == done["data_digest"]


def test_promotion_records_its_device(registry: Any, digits: Path, cli: Commands) -> None:
    """What was set and what it came to are parameters of the run, latency gate and all."""
    options = ("--min", "accuracy=0.05", "--max-latency-ms", "60000", "--device", "cpu")
    run = registry.get_run(promote(cli, digits, 1, *options)["run_id"])
    assert (run.data.params["device"], run.data.params["resolved_device"]) == ("cpu", "cpu")
    assert run.data.metrics["latency_ms"] > 0


def test_the_library_raises_a_refusal(registry: Any, digits: Path) -> None:
    """From Python a refusal is an exception, and a promotion returns its evidence."""
    data = str(digits / "test")
    with pytest.raises(PromotionRefusedError, match="accuracy"):
        trialrun.promote("digits", 2, data, min="accuracy=1")
    done = trialrun.promote("digits", "2", data, min="accuracy=0.05")
    assert champion(registry) == "2"
    assert done.metrics == trialrun.evaluate("models:/digits@champion", data).metrics


def test_first_champion_needs_a_minimum(registry: Any, digits: Path, cli: Commands) -> None:
    """Without --min nobody becomes the first champion, and all is left as it was."""
    promote(cli, digits, 2, code=5)
    assert "--min METRIC=VALUE for the first champion" in cli.errors
    assert registry.get_registered_model("digits").aliases == {}


def test_all_gates_are_told(registry: Any, digits: Path, cli: Commands) -> None:
    """Several limits that fail are told in one answer."""
    options = ("--min", "accuracy=0.999", "--min", "log_loss=0.001", "--max-size-mb", "0.1")
    told = promote(cli, digits, 2, *options, "--max-latency-ms", "0.0001", code=5)
    refused = [gate["name"] for gate in told["gates"] if not gate["passed"]]
    assert refused == ["accuracy", "log_loss", "latency", "size"]


def test_training_images_are_no_test(registry: Any, digits: Path, cli: Commands) -> None:
    """Data that a version was trained on is refused, unless that is allowed."""
    data = ("--version", "2", "--data", str(digits / "train"), "--min", "accuracy=0.05")
    told = cli("promote", "digits", *data, code=5)
    gate = next(g for g in told["gates"] if "trained on" in g["name"])
    assert gate["found"] == "190 images"
    cli("promote", "digits", *data, "--allow-overlap")
    assert champion(registry) == "2"


def test_a_class_the_model_lacks_is_told(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """Test data with a class that the version never learned is named."""
    data = tmp_path / "eleven"
    shutil.copytree(digits / "test", data)
    (data / "X").mkdir()
    shutil.copy(next((digits / "test" / "0").iterdir()), data / "X" / "x.png")
    arguments = ("--version", "2", "--data", str(data), "--min", "accuracy=0.05")
    cli("promote", "digits", *arguments, code=5)
    assert "the challenger lacks, though the test data has it: X" in cli.errors


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("promote", "digits", "--version", "99", "--data", "test"), 5),
        (("promote", "unknown", "--version", "1", "--data", "test"), 5),
        (("promote", "digits", "--version", "1", "--data", "no such folder"), 3),
        (("promote", "digits", "--version", "1", "--data", "test", "--margin", "-1"), 2),
        (("history", "unknown"), 5),
        (("rollback", "digits", "--reason", "none yet"), 5),
        (("evaluate", "models:/digits/99", "test"), 5),
        (("reproduce", "0" * 32), 5),
        (("compare", "0" * 32), 2),
    ],
)
def test_wrong_words_get_two_lines(
    registry: Any, digits: Path, cli: Commands, arguments: tuple[str, ...], code: int
) -> None:
    """What is not there is told in an error and a hint, without a traceback."""
    test = str(digits / "test")
    cli(*(test if each == "test" else each for each in arguments), code=code)
    lines = cli.errors.splitlines()
    assert [line.partition(":")[0] for line in lines[-2:]] == ["Error", "Hint"]
    assert "Traceback" not in cli.errors


def test_champion_is_not_promoted_again(registry: Any, digits: Path, cli: Commands) -> None:
    """Who is champion cannot become it."""
    promote(cli, digits, 2, "--min", "accuracy=0.05")
    promote(cli, digits, 2, code=5)
    assert "is the champion already" in cli.errors


def test_evaluate_records_a_linked_run(registry: Any, digits: Path, cli: Commands) -> None:
    """Metrics with intervals, the tables, and the model that they are about."""
    told = cli("evaluate", "models:/digits/2", str(digits / "test"))
    assert told["num_images"] == 10 * TEST_IMAGES
    interval = told["intervals"]["accuracy"]
    assert interval["low"] < told["metrics"]["accuracy"] < interval["high"]
    run = registry.get_run(told["run_id"])
    assert run.info.status == "FINISHED"
    source = registry.get_model_version("digits", "2").source
    assert run.inputs.model_inputs[0].model_id == source.removeprefix("models:/")
    names = {entry.path for entry in registry.list_artifacts(told["run_id"])}
    assert {"per_class.csv", "confusion_matrix.csv", "predictions.parquet"} <= names


def test_compare_puts_runs_side_by_side(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """Two evaluations on the same images get an interval, two trainings their differences."""
    pair = [cli("evaluate", f"models:/digits/{n}", str(digits / "test")) for n in (1, 2)]
    found = cli("compare", *(each["run_id"] for each in pair), "--output", "none")
    accuracy = next(each for each in found["paired"] if each["metric"] == "accuracy")
    gain = pair[1]["metrics"]["accuracy"] - pair[0]["metrics"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(gain)
    trainings = cli("compare", "models:/digits/1", "models:/digits/2", "--output", "c.html")
    assert trainings["parameters"] == {"epochs": ["1", "10"], "random_seed": ["1", "2"]}
    page = (tmp_path / "c.html").read_text()
    assert "data:image/png;base64," in page


def test_reproduction_is_identical(
    registry: Any, trained: tuple[Path, list[Any]], cli: Commands
) -> None:
    """The champion's training done again gives its weights to the bit, in a run linked to it."""
    original = trained[1][1]
    told = cli("reproduce", original.run_id)
    assert (told["verdict"], told["since_epoch"]) == ("identical", None)
    assert told["weights_sha256"] == original.weights_sha256
    assert told["differences"] == {}
    assert registry.get_run(told["run_id"]).data.tags["trialrun.reproduces"] == original.run_id


def test_changed_data_is_told_before_training(
    registry: Any, trained: tuple[Path, list[Any]], digits: Path, cli: Commands
) -> None:
    """A file that changed since is named, and nothing is trained."""
    victim = sorted((digits / "train" / "4").iterdir())[0]
    content = victim.read_bytes()
    victim.write_bytes(sorted((digits / "train" / "4").iterdir())[1].read_bytes())
    try:
        cli("reproduce", trained[1][0].run_id, code=3)
    finally:
        victim.write_bytes(content)
    assert f"1 changed (4/{victim.name})" in cli.errors


def test_another_seed_is_different_since_its_epoch(
    registry: Any, trained: tuple[Path, list[Any]], cli: Commands
) -> None:
    """A record that does not tell the truth is found out, with the epoch."""
    import sqlite3
    from contextlib import closing

    original = trained[1][0].run_id
    path = registry.tracking_uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "UPDATE params SET value='16' WHERE key='random_seed' AND run_uuid=?", (original,)
        )
        database.execute(
            "UPDATE params SET value=? WHERE key='valid_data' AND run_uuid=?", ("none", original)
        )
    cli("reproduce", original, code=3)  # another seed splits the data otherwise, too
    told = cli("reproduce", original, "--allow-changed-data")
    assert (told["verdict"], told["since_epoch"]) == ("different", 1)
    assert told["data_changes"]
