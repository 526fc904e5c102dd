"""trialrun trains PyTorch image classifiers as MLflow runs.

The functions of this module do what the commands of the same names do. Importing the package loads
neither torch nor MLflow. Functions with `**settings` accept the settings as keyword parameters,
as text or as Python values; `help(trialrun.train)` lists them.

A call restores the process's state: the global random generators of torch, NumPy and Python,
torch's modes and flags, MLflow's settings, the environment. Results do not depend on this state.
Calls that compute with torch take turns: a call from a second thread waits for the first.

Calls print nothing. In a notebook they show a progress bar, and their results are tables.
`TRIALRUN_PROGRESS=1` shows progress outside notebooks on standard error, 0 hides it everywhere.

MLflow's rules decide where a run is recorded: in `experiment` if it is set; else in the experiment
of the run that is active in the calling thread (`mlflow.start_run`); else in the experiment of
`mlflow.set_experiment`, MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID; else in Default. An active
run is the parent of the new run, even if `experiment` names another experiment.

A signal ends the run as KILLED and then has its usual effect in the caller's process: Ctrl-C raises
`KeyboardInterrupt`.
"""

import warnings
from typing import TYPE_CHECKING, Any

from trialrun import errors
from trialrun.config import SearchConfig, TrainConfig, build_config
from trialrun.config.documentation import document_settings
from trialrun.config.evaluate import CompareConfig, EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.reproduce import ReproduceConfig
from trialrun.config.resume import ResumeConfig
from trialrun.config.score import ScoreConfig

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Unpack

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from pyspark.sql import DataFrame
    from torch import Tensor

    from trialrun.config.keywords import (
        CompareKeywords,
        EvaluateKeywords,
        PromoteKeywords,
        ReproduceKeywords,
        ResumeKeywords,
        ScoreKeywords,
        SearchKeywords,
        TrainKeywords,
    )
    from trialrun.models.classifier import ImageClassifier
    from trialrun.registry.history import AliasHistory
    from trialrun.runs.evaluation.evaluate import ModelEvaluation
    from trialrun.runs.inspection.compare import RunComparison
    from trialrun.runs.inspection.reproduction import Reproduction
    from trialrun.runs.promotion.result import Promotion
    from trialrun.runs.scoring.job import ScoreResult
    from trialrun.runs.training.outcome.result import TrainResult
    from trialrun.tuning.result import SearchResult

__all__ = [
    "__version__",
    "compare",
    "errors",
    "evaluate",
    "history",
    "load_model",
    "preprocess",
    "promote",
    "reproduce",
    "resume",
    "rollback",
    "run_search",
    "score",
    "score_frame",
    "search",
    "train",
]
__version__ = "0.2.0"


@document_settings(TrainConfig)
def train(**settings: "Unpack[TrainKeywords]") -> "TrainResult":
    """Train an image classifier as an MLflow run, and register it if `register_as` is set.

        result = trialrun.train(train_data="photos", model="resnet18", epochs=10)
        print(result.metrics["valid_accuracy"], result.model_uri)

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_progress
    from trialrun.runs.api import api_call, run_training

    with api_call():
        return run_training(settings, open_progress)


@document_settings(ResumeConfig)
def resume(run_id: str | None = None, **settings: "Unpack[ResumeKeywords]") -> "TrainResult":
    """Continue an interrupted run of `train`; None is the newest one of the tracking store.

    A finished run is left as it is, and its result is returned.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_progress
    from trialrun.runs.api import api_call, resume_training

    with api_call():
        return resume_training(run_id, settings, open_progress)


@document_settings(TrainConfig, SearchConfig)
def search(**settings: "Unpack[SearchKeywords]") -> "SearchResult":
    """Search the settings of `train` with Optuna; each trial is a nested MLflow run.

    A setting with a range (`"1e-4:1e-1"`) or a choice (`"sgd,adamw"` or `[8, 16, 32]`) is searched,
    the others are fixed:

        found = trialrun.search(train_data="photos", learning_rate="1e-4:1e-1", trials=20)
        print(found.best_params)

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_search_progress
    from trialrun.runs.api import api_call
    from trialrun.tuning.plan import plan_search

    with api_call():
        plan = plan_search(settings)
        from trialrun.tuning import run

        with open_search_progress() as callback:
            return run.execute_search(plan, callback)


def run_search(**settings: "Unpack[SearchKeywords]") -> "SearchResult":
    """Call `search`. Deprecated: the name will be removed in the next release."""
    warnings.warn(
        "trialrun.run_search is deprecated; call trialrun.search",
        DeprecationWarning,
        stacklevel=2,
    )
    return search(**settings)


@document_settings(ScoreConfig)
def score(model: str, data: str, output: str, **settings: "Unpack[ScoreKeywords]") -> "ScoreResult":
    """Write the class probabilities of each image of `data` to `output`, .csv or .parquet.

    `model` is models:/NAME/VERSION, models:/NAME@alias, runs:/ID/model or a model directory.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_progress
    from trialrun.runs.api import api_call
    from trialrun.runs.scoring.score import score_data

    with api_call(), open_progress() as callback:
        return score_data(model, data, output, settings, callback)


