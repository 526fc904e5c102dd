"""`trialrun search`."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import quieten_mlflow, show_json, show_table
from trialrun.config import SearchConfig, TrainConfig


@app.command()
@flags_for(SearchConfig)
@flags_for(TrainConfig)
def search(json: Json = False, **settings: Any) -> None:
    """Search the settings of `train`, each trial an MLflow run.

    Every setting of `train` takes a range (1e-4:1e-1, or in steps 8:64:8) or a choice (8,16,32)
    beside a value. Without any, learning_rate 1e-4:1e-1 and batch_size 8,16,32,64 are searched.
    """
    from trialrun.cli.progress import SearchTerminal
    from trialrun.tuning.api import run_search

    quieten_mlflow()
    result = run_search(settings, SearchTerminal)
    values = result.to_json()
    if json:
        show_json(values)
        return
    metrics = {name: f"{value:.6g}" for name, value in values.pop("metrics").items()}
    best = {f"best {name}": value for name, value in values.pop("best_params").items()}
    counts = values.pop("num_trials")
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    show_table({**values, "trials": told, **best, **metrics})
