"""The label of an image: its most probable class, or `unknown` where the model abstains."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trialrun.models.directory import read_description
from trialrun.models.zoo.names import DESCRIPTION_FILE

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LabelRule:
    """Chooses labels; an image is answered if its largest probability reaches `threshold`."""

    classes: tuple[str, ...]
    threshold: float = 0.0

    def choose(self, probabilities: NDArray[np.floating]) -> str:
        """Return the label of an image with these (C,) probabilities."""
        best = int(probabilities.argmax())
        return self.classes[best] if probabilities[best] >= self.threshold else UNKNOWN


def read_threshold(folder: Path) -> float:
    """Return the confidence from which the model in `folder` answers; 0 if it always does.

    Raises:
        InvalidModelDirectoryError: The directory is damaged.
    """
    if not (folder / DESCRIPTION_FILE).is_file():  # a directory of Azure
        return 0.0
    description, _ = read_description(folder)
    return 0.0 if description.abstention is None else description.abstention.threshold
