"""A training run, end to end, on a real store."""

from pathlib import Path

import mlflow

import trialrun


def test_training_registers_a_model(store: str, colors: Path) -> None:
    """A folder of images becomes a version in the registry."""
    result = trialrun.train(
        train_data=str(colors), epochs=1, batch_size=8, register_as="colors", precision="fp32"
    )
    assert result.status == "FINISHED"
    version = mlflow.MlflowClient(store).get_model_version("colors", "1")
    assert version.tags["weights_sha256"] == result.weights_sha256
