"""trialrun trains PyTorch image classifiers as MLflow runs.

`trialrun.train(...)` and the functions below it are the third door beside `mlflow run .` and the
command line. Importing the package loads neither torch nor
MLflow. A signal ends the run as KILLED and then takes the course that it has in the caller's
process: Ctrl-C raises `KeyboardInterrupt`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from trialrun.models.classifier import ImageClassifier
    from trialrun.runs.champions import History
    from trialrun.runs.compare import Comparison
    from trialrun.runs.evaluate import Evaluation
    from trialrun.runs.promote import Promotion
    from trialrun.runs.reproduce import Reproduction
    from trialrun.runs.result import TrainResult
    from trialrun.runs.score import ScoreResult
    from trialrun.search.result import SearchResult

__all__ = [
    "compare",
    "evaluate",
    "history",
    "load_model",
    "promote",
    "reproduce",
    "rollback",
    "run_search",
    "score",
    "train",
]
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


def rollback(name: str, reason: str, alias: str = "champion") -> dict[str, Any]:
    """Give an alias back to the version that held it before: both versions, when and by whom.

    Raises:
        PromotionRefusedError: Nobody held it before.
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.champions import rollback as give_back
    from trialrun.runs.entry import called_by_program

    with called_by_program():
        return give_back(name, reason, alias)


def history(name: str, alias: str = "champion") -> "History":
    """Who held an alias of a registered model from when to when, and why.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.champions import history as told
    from trialrun.runs.entry import called_by_program

    with called_by_program():
        return told(name, alias)


def compare(*runs: str) -> "Comparison":
    """Runs (ids, models:/NAME/3 or runs:/ID) side by side: settings, figures, answers, curves.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.compare import compare_runs
    from trialrun.runs.entry import called_by_program

    with called_by_program():
        return compare_runs(runs)


def reproduce(run_id: str, **settings: Any) -> "Reproduction":
    """Train a run again from its record: whether the same came of it, and since when not.

    `settings` are `tolerance` and `allow_changed_data`.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.reproduce import reproduce as train_again

    with called_by_program():
        return train_again(run_id, **settings)


def load_model(model: "str | Path") -> "ImageClassifier":
    """The network of MODEL (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have it.
    """
    from trialrun.runs.entry import called_by_program
    from trialrun.runs.score import load_model as opened

    with called_by_program():
        return opened(str(model))
