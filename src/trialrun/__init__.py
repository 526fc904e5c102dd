"""trialrun trains PyTorch image classifiers as MLflow runs.

`trialrun.train(...)`, `run_search`, `score`, `evaluate`, `promote` and `load_model` are the third
door beside `mlflow run .` and the command line. Importing the package loads neither torch nor
MLflow. A signal ends the run as KILLED and then takes the course that it has in the caller's
process: Ctrl-C raises `KeyboardInterrupt`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trialrun.models.classifier import ImageClassifier
    from trialrun.runs.evaluate import Evaluation
    from trialrun.runs.promote import Promotion
    from trialrun.runs.result import TrainResult
    from trialrun.runs.score import ScoreResult
    from trialrun.search.result import SearchResult

__version__ = "0.1.0"

__all__ = ["__version__", "evaluate", "load_model", "promote", "run_search", "score", "train"]


def train(**settings: Any) -> "TrainResult":
    """Train a classifier as an MLflow run; settings as `trialrun train --help` lists them.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program, run_training

    with called_by_program():
        return run_training(settings)


def run_search(**settings: Any) -> "SearchResult":
    """Search the settings of `train` for the best; settings as `trialrun search --help` lists them.

    A range is text (`"1e-4:1e-1"`) and a choice text or a list (`[8, 16, 32]`).

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.search.plan import plan_search

    with called_by_program():
        plan = plan_search(settings)
        from trialrun.search.run import search

        return search(plan)


def score(model: str, data: str, output: str) -> "ScoreResult":
    """Score every image of `data` with `model` into `output`, a .csv or .parquet file.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.score import score_data

    with called_by_program():
        return score_data(model, data, output)


def evaluate(model: str, data: str, **settings: Any) -> "Evaluation":
    """Judge `model` on the labelled images of `data` as an MLflow run.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.evaluate import evaluate as judge

    with called_by_program():
        return judge(model, data, settings)


def promote(name: str, version: str | int, data: str, **settings: Any) -> "Promotion":
    """Make `version` of `name` the champion if it passes every gate on `data`.

    Settings as `trialrun promote --help` lists them.

    Raises:
        PromotionRefusedError: A gate said no, or somebody else was first; nothing was moved.
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.promote import promote as judge

    with called_by_program():
        result = judge(name, str(version), data, settings)
    result.check()
    return result


def load_model(model: str) -> "ImageClassifier":
    """The network of MODEL (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have it.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.score import load_model as opened

    with called_by_program():
        return opened(model)
