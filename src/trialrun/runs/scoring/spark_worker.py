"""The part of scoring with Spark that runs on executors: rows of images to rows of scores.

Executors need trialrun, but no MLflow store: the model comes with the Spark job.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trialrun.config import AUTO_TEXT
from trialrun.engine.compute.device import find_device
from trialrun.images.decoding.file_io import read_file
from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.open import open_classifier
from trialrun.scoring.batching import plan_batches
from trialrun.scoring.features import FeatureNetwork
from trialrun.scoring.labels import LabelRule, read_threshold
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.open import open_network
from trialrun.scoring.pipeline import score_batches
from trialrun.scoring.scores import ImageScore

if TYPE_CHECKING:
    import pyarrow as pa

# Columns of images: contents of files, paths of files, and names below a root (bytes, as Spark's
# text is UTF-8 only).
IMAGE_COLUMN, PATH_COLUMN, NAME_COLUMN = "image", "path", "_trialrun_name"
IMAGE_COLUMNS = (IMAGE_COLUMN, NAME_COLUMN)  # those that the result does not contain
# Columns of scores.
LABEL, PROBABILITIES = "_trialrun_label", "_trialrun_probabilities"
FEATURES, ERROR = "_trialrun_features", "_trialrun_error"
_LOGGER = logging.getLogger(__name__)
_FILE_SCHEME = "file:"


@dataclass(frozen=True, slots=True)
class SparkTask:
    """What an executor computes.

    `archive` is the name under which Spark has unpacked the model directory, `column` one of the
    columns of images, and `root` the folder of the names; their links may lead out of it if
    `follow_links`.
    """

    archive: str
    column: str
    root: str = ""
    device: str = AUTO_TEXT
    batch_size: int | str = AUTO_TEXT
    has_features: bool = False
    follow_links: bool = False

    def score_rows(self, batches: "Iterable[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        """Yield the rows of one partition with scores, and without the images' bytes."""
        from pyspark import SparkFiles

        folder = SparkFiles.get(self.archive)
        network = _load_network(folder, self.device, self.has_features)
        labels = LabelRule(network.classes, read_threshold(Path(folder)))
        plan = plan_batches(network, self.batch_size)
        decode = partial(self._decode, network.preprocessing)
        for batch in batches:
            values = (value.as_py() for value in batch.column(self.column))
            scored = score_batches(network, values, decode, plan)
            scores = [score for scores in scored for score in scores]
            yield _add_scores(batch, scores, labels)

    def _decode(self, preprocessing: Preprocessing, value: bytes | str | None) -> Tensor | str:
        """Return the pixels of one cell of the column, or the reason why they are missing."""
        if not value:
            return "no image"
        try:
            return preprocessing.decode(self._read_image(value))
        except UndecodableError as error:
            return str(error)

    def _read_image(self, value: bytes | str) -> bytes:
        if isinstance(value, str):
            path = Path(os.path.realpath(value.removeprefix(_FILE_SCHEME)))
            return read_file(path.parent, path.name)
        if self.column == IMAGE_COLUMN:
            return value
        return read_file(Path(self.root), os.fsdecode(value), follow_links=self.follow_links)


@lru_cache(maxsize=1)
def _load_network(folder: str, device: str, has_features: bool) -> ScoringNetwork:
    """Load the model once per process; Spark uses a process for several partitions."""
    if has_features:
        return FeatureNetwork(open_classifier(Path(folder)), find_device(device))
    return open_network(Path(folder), find_device(device), _LOGGER.warning)


def _add_scores(
    batch: "pa.RecordBatch", scores: list[ImageScore], rule: LabelRule
) -> "pa.RecordBatch":
    import pyarrow as pa

    rows = [score.probabilities for score in scores]
    labels = [None if row is None else rule.choose(row) for row in rows]
    floats = pa.list_(pa.float32())
    columns: dict[str, Any] = {
        name: batch.column(name) for name in batch.schema.names if name not in IMAGE_COLUMNS
    }
    columns[LABEL] = pa.array(labels, pa.string())
    columns[PROBABILITIES] = pa.array(rows, floats)
    columns[FEATURES] = pa.array([score.features for score in scores], floats)
    columns[ERROR] = pa.array([score.error for score in scores], pa.string())
    return pa.RecordBatch.from_pydict(columns)
