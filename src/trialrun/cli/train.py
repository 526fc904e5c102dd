"""`trialrun train`."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import quieten_mlflow, show_json, show_table
from trialrun.config import TrainConfig


@app.command()
@flags_for(TrainConfig)
def train(json: Json = False, **settings: Any) -> None:
    """Train a classifier on labelled images and record the run in MLflow."""
    from trialrun.runs.plan import plan_training
    from trialrun.runs.signals import cut_by_signals

    plan = plan_training(settings)
    with cut_by_signals():
        quieten_mlflow()
        from trialrun.cli.progress import Terminal
        from trialrun.runs.train import train as train_plan

        with Terminal() as terminal:
            result = train_plan(plan, terminal)
    values = result.to_json()
    if json:
        show_json(values)
        return
    metrics = {name: f"{value:.6g}" for name, value in values.pop("metrics").items()}
    show_table({**values, **metrics})
