"""`trialrun search`: a command that searches the settings of training."""

from typing import Any

from trialrun.cli.app import Json, app
from trialrun.cli.flags import flags_for
from trialrun.cli.output import print_json, print_table, silence_mlflow
from trialrun.config import SearchConfig, TrainConfig


@app.command()
@flags_for(TrainConfig)
@flags_for(SearchConfig)
def search(json: Json = False, **settings: Any) -> None:
    """Search for the best settings of `train`. Each trial is an MLflow run.

    Every setting of `train` takes a value, a range (1e-4:1e-1, or 8:64:8 with a step of 8) or a
    list of choices (8,16,32). If no setting has a range or choices, learning_rate=1e-4:1e-1 and
    batch_size=8,16,32,64 are searched.
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
    trials = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    print_table({**values, "trials": trials, **best, **metrics})
