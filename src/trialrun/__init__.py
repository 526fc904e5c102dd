"""trialrun trains PyTorch image classifiers as MLflow runs.

`trialrun.train(...)`, `trialrun.run_search(...)`, `trialrun.score(...)` and
`trialrun.load_model(...)` are the third door beside `mlflow run .` and the command line. Importing
the package loads neither torch nor MLflow.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialrun.runs.result import TrainResult
    from trialrun.runs.score import ScoreResult, load_model
    from trialrun.search.result import SearchResult

__version__ = "0.1.0"

__all__ = ["__version__", "load_model", "run_search", "score", "train"]


def train(**settings: Any) -> "TrainResult":
    """Train a classifier as an MLflow run; settings as `trialrun train --help` lists them.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.plan import plan_training

    plan = plan_training(settings)
    from trialrun.runs.train import train as train_plan

    return train_plan(plan)


def run_search(**settings: Any) -> "SearchResult":
    """Search the settings of `train` for the best; settings as `trialrun search --help` lists them.

    A range is text (`"1e-4:1e-1"`) and a choice text or a list (`[8, 16, 32]`).

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.search.plan import plan_search

    plan = plan_search(settings)
    from trialrun.search.run import search

    return search(plan)


def score(model: str, data: str, output: str) -> "ScoreResult":
    """Score every image of `data` with `model` into `output`, a .csv or .parquet file.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.score import score_data

    return score_data(model, data, output)


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from trialrun.runs.score import load_model

        return load_model
    raise AttributeError(f"module 'trialrun' has no attribute {name!r}")
