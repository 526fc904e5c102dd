"""The record of the images of a run: by name, or by hash if there are many."""

import json
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.conftest import SMALL
from tests.runs.training.test_run import QUICK
from trialrun.mlflow_client import connect_client
from trialrun.registry.versions import (
    ModelOrigin,
    read_artifact_bytes,
    read_artifact_text,
    read_manifest,
)
from trialrun.runs.evaluation.overlaps import count_overlaps_with, read_images_of_origin
from trialrun.runs.evaluation.predictions import open_labelled_data
from trialrun.runs.training.inputs import manifest


def test_run_on_many_images_records_hashes_and_a_summary(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A promotion still finds the images that were trained on, and no row names an image."""
    monkeypatch.setattr(manifest, "MAX_LISTED", 20)
    settings = QUICK | {"model": SMALL, "epochs": 1, "train_data": str(colors)}
    run_id = trialrun.train(**settings).run_id
    client = connect_client()
    assert read_artifact_bytes(client, run_id, "manifest.jsonl") is None
    summary = json.loads(read_artifact_text(client, run_id, "manifest_summary.json") or "")
    assert summary["train"]["num_images"] + summary["valid"]["num_images"] == 36
    assert sum(summary["valid"]["images_by_class"].values()) == summary["valid"]["num_images"]
    inputs = mlflow.get_run(run_id).inputs
    assert inputs is not None
    assert {entry.dataset.digest for entry in inputs.dataset_inputs} == {
        part["digest"][:36] for part in summary.values()
    }
    assert {frozenset(row) for row in read_manifest(client, run_id) or []} == {
        frozenset({"set", "sha256"})
    }
    images = read_images_of_origin(client, ModelOrigin(run_id, None))
    overlaps = count_overlaps_with(open_labelled_data(str(colors)), "the model", images)
    assert [overlap.num_images for overlap in overlaps] == [
        summary["train"]["num_images"],
        summary["valid"]["num_images"],
        0,
    ]