def score_frame(frame: "DataFrame", model: str) -> "DataFrame":
    """Add class probabilities to a Spark data frame of images; needs `trialrun[spark]`.

    The images are in the binary column `image` (contents of files), else in the text column `path`
    (names of files that every executor can read).

        frame = spark.read.format("binaryFile").load("/data").withColumnRenamed("content", "image")
        trialrun.score_frame(frame, "models:/photos@champion").write.parquet("/data/scored")

    Returns:
        The frame without `image`, with `Scored Probabilities_<class>`, `Scored Labels` and `error`,
        computed on the executors when the frame is used.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.scoring import spark

    with api_call():
        return spark.score_frame(frame, model)


@document_settings(EvaluateConfig)
def evaluate(model: str, data: str, **settings: "Unpack[EvaluateKeywords]") -> "ModelEvaluation":
    """Measure `model` on the labelled images of `data` and record the metrics as an MLflow run.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_progress
    from trialrun.runs.api import api_call
    from trialrun.runs.evaluation.evaluate import evaluate_model

    with api_call(), open_progress() as callback:
        return evaluate_model(model, data, settings, callback)


@document_settings(PromoteConfig)
def promote(
    name: str, version: str | int, data: str, **settings: "Unpack[PromoteKeywords]"
) -> "Promotion":
    """Move the alias `champion` of model `name` to `version` if it passes every gate on `data`.

    Raises:
        PromotionRefusedError: A gate failed, or another process moved the alias first; the alias
            is where it was.
        TrialrunError: Another of the classes of `trialrun.errors`.
    """
    from trialrun.notebook import open_progress
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.promote import promote_version

    with api_call(), open_progress() as callback:
        result = promote_version(name, str(version), data, settings, callback)
    result.raise_if_refused()
    return result


def rollback(name: str, reason: str, alias: str = "champion") -> dict[str, Any]:
    """Move `alias` of model `name` back to the version that held it before.

    Returns:
        Both versions, the time and the user, as `trialrun rollback --json` prints them.

    Raises:
        PromotionRefusedError: No earlier holder exists.
        TrialrunError: Another of the classes of `trialrun.errors`.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.alias_history import roll_back_alias

    with api_call():
        return roll_back_alias(name, reason, alias)


def history(name: str, alias: str = "champion") -> "AliasHistory":
    """List the versions that held `alias` of model `name`, with dates and reasons.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.alias_history import read_history

    with api_call():
        return read_history(name, alias)


@document_settings(CompareConfig)
def compare(*runs: str, **settings: "Unpack[CompareKeywords]") -> "RunComparison":
    """Compare runs: parameters, metrics, predictions, datasets and environments.

    Each of `runs` is a run's id, models:/NAME/VERSION or runs:/ID.

    Raises:
        TrialrunError: One of the classes of `trialrun.errors`.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.inspection.compare import compare_runs

    with api_call():
        return compare_runs(runs, settings)


@document_settings(ReproduceConfig)
def reproduce(run_id: str, **settings: "Unpack[ReproduceKeywords]") -> "Reproduction":
    """Repeat a training run from its record and compare the metrics of each epoch.

    The verdict of the result may be `different`; `result.raise_if_different()` makes it an error.

    Raises:
        InvalidDatasetError: The images have changed, and `allow_changed_data` is false.
        TrialrunError: Another of the classes of `trialrun.errors`.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.inspection.reproduce import reproduce_run

    with api_call():
        return reproduce_run(run_id, build_config(ReproduceConfig, settings))


def load_model(model: "str | Path") -> "ImageClassifier":
    """Load a trained network in eval mode: models:/…, runs:/… or a model directory.

    The network takes (N, 3, S, S) normalised float32 images and returns (N, C) logits.
    `preprocess` turns an image into such an input:

        model = trialrun.load_model("models:/digits/1")
        with torch.inference_mode():
            probabilities = model(trialrun.preprocess("seven.png", model)).softmax(dim=1)
        label = model.classes[probabilities.argmax()]

    Raises:
        InvalidModelDirectoryError: Not an image classifier of trialrun's or Azure's, or damaged.
        TrackingError: MLflow has no such model.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.scoring import model as scoring

    with api_call():
        return scoring.load_model(str(model))


def preprocess(
    image: "str | Path | bytes | Image | NDArray[np.uint8] | Tensor", model: "ImageClassifier"
) -> "Tensor":
    """Turn an image into an input of `model`, as scoring does; same as `model.preprocess(image)`.

    Args:
        image: Path of a file, content of a file, Pillow image, or RGB pixels: an (H, W, 3) array or
            a (3, H, W) tensor, both uint8.
        model: A model returned by `load_model`; its preprocessing decides the size S.

    Returns:
        (1, 3, S, S) float32, on the device of `model`. `torch.cat` makes a batch of several.

    Raises:
        InvalidDatasetError: The file cannot be read, or is not an image.
        TypeError: `image` has another type, dtype or shape.
    """
    return model.preprocess(image)
