"""The MLflow pyfunc model that `mlflow models serve` loads, a wrapper of `scoring`.

A model directory contains a copy of this module and its imports (`serving.bundle`), so it can be
served without trialrun installed.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.config import AUTO_TEXT
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state, use_default_modes
from trialrun.scoring.labels import LabelRule, read_threshold
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.open import open_network
from trialrun.scoring.pipeline import score_images
from trialrun.scoring.scores import LABEL_COLUMN, ImageScore, probability_columns
from trialrun.serving.inputs import FORMATS, IMAGE_COLUMN, InputError, extract_images

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["IMAGE_COLUMN", "ImageModel"]

_logger = logging.getLogger("mlflow.trialrun")  # below MLflow's, which the server configures


class ImageModel:
    """A classifier with MLflow's pyfunc interface: images in, a DataFrame of scores out."""

    def __init__(self, network: ScoringNetwork, threshold: float = 0.0) -> None:
        self.network = network
        self._labels = LabelRule(network.classes, threshold)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Score images: one row per image, with `Scored Probabilities_<class>` and `Scored Labels`.

        `model_input` is a DataFrame or a dict with an `image` column, or a list. The result has the
        index of the DataFrame. The label is `unknown` where the model abstains. Images are file
        contents, as bytes or as base64 text; text is never read as the path of a file.

        Raises:
            MlflowException: The `image` column is missing, or an image cannot be read; a server
                responds with status 400.
        """
        import pandas as pd

        try:
            images, index = extract_images(model_input)
        except InputError as error:
            raise _invalid_input(str(error)) from error
        scores = self._score(images)
        classes = self.network.classes
        table = pd.DataFrame(
            scores, columns=probability_columns(classes), index=index, dtype="float64"
        )
        labels = list(map(self._labels.choose, scores))
        table[LABEL_COLUMN] = pd.Series(labels, index=index, dtype=object)
        return table

    def _score(self, images: "list[bytes | str]") -> "list[NDArray[np.float32]]":
        scores = self._compute([None if isinstance(image, str) else image for image in images])
        reasons = [
            image if isinstance(image, str) else scored.error
            for image, scored in zip(images, scores, strict=True)
        ]
        if any(reasons):
            rows = [f"row {row}: {reason}" for row, reason in enumerate(reasons) if reason]
            raise _invalid_input("; ".join(rows))
        return [scored.probabilities for scored in scores if scored.probabilities is not None]

    def _compute(self, data: "list[bytes | None]") -> list[ImageScore]:
        with use_default_modes():
            return list(score_images(self.network, data))


def _invalid_input(reason: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    return MlflowException(f"{reason}. {FORMATS}", INVALID_PARAMETER_VALUE)


@isolate_torch_state()
def _load_pyfunc(data_path: str) -> ImageModel:
    """Load a model directory; MLflow calls this function by its name.

    The device is MLFLOW_DEFAULT_PREDICTION_DEVICE, or `auto` if that is not set.

    Raises:
        InvalidParameterError: This machine does not have the device.
    """
    from mlflow.environment_variables import MLFLOW_DEFAULT_PREDICTION_DEVICE as PREDICTION_DEVICE

    device = find_device(PREDICTION_DEVICE.get() or AUTO_TEXT, setting=PREDICTION_DEVICE.name)
    folder = Path(data_path)
    return ImageModel(open_network(folder, device, _logger.warning), read_threshold(folder))
