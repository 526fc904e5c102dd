"""trialrun trains PyTorch image classifiers as MLflow runs.

`trialrun.train(...)` and the functions below it are the third entry point beside `mlflow run .` and
the command line. Importing the package loads neither torch nor MLflow. A signal ends the run as
KILLED and then has the effect that it has in the caller's process: Ctrl-C raises
`KeyboardInterrupt`.

Calls leave the process as it was: torch's, NumPy's and Python's global generators, torch's modes
and flags, MLflow's settings, the environment. Their results do not depend on these either. Calls
that compute with torch take turns: one that another thread makes meanwhile waits for its turn.

Runs go where MLflow's own would: to `experiment`, else below the run that is active in the calling
thread (`mlflow.start_run`) and to its experiment, else to the experiment of
`mlflow.set_experiment`, of MLFLOW_EXPERIMENT_NAME or of MLFLOW_EXPERIMENT_ID, else to Default. With
`experiment` an active run stays the parent, even where its experiment is another.
"""

from typing import TYPE_CHECKING, Any

from trialrun import errors

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

    from trialrun.models.classifier import ImageClassifier
    from trialrun.registry.history import AliasHistory
    from trialrun.runs.evaluation.evaluate import ModelEvaluation
    from trialrun.runs.evaluation.score import ScoreResult
    from trialrun.runs.inspection.compare import RunComparison
    from trialrun.runs.inspection.reproduce import Reproduction
    from trialrun.runs.promotion.promote import Promotion
    from trialrun.runs.training.result import TrainResult
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
    "rollback",
    "run_search",
    "score",
    "train",
]
__version__ = "0.1.0"


def train(**settings: Any) -> "TrainResult":
    """Train a classifier as an MLflow run; settings as `trialrun train --help` lists them.

    Calls from several threads take turns, each with the result that it has alone.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call, run_training

    with api_call():
        return run_training(settings)


def run_search(**settings: Any) -> "SearchResult":
    """Search the settings of `train` for the best; settings as `trialrun search --help` lists them.

    A range is text (`"1e-4:1e-1"`) and a choice text or a list (`[8, 16, 32]`). Trials in this
    process take turns with the calls of other threads.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.tuning.plan import plan_search

    with api_call():
        plan = plan_search(settings)
        from trialrun.tuning.run import run_search

        return run_search(plan)


def score(model: str, data: str, output: str, **settings: Any) -> "ScoreResult":
    """Score every image of `data` with `model` into `output`, a .csv or .parquet file.

    Settings as `trialrun score --help` lists them: `device`.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.evaluation.score import score_data

    with api_call():
        return score_data(model, data, output, settings)


def evaluate(model: str, data: str, **settings: Any) -> "ModelEvaluation":
    """Judge `model` on the labelled images of `data` as an MLflow run.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.evaluation.evaluate import evaluate_model as judge

    with api_call():
        return judge(model, data, settings)


def promote(name: str, version: str | int, data: str, **settings: Any) -> "Promotion":
    """Make `version` of `name` the champion if it passes every gate on `data`.

    Settings as `trialrun promote --help` lists them.

    Raises:
        PromotionRefusedError: A gate said no, or somebody else was first; nothing was moved.
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.promote import promote_version as judge

    with api_call():
        result = judge(name, str(version), data, settings)
    result.raise_if_refused()
    return result


def rollback(name: str, reason: str, alias: str = "champion") -> dict[str, Any]:
    """Give an alias back to the version that held it before: both versions, when and by whom.

    Raises:
        PromotionRefusedError: Nobody held it before.
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.alias_history import roll_back_alias as give_back

    with api_call():
        return give_back(name, reason, alias)


def history(name: str, alias: str = "champion") -> "AliasHistory":
    """Who held an alias of a registered model from when to when, and why.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.promotion.alias_history import read_history as told

    with api_call():
        return told(name, alias)


def compare(*runs: str) -> "RunComparison":
    """Runs (ids, models:/NAME/3 or runs:/ID) side by side: settings, figures, answers, curves.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.inspection.compare import compare_runs

    with api_call():
        return compare_runs(runs)


def reproduce(run_id: str, **settings: Any) -> "Reproduction":
    """Train a run again from its record: whether the same came of it, and since when not.

    `settings` are `tolerance` and `allow_changed_data`.

    Raises:
        TrialrunError: As its kinds say.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.inspection.reproduce import reproduce_run as train_again

    with api_call():
        return train_again(run_id, **settings)


def load_model(model: "str | Path") -> "ImageClassifier":
    """The network of MODEL (models:/…, runs:/…, a directory of ours or Azure's) in eval mode.

    It takes (N, 3, S, S) normalised float32 images and returns (N, C) logits. `preprocess` makes
    such an input of an image:

        model = trialrun.load_model("models:/digits/1")
        with torch.inference_mode():
            probabilities = model(trialrun.preprocess("seven.png", model)).softmax(dim=1)
        label = model.classes[probabilities.argmax()]

    Raises:
        InvalidModelDirectoryError: Not a PyTorch image model of ours or Azure's, or damaged.
        TrackingError: MLflow does not have it.
    """
    from trialrun.runs.api import api_call
    from trialrun.runs.evaluation.score import load_model as opened

    with api_call():
        return opened(str(model))


def preprocess(
    image: "str | Path | bytes | Image | NDArray[np.uint8] | Tensor", model: "ImageClassifier"
) -> "Tensor":
    """An image as the input of `model`, which `load_model` returned; what scoring computes too.

    `model.preprocess(image)` is the same.

    Args:
        image: A file's path, a file's bytes, a Pillow image, or RGB pixels: an (H, W, 3) array or a
            (3, H, W) tensor, both uint8.
        model: Its preprocessing decides the size S.

    Returns:
        (1, 3, S, S) float32, on the device of `model`. `torch.cat` makes a batch of several.

    Raises:
        InvalidDatasetError: The file cannot be read, or is not an image.
        TypeError: `image` is of another type, dtype or shape.
    """
    return model.preprocess(image)
