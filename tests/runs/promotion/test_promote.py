"""Tests of promote, rollback, history, evaluate, compare and reproduce on the command line."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trialrun
from tests.runs.promotion.conftest import TEST_IMAGES, Commands
from trialrun.cli import run_cli as command
from trialrun.errors import PromotionRefusedError
from trialrun.registry.versions import read_artifact_text, read_manifest
from trialrun.runs.evaluation.predictions import load_predictions


def promote(cli: Commands, digits: Path, version: int, *options: str, code: int = 0) -> Any:
    """Run `trialrun promote digits --version N --data TEST`."""
    data = str(digits / "test")
    arguments = ("promote", "digits", "--version", str(version), "--data", data, *options)
    return cli(*arguments, code=code)


def champion(client: Any) -> str:
    """Return the version that plain MLflow finds at models:/digits@champion."""
    return str(client.get_model_version_by_alias("digits", "champion").version)


@pytest.mark.slow
def test_promotion_refusal_rollback_and_history(registry: Any, digits: Path, cli: Commands) -> None:
    """Version 1 passes --min, 2 is promoted, 3 is refused, and a rollback restores 1."""
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

    output = cli("history", "digits")
    periods = [(period["version"], period["kind"]) for period in output["periods"]]
    assert periods == [("1", "promotion"), ("2", "promotion"), ("1", "rollback")]
    assert output["periods"][0]["until"] == output["periods"][1]["since"]
    assert output["periods"][2]["until"] is None
    assert output["periods"][1]["figures"]["accuracy"] == pytest.approx(
        second["metrics"]["accuracy"], abs=1e-6
    )


def test_promotion_after_the_alias_was_deleted(
    registry: Any, digits: Path, cli: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    """The version is compared with the last holder, and the history shows the deletion."""
    promote(cli, digits, 1, "--min", "accuracy=0.05", "--reason", "because " * 1000)
    registry.delete_registered_model_alias("digits", "champion")
    second = promote(cli, digits, 2, "--require", "better")
    assert (champion(registry), second["champion"]) == ("2", "1")
    assert "champion of digits is not set; version 1 held it last" in cli.errors
    assert command(["history", "digits"]) == 0
    first, deletion, _ = capsys.readouterr().out.splitlines()[1:]
    assert "…" in first
    assert deletion.startswith("none     between 20")
    assert "alias deleted: deleted by a program other than trialrun" in deletion


def test_promotion_run_is_linked(registry: Any, digits: Path, cli: Commands) -> None:
    """The run of a promotion links both models, the data and the predictions."""
    promote(cli, digits, 1, "--min", "accuracy=0.05")
    done = promote(cli, digits, 2)
    run = registry.get_run(done["run_id"])
    versions = [registry.get_model_version("digits", number) for number in ("2", "1")]
    assert {model.model_id for model in run.inputs.model_inputs} == {
        version.source.removeprefix("models:/") for version in versions
    }
    assert run.inputs.dataset_inputs[0].dataset.digest == done["data_digest"]
    assert run.data.tags["trialrun.decision"] == "promoted"
    stored = load_predictions(registry, done["run_id"])
    assert stored is not None
    assert np.mean(stored.predictions.right) == done["metrics"]["accuracy"]
    tags = versions[0].tags | registry.get_model_version("digits", "2").tags
    assert tags["champion.promoted.data_digest"] == done["data_digest"]


def test_promotion_records_its_device(registry: Any, digits: Path, cli: Commands) -> None:
    """The run logs the device setting, the resolved device and the latency."""
    options = ("--min", "accuracy=0.05", "--max-latency-ms", "60000", "--device", "cpu")
    run = registry.get_run(promote(cli, digits, 1, *options)["run_id"])
    assert (run.data.params["device"], run.data.params["resolved_device"]) == ("cpu", "cpu")
    assert run.data.metrics["latency_ms"] > 0


def test_library_raises_a_refusal(registry: Any, digits: Path) -> None:
    """In Python a refusal is an exception, and a promotion returns its evidence."""
    data = str(digits / "test")
    with pytest.raises(PromotionRefusedError, match="accuracy"):
        trialrun.promote("digits", 2, data, min="accuracy=1")
    done = trialrun.promote("digits", "2", data, min="accuracy=0.05")
    assert champion(registry) == "2"
    assert done.metrics == trialrun.evaluate("models:/digits@champion", data).metrics


def test_first_champion_needs_a_minimum(registry: Any, digits: Path, cli: Commands) -> None:
    """Without --min the first champion is refused, and no alias is set."""
    promote(cli, digits, 2, code=5)
    assert "--min METRIC=VALUE for the first champion" in cli.errors
    assert registry.get_registered_model("digits").aliases == {}


def test_all_failed_gates_are_reported(registry: Any, digits: Path, cli: Commands) -> None:
    """Several failed limits are reported together."""
    options = ("--min", "accuracy=0.999", "--min", "log_loss=0.001", "--max-size-mb", "0.1")
    output = promote(cli, digits, 2, *options, "--max-latency-ms", "0.0001", code=5)
    refused = [gate["name"] for gate in output["gates"] if not gate["passed"]]
    assert refused == ["accuracy", "log_loss", "latency", "size"]


def test_training_images_are_refused(registry: Any, digits: Path, cli: Commands) -> None:
    """Data that a version was trained on is refused unless allowed."""
    data = ("--version", "2", "--data", str(digits / "train"), "--min", "accuracy=0.05")
    output = cli("promote", "digits", *data, code=5)
    gate = next(g for g in output["gates"] if "trained on" in g["name"])
    assert gate["found"] == "190 images"
    cli("promote", "digits", *data, "--allow-overlap")
    assert champion(registry) == "2"


def test_unknown_class_is_reported(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """The gate names a class of the test data that the version lacks."""
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
def test_invalid_arguments_get_error_and_hint(
    registry: Any, digits: Path, cli: Commands, arguments: tuple[str, ...], code: int
) -> None:
    """Invalid arguments are reported as an error and a hint, without a traceback."""
    test = str(digits / "test")
    cli(*(test if argument == "test" else argument for argument in arguments), code=code)
    lines = cli.errors.splitlines()
    assert [line.partition(":")[0] for line in lines[-2:]] == ["Error", "Hint"]
    assert "Traceback" not in cli.errors


def test_champion_cannot_be_promoted_again(registry: Any, digits: Path, cli: Commands) -> None:
    """Promoting the champion is an error."""
    promote(cli, digits, 2, "--min", "accuracy=0.05")
    promote(cli, digits, 2, code=5)
    assert "is the champion already" in cli.errors


def test_evaluation_run_is_linked(registry: Any, digits: Path, cli: Commands) -> None:
    """The run has metrics with intervals and tables, and links the model."""
    output = cli("evaluate", "models:/digits/2", str(digits / "test"))
    assert output["num_images"] == 10 * TEST_IMAGES
    interval = output["intervals"]["accuracy"]
    assert interval["low"] < output["metrics"]["accuracy"] < interval["high"]
    run = registry.get_run(output["run_id"])
    assert run.info.status == "FINISHED"
    source = registry.get_model_version("digits", "2").source
    assert run.inputs.model_inputs[0].model_id == source.removeprefix("models:/")
    names = {entry.path for entry in registry.list_artifacts(output["run_id"])}
    assert {"per_class.csv", "confusion_matrix.csv", "predictions.parquet"} <= names


@pytest.mark.slow
def test_compare_shows_differences(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """Evaluations on the same images get an interval, trainings a list of differing parameters."""
    pair = [cli("evaluate", f"models:/digits/{n}", str(digits / "test")) for n in (1, 2)]
    found = cli("compare", *(evaluation["run_id"] for evaluation in pair), "--output", "none")
    accuracy = next(row for row in found["paired"] if row["metric"] == "accuracy")
    gain = pair[1]["metrics"]["accuracy"] - pair[0]["metrics"]["accuracy"]
    assert accuracy["difference"] == pytest.approx(gain)
    trainings = cli("compare", "models:/digits/1", "models:/digits/2", "--output", "c.html")
    assert trainings["parameters"] == {"epochs": ["1", "10"], "random_seed": ["1", "2"]}
    page = (tmp_path / "c.html").read_text()
    assert "data:image/png;base64," in page


@pytest.mark.slow
def test_reproduction_is_identical(
    registry: Any, trained: tuple[Path, list[Any]], cli: Commands
) -> None:
    """Reproducing a training gives bit-identical weights in a linked run."""
    original = trained[1][1]
    output = cli("reproduce", original.run_id)
    assert (output["verdict"], output["since_epoch"]) == ("identical", None)
    assert output["weights_sha256"] == original.weights_sha256
    assert output["differences"] == {}
    assert registry.get_run(output["run_id"]).data.tags["trialrun.reproduces"] == original.run_id


def test_changed_data_is_reported_before_training(
    registry: Any, trained: tuple[Path, list[Any]], digits: Path, cli: Commands
) -> None:
    """A changed file is named, and nothing is trained."""
    changed_file = sorted((digits / "train" / "4").iterdir())[0]
    content = changed_file.read_bytes()
    changed_file.write_bytes(sorted((digits / "train" / "4").iterdir())[1].read_bytes())
    try:
        cli("reproduce", trained[1][0].run_id, code=3)
    finally:
        changed_file.write_bytes(content)
    assert f"1 changed (4/{changed_file.name})" in cli.errors


def test_other_seed_differs_from_the_first_epoch(
    registry: Any, trained: tuple[Path, list[Any]], cli: Commands
) -> None:
    """A manipulated seed is detected, with the first differing epoch."""
    original = trained[1][0].run_id
    settings = read_artifact_text(registry, original, "config.yaml")
    assert settings is not None
    manipulated = settings.replace("random_seed: 1\n", "random_seed: 16\n")
    registry.log_text(original, manipulated, "config.yaml")
    try:
        cli("reproduce", original, code=3)  # another seed also changes the split
        output = cli("reproduce", original, "--allow-changed-data", code=8)
    finally:  # the artifacts belong to the store of all tests
        registry.log_text(original, settings, "config.yaml")
    assert (output["verdict"], output["since_epoch"]) == ("different", 1)
    assert output["data_changes"]
    assert "differs since epoch 1" in cli.errors


@pytest.mark.slow
def test_permanently_deleted_training_run_can_be_allowed(
    registry: Any, trained: tuple[Path, list[Any]], digits: Path, cli: Commands
) -> None:
    """After `mlflow gc` of the champion's run, only the record of its data is missing."""
    promote(cli, digits, 1, "--min", "accuracy=0.05")
    run_id = trained[1][0].run_id
    registry.delete_run(run_id)
    gc = [str(Path(sys.executable).with_name("mlflow")), "gc", "--run-ids", run_id]
    subprocess.run(
        [*gc, "--backend-store-uri", registry.tracking_uri], check=True, capture_output=True
    )
    promote(cli, digits, 2, code=5)
    assert "test images that version 1 was trained on: required none" in cli.errors
    assert promote(cli, digits, 2, "--allow-overlap")["champion"] == "1"


