"""The pyfunc over `scoring`: what `mlflow models serve` loads.

A model directory carries a copy of this room and of those below it that it needs, so that it serves
where trialrun is not installed.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.models.classifier import ImageClassifier
from trialrun.models.open import open_classifier
from trialrun.scoring import LABEL_COLUMN, probability_columns, score

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMN = "image"


class ImageModel:
    """A classifier as MLflow calls it: a frame with a binary `image` column in, scores out."""

    def __init__(self, classifier: ImageClassifier) -> None:
        self.classifier = classifier

    def predict(
        self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None
    ) -> "pd.DataFrame":
        """A row an image: `Scored Probabilities_<class>` columns and `Scored Labels`.

        Raises:
            MlflowException: There is no `image` column, or an image cannot be read; a server
                answers 400.
        """
        import pandas as pd

        if IMAGE_COLUMN not in model_input:
            raise _refused(f"the input has no column named {IMAGE_COLUMN}")
        scores = list(score(self.classifier, map(_as_bytes, model_input[IMAGE_COLUMN])))
        unreadable = [f"row {row}: {s.error}" for row, s in enumerate(scores) if s.error]
        if unreadable:
            raise _refused("; ".join(unreadable))
        classes = self.classifier.classes
        table = pd.DataFrame(
            [scored.probabilities for scored in scores],
            columns=probability_columns(classes),
            dtype="float64",
        )
        best = table.to_numpy().argmax(axis=1) if len(table) else []
        table[LABEL_COLUMN] = pd.Series([classes[i] for i in best], dtype=object)
        return table


def _as_bytes(value: object) -> bytes | None:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else None


def _refused(reason: str) -> Exception:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    return MlflowException(reason, INVALID_PARAMETER_VALUE)


def _load_pyfunc(data_path: str) -> ImageModel:
    """MLflow's entry: the model in a ModelDirectory."""
    return ImageModel(open_classifier(Path(data_path)))
