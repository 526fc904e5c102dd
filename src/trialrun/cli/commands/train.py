"""`trialrun train`."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import quieten_mlflow, say, show_json, show_table
from trialrun.cli.progress import Terminal
from trialrun.config import TrainConfig


@app.command()
@flags_for(TrainConfig)
def train(json: Json = False, **settings: Any) -> None:
    """Train a classifier on labelled images, as an MLflow run."""
    from trialrun.runs.api import run_training

    quieten_mlflow()
    result = run_training(settings, Terminal)
    values = result.to_json()
    if json:
        show_json(values)
        return
    metrics = {name: f"{value:.6g}" for name, value in values.pop("metrics").items()}
    show_table({**values, **metrics})
    if result.model_version:
        say(
            f"Score with it: trialrun score models:/{result.model_name}/{result.model_version} DATA"
        )