def test_images_that_chose_the_epoch_are_refused(
    registry: Any, trained: tuple[Path, list[Any]], digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """The validation images of a version's training are no test images."""
    rows = read_manifest(registry, trained[1][1].run_id) or []
    for row in rows:
        if row["set"] == "valid":
            target = tmp_path / "chosen" / str(row["name"])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(digits / "train" / str(row["name"]), target)
    data = ("--version", "2", "--data", str(tmp_path / "chosen"), "--min", "accuracy=0.01")
    output = cli("promote", "digits", *data, code=5)
    refused = {gate["name"]: gate["found"] for gate in output["gates"] if not gate["passed"]}
    assert refused == {"test images that chose the epoch or trial of version 2": "50 images"}


@pytest.mark.slow
def test_groups_widen_the_intervals(registry: Any, digits: Path, cli: Commands) -> None:
    """Groups of images count once in `evaluate` and in `compare`, which takes those of the run."""
    data, pattern = str(digits / "test"), r"^(\d)/"
    single = [cli("evaluate", f"models:/digits/{n}", data) for n in (1, 2)]
    grouped = cli("evaluate", "models:/digits/1", data, "--group-pattern", pattern)
    widths = [
        item["intervals"]["accuracy"]["high"] - item["intervals"]["accuracy"]["low"]
        for item in (single[0], grouped)
    ]
    assert (grouped["num_groups"], widths[1] > widths[0]) == (10, True)
    runs = [item["run_id"] for item in single]
    plain = cli("compare", *runs, "--output", "none")["paired"][0]
    by_pattern = cli("compare", *runs, "--output", "none", "--group-pattern", pattern)["paired"][0]
    by_run = cli("compare", grouped["run_id"], runs[1], "--output", "none")["paired"][0]
    assert (plain["num_groups"], by_pattern["num_groups"], by_run["num_groups"]) == (None, 10, 10)
    assert by_pattern["low"] == by_run["low"] < plain["low"]


@pytest.mark.slow
def test_trained_groups_are_needed_in_the_test(registry: Any, digits: Path, cli: Commands) -> None:
    """A version trained on grouped images is judged on groups, unless the user declines."""
    trainings = ("--train-data", str(digits / "train"), "--group-pattern", r"/(\d\d)")
    settings = ("--model", "shufflenet_v2_x0_5", "--epochs", "1", "--register-as", "digits")
    version = str(cli("train", *trainings, *settings, "--experiment", "tests")["model_version"])
    minimum = ("--min", "accuracy=0")
    promote(cli, digits, int(version), *minimum, code=5)
    assert f"version {version} was trained on grouped images" in cli.errors
    grouped = ("--group-pattern", r"/(\d\d)", "--dry-run")
    assert promote(cli, digits, int(version), *minimum, *grouped)["passed"]
    assert promote(cli, digits, int(version), *minimum, "--allow-ungrouped")["promoted"]
