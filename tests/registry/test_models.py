"""Uploads of models: the stored files are verified before a model is ready."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus

from trialrun.errors import TrackingError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.manifest import WEIGHTS
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.networks import build_network
from trialrun.registry import find_or_create_model, upload_model

NETWORK = "shufflenet_v2_x0_5"


def test_damaged_upload_is_an_error(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bit that flips on the way to a local artifact store fails the model."""
    folder = tmp_path / "model"
    state = serialize_state(build_network(NETWORK, 2, image_size=32).state_dict())
    description = ModelDescription(NETWORK, {}, ("a", "b"), Preprocessing(32))
    write_model_directory(folder, description, state)
    client: Any = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests").experiment_id
    run_id = client.create_run(experiment).info.run_id
    model = find_or_create_model(
        client, experiment_id=experiment, run_id=run_id, params={}, tags={}
    )
    log_files = client.log_model_artifacts

    def log_damaged(model_id: str, local_dir: str) -> None:
        log_files(model_id, local_dir)
        (path,) = (tmp_path / "store").rglob(WEIGHTS)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(client, "log_model_artifacts", log_damaged)
    with pytest.raises(TrackingError, match="checksum mismatch"):
        upload_model(client, model, folder, run_id=run_id, step=1)
    assert client.get_logged_model(model.model_id).status == LoggedModelStatus.FAILED
