"""The record of the images that made a certified model."""

import hashlib
import json

import mlflow
from mlflow.entities import Dataset, DatasetInput
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from trialrun.mlflow_client import connect_client
from trialrun.registry.versions import ModelOrigin
from trialrun.runs.evaluation.derived_versions import record_used_images
from trialrun.runs.evaluation.overlaps import read_images_of_origin
from trialrun.runs.export.overlaps import hash_all
from trialrun.tracking import open_run


def create_trial(client: mlflow.MlflowClient, parent: str, sha256: str) -> str:
    """Create a trial that is validated on one image; return its run id."""
    experiment = client.get_run(parent).info.experiment_id
    run_id = str(client.create_run(experiment, tags={MLFLOW_PARENT_RUN_ID: parent}).info.run_id)
    dataset = Dataset(name="valid", digest=sha256, source_type="local", source="{}")
    client.log_inputs(run_id, [DatasetInput(dataset, [])])
    rows = [{"set": "train", "sha256": "trained"}, {"set": "valid", "sha256": sha256}]
    client.log_text(run_id, "".join(json.dumps(row) + "\n" for row in rows), "manifest.jsonl")
    return run_id


def test_certified_version_keeps_the_record_of_all_its_images(store: str) -> None:
    """Those of the other trials and of the calibration are known without the training run."""
    client = connect_client()
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    parent = client.create_run(experiment.experiment_id).info.run_id
    best = create_trial(client, parent, "of the best trial")
    create_trial(client, parent, "of another trial")
    with open_run(client, experiment="tests", name=None, tags={}) as run:
        record_used_images(run, ModelOrigin(run_id=best, model_id=None), hash_all([b"pixels"]))
    images = read_images_of_origin(client, ModelOrigin(run_id=run.run_id, model_id=None))
    assert images is not None
    assert images.trained_on == {"trained"}
    assert images.selected_by == {"of the best trial", "of another trial"}
    assert images.calibrated_by == {hashlib.sha256(b"pixels").hexdigest()}
