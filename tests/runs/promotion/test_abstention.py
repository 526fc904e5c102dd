"""Versions that abstain below a threshold of confidence, on the command line and in MLflow."""

import csv
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest

from tests.runs.promotion.conftest import Commands
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.scoring.labels import UNKNOWN

MAX_ERROR = 0.3


def derive(cli: Commands, digits: Path, *options: str, code: int = 0) -> dict[str, Any]:
    """Run `trialrun evaluate models:/digits/2 TEST --abstain`."""
    test = str(digits / "test")
    return cli("evaluate", "models:/digits/2", test, "--abstain", *options, code=code)


@pytest.mark.slow
def test_version_that_abstains_answers_unknown_below_its_threshold(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """So do its tables, its pyfunc and its evaluation; weights and probabilities are the same."""
    result = derive(cli, digits, str(MAX_ERROR))
    rule = result["answer_rule"]
    assert (result["model_name"], result["model_version"]) == ("digits", "4")
    assert 0 < rule["coverage"] < 1
    version = registry.get_model_version("digits", "4")
    source = registry.get_model_version("digits", "2")
    assert version.tags["weights_sha256"] == source.tags["weights_sha256"]
    assert float(version.tags["abstain_coverage"]) == pytest.approx(rule["coverage"], rel=1e-3)
    assert "at most **30%** of its answers are wrong" in version.description

    cli("score", "models:/digits/4", str(digits / "test"), "--output", str(tmp_path / "a.csv"))
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    unknown = [row for row in rows if row["Scored Labels"] == UNKNOWN]
    wrong = [row for row in rows if row["Scored Labels"] not in (UNKNOWN, row["category"])]
    assert len(rows) - len(unknown) == rule["num_answered"]
    assert len(wrong) == rule["num_wrong"]

    images = [(digits / "test" / row["path"]).read_bytes() for row in (unknown[0], rows[0])]
    model = mlflow.pyfunc.load_model("models:/digits/4")
    labels = model.predict(pd.DataFrame({"image": images}))["Scored Labels"].tolist()
    assert labels == [UNKNOWN, rows[0]["Scored Labels"]]

    again = cli("evaluate", "models:/digits/4", str(digits / "test"))
    assert again["metrics"]["coverage"] == pytest.approx(rule["coverage"])
    assert again["metrics"]["answered_error"] == rule["num_wrong"] / rule["num_answered"]


@pytest.mark.slow
def test_promotion_can_require_a_coverage(registry: Any, digits: Path, cli: Commands) -> None:
    """Images that gave the threshold do not judge it; a version without one answers everything."""
    coverage = derive(cli, digits, str(MAX_ERROR))["answer_rule"]["coverage"]
    promote = ("promote", "digits", "--data", str(digits / "test"), "--min", "accuracy=0.05")
    cli(*promote, "--version=2", "--min-coverage=1", "--dry-run")
    assert "it answers every image" in cli.errors
    for minimum, code in ((coverage - 0.3, 0), (coverage, 5)):
        cli(
            *promote,
            "--version=4",
            f"--min-coverage={max(minimum, 0)}",
            "--allow-overlap",
            "--dry-run",
            code=code,
        )
    assert "REFUSED  coverage" in cli.errors
    cli(*promote, "--version=4", code=5)
    assert "test images that calibrated version 4" in cli.errors


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("0.000001",), "150 independent images give no threshold"),
        (("1",), "abstain=1"),
        (("0",), "abstain=0"),
    ],
)
def test_threshold_that_cannot_be_derived_is_refused(
    registry: Any, digits: Path, cli: Commands, options: tuple[str, ...], found: str
) -> None:
    """No version is registered; the evaluation of a bound that no threshold keeps is recorded."""
    is_promise = options == ("0.000001",)
    derive(cli, digits, *options, code=5 if is_promise else 2)
    assert found in cli.errors
    assert len(registry.search_model_versions("name = 'digits'")) == 3
    if is_promise:
        [run] = registry.search_runs(["1"], "tags.`trialrun.kind` = 'evaluation'")
        assert (run.info.status, "accuracy" in run.data.metrics) == ("FINISHED", True)


def test_images_that_trained_the_model_give_no_threshold(
    registry: Any, digits: Path, cli: Commands
) -> None:
    """They are refused before any image is scored."""
    train = str(digits / "train")
    cli("evaluate", "models:/digits/2", train, "--abstain", "0.3", code=5)
    assert "no threshold is derived: test images that models:/digits/2 was trained on" in cli.errors


def test_a_class_named_unknown_is_refused(
    registry: Any, digits: Path, cli: Commands, tmp_path: Path
) -> None:
    """Its label would have two meanings."""
    folder = Path(mlflow.artifacts.download_artifacts("models:/digits/2", dst_path=str(tmp_path)))
    description = json.loads((folder / "model.json").read_text())
    description["classes"][0] = UNKNOWN
    copy = tmp_path / "copy"
    copy.mkdir()
    weights = (folder / "model.safetensors").read_bytes()
    write_model_directory(copy, ModelDescription.from_json(description), weights)
    test = str(digits / "test")
    cli("evaluate", str(copy), test, "--abstain=0.3", "--register=d", "--allow-overlap", code=2)
    assert "the model has a class unknown" in cli.errors
