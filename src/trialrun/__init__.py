"""trialrun trains PyTorch image classifiers as MLflow runs.

`trialrun.train(...)`, `run_search`, `score`, `evaluate`, `promote` and `load_model` are the third
door beside `mlflow run .` and the command line. Importing the package loads neither torch nor
MLflow. A signal ends the run as KILLED and then takes the course that it has in the caller's
process: Ctrl-C raises `KeyboardInterrupt`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialrun.runs.evaluate import Evaluation
    from trialrun.runs.promote import Promotion
    from trialrun.runs.result import TrainResult
    from trialrun.runs.score import ScoreResult, load_model
    from trialrun.search.result import SearchResult

__version__ = "0.1.0"

__all__ = ["__version__", "evaluate", "load_model", "promote", "run_search", "score", "train"]


def train(**settings: Any) -> "TrainResult":
    """Train a classifier as an MLflow run; settings as `trialrun train --help` lists them.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import run_training
    from trialrun.runs.signals import passed_on

    with passed_on():
        return run_training(settings)


def run_search(**settings: Any) -> "SearchResult":
    """Search the settings of `train` for the best; settings as `trialrun search --help` lists them.

    A range is text (`"1e-4:1e-1"`) and a choice text or a list (`[8, 16, 32]`).

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.signals import passed_on
    from trialrun.search.plan import plan_search

    with passed_on():
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


def evaluate(model: str, data: str, **settings: Any) -> "Evaluation":
    """Judge `model` on the labelled images of `data` as an MLflow run.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.evaluate import evaluate as judge
    from trialrun.runs.signals import passed_on

    with passed_on():
        return judge(model, data, settings)


def promote(name: str, version: str | int, data: str, **settings: Any) -> "Promotion":
    """Make `version` of `name` the champion if it passes every gate on `data`.

    Settings as `trialrun promote --help` lists them.

    Raises:
        PromotionRefusedError: A gate said no, or somebody else was first; nothing was moved.
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.promote import promote as judge
    from trialrun.runs.signals import passed_on

    with passed_on():
        result = judge(name, str(version), data, settings)
    result.check()
    return result


def __getattr__(name: str) -> Any:
    if name == "load_model":
        from trialrun.runs.score import load_model

        return load_model
    raise AttributeError(f"module 'trialrun' has no attribute {name!r}")
