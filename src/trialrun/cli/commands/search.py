"""`trialrun search`."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_table, silence_mlflow
from trialrun.config import SearchConfig, TrainConfig


@app.command()
@flags_for(SearchConfig)
@flags_for(TrainConfig)
def search(json: Json = False, **settings: Any) -> None:
    """Search the settings of `train`, each trial an MLflow run.

    Every setting of `train` takes a range (1e-4:1e-1, or in steps 8:64:8) or a choice (8,16,32)
    beside a value. Without any, learning_rate 1e-4:1e-1 and batch_size 8,16,32,64 are searched.
    """
    from trialrun.cli.progress import SearchProgress
    from trialrun.tuning.api import plan_and_search

    silence_mlflow()
    result = plan_and_search(settings, SearchProgress)
    values = result.to_json()
    if json:
        print_json(values)
        return
    metrics = {name: f"{value:.6g}" for name, value in values.pop("metrics").items()}
    best = {f"best {name}": value for name, value in values.pop("best_params").items()}
    counts = values.pop("num_trials")
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print_table({**values, "trials": told, **best, **metrics})
