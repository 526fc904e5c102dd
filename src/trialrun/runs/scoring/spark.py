"""Scoring with Spark: partitions of images are scored on the executors.

The executors need trialrun installed. The model directory travels with the Spark job. Images are
files at paths that every executor can read, or bytes in the data frame.
"""

import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidParameterError, summarize_error
from trialrun.extras import import_extra
from trialrun.images import ImageSet
from trialrun.models.open import open_classifier
from trialrun.registry import find_model_folder
from trialrun.runs.scoring.columns import ERROR_COLUMN, ScoredItem
from trialrun.runs.scoring.draft import Progress, open_draft
from trialrun.runs.scoring.job import ScoreResult, ScoringJob, build_result, write_rows
from trialrun.runs.scoring.spark_worker import (
    ERROR,
    FEATURES,
    IMAGE_COLUMN,
    IMAGE_COLUMNS,
    LABEL,
    NAME_COLUMN,
    PATH_COLUMN,
    PROBABILITIES,
    SparkTask,
)
from trialrun.scoring.scores import LABEL_COLUMN, ImageScore, probability_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

_POSITION = "_trialrun_position"
_PARTITION_IMAGES = 2000  # at most; a partition that fails is scored again
_PARTITIONS_PER_CORE = 4  # so that cores with fast partitions take more of them
_PYTHON_VARIABLE = "PYSPARK_PYTHON"
_ROWS_PER_MESSAGE = 256  # between Spark and its Python processes
_HINT = (
    "Every executor needs trialrun[spark] and the files of the images under the same paths; see "
    "docs/scoring.md."
)


def score_frame(frame: "DataFrame", model: str) -> "DataFrame":
    """Add the columns of scores to a Spark data frame with a column `image` or `path`.

    Raises:
        InvalidParameterError: It has neither column, or pyspark is not installed.
        InvalidModelDirectoryError: See `load_model`.
        TrackingError: See `load_model`.
    """
    functions = import_extra("pyspark.sql.functions", "spark", needed_by="score_frame")
    folder = find_model_folder(model)
    with isolate_torch_state():
        classes = open_classifier(folder).classes
    column = _find_image_column(frame, classes)
    with _ignore_pandas_warning():
        scored = _map_frame(frame, SparkTask(_send_model(frame, folder), column))
    others = [name for name in frame.columns if name != IMAGE_COLUMN]
    probabilities = [
        functions.col(PROBABILITIES)[index].cast("double").alias(name)
        for index, name in enumerate(probability_columns(classes))
    ]
    result: DataFrame = scored.select(
        *(functions.col(f"`{name}`") for name in others),
        *probabilities,
        functions.col(LABEL).alias(LABEL_COLUMN),
        functions.col(ERROR).alias(ERROR_COLUMN),
    )
    return result


def _find_image_column(frame: "DataFrame", classes: tuple[str, ...]) -> str:
    """Return the column of images, after a check that scoring adds none that exists.

    Raises:
        InvalidParameterError: The column of images is missing, or scoring adds one of its name.
    """
    if not {IMAGE_COLUMN, PATH_COLUMN} & set(frame.columns):
        raise InvalidParameterError(
            f"the data frame has no column {IMAGE_COLUMN} or {PATH_COLUMN}, but {frame.columns}",
            "Name the column of file contents image, or the column of file names path.",
        )
    added = {*probability_columns(classes), LABEL_COLUMN, ERROR_COLUMN}
    if taken := sorted(added & set(frame.columns)):
        raise InvalidParameterError(
            f"the data frame has the columns {taken}, which scoring adds", "Rename them first."
        )
    return IMAGE_COLUMN if IMAGE_COLUMN in frame.columns else PATH_COLUMN


def check_files(images: ImageSet) -> None:
    """Check that the images are files, which executors can read.

    Raises:
        InvalidParameterError: They are in shards.
    """
    if images.shards is not None:
        raise InvalidParameterError(
            f"the images of {images.source} are in shards, which Spark's executors cannot read",
            "Leave spark at none, or write an ImageDirectory with `trialrun data convert`.",
        )


def score_with_spark(job: ScoringJob, master: str) -> ScoreResult:
    """Score the images of a job on the executors of `master`, and write the table here.

    Raises:
        InvalidParameterError: Spark or Java is missing, or the job fails on the executors.
        TrialrunError: See `score_data`.
    """
    check_files(job.images)
    with _ignore_pandas_warning():
        return _score_job(job, master)


def _score_job(job: ScoringJob, master: str) -> ScoreResult:
    classes = open_classifier(job.folder).classes
    outputs = job.list_outputs(job.build_columns(classes))
    with open_session(master) as session, _translate_spark_errors(master):
        names = _build_frame(session, job)
        task = SparkTask(
            _send_model(names, job.folder),
            NAME_COLUMN,
            str(job.images.root),
            job.config.device,
            job.config.batch_size,
            has_features=job.config.embeddings is not None,
            follow_links=job.images.follow_links,
        )
        frame = _map_frame(names, task)
        with _keep_rows(frame) as kept, open_draft(outputs) as draft:
            draft.begin(Progress("spark", 1))
            write_rows(draft, outputs, _read_rows(kept, job))
            draft.finish()
            return build_result(job, classes, draft, num_continued=0)


@contextmanager
def _ignore_pandas_warning() -> Iterator[None]:
    """Ignore that Spark has not been tested with this pandas: only Arrow data are exchanged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        yield


@contextmanager
def open_session(master: str) -> "Iterator[SparkSession]":
    """Open a Spark session on `master`, or use the one of this process.

    Raises:
        InvalidParameterError: pyspark or Java is not installed, or Spark does not start.
    """
    sql = import_extra("pyspark.sql", "spark", needed_by=f"spark={master}")
    if _find_java() is None:
        raise InvalidParameterError(
            f"spark={master} needs Java, which was not found",
            "Install Java 17 or later, or set JAVA_HOME to its folder.",
        )
    active = sql.SparkSession.getActiveSession()
    builder = sql.SparkSession.builder.master(master).appName("trialrun score")
    for name, value in _list_options(master).items():
        builder = builder.config(name, value)
    with _translate_spark_errors(master), _choose_python(master):
        session = active or builder.getOrCreate()
    try:
        yield session
    finally:
        if active is None:
            session.stop()


@contextmanager
def _choose_python(master: str) -> Iterator[None]:
    """Let the executors of a local master run this Python, unless PYSPARK_PYTHON names another.

    pyspark reads the variable when a session starts, and otherwise runs the `python3` of PATH.
    """
    if not master.startswith("local") or _PYTHON_VARIABLE in os.environ:
        yield
        return
    os.environ[_PYTHON_VARIABLE] = sys.executable
    try:
        yield
    finally:
        del os.environ[_PYTHON_VARIABLE]


def _find_java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=os.path.join(home, "bin") if home else None)  # noqa: PTH118


def _list_options(master: str) -> dict[str, str]:
    """Return Spark's settings: few messages, and for a local master this host."""
    options = {
        "spark.log.level": "ERROR",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(_ROWS_PER_MESSAGE),
    }
    if master.startswith("local"):
        options |= {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
        }
    return options


@contextmanager
def _translate_spark_errors(master: str) -> Iterator[None]:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        raise InvalidParameterError(f"spark={master}: {_find_cause(error)}", _HINT) from error


def _find_cause(error: Exception) -> str:
    """Return the last line of a Python error on an executor, else the error's first line."""
    lines = str(error).splitlines()
    starts = [i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")]
    for line in lines[starts[-1] + 1 :] if starts else ():
        if line and not line[0].isspace():
            return line
    return summarize_error(error)


def _build_frame(session: "SparkSession", job: ScoringJob) -> "DataFrame":
    """Return a frame with the position and the path of each image, in many partitions."""
    context = session.sparkContext
    names = [(row, os.fsencode(item.name)) for row, item in enumerate(job.rows)]
    num_partitions = max(
        _PARTITIONS_PER_CORE * context.defaultParallelism, -(-len(names) // _PARTITION_IMAGES)
    )
    rows = context.parallelize(names, min(num_partitions, len(names)))
    return session.createDataFrame(rows, f"{_POSITION} long, {NAME_COLUMN} binary")


def _send_model(frame: "DataFrame", folder: Path) -> str:
    """Add the model directory to the files that Spark unpacks on executors; return its name."""
    from pyspark import SparkFiles

    # Executors fetch the archive when they need it. Spark deletes this folder with the session.
    name = f"trialrun-model-{secrets.token_hex(6)}"
    archive = shutil.make_archive(os.path.join(SparkFiles.getRootDirectory(), name), "zip", folder)  # noqa: PTH118
    frame.sparkSession.sparkContext.addArchive(f"{archive}#{name}")
    return name


def _map_frame(frame: "DataFrame", task: SparkTask) -> "DataFrame":
    """Return the frame with the columns of scores, computed on the executors."""
    types = import_extra("pyspark.sql.types", "spark", needed_by="score_frame")
    floats = types.ArrayType(types.FloatType())
    fields = [field for field in frame.schema.fields if field.name not in IMAGE_COLUMNS]
    fields += [
        types.StructField(LABEL, types.StringType()),
        types.StructField(PROBABILITIES, floats),
        types.StructField(FEATURES, floats),
        types.StructField(ERROR, types.StringType()),
    ]
    return frame.mapInArrow(task.score_rows, types.StructType(fields))


@contextmanager
def _keep_rows(frame: "DataFrame") -> "Iterator[DataFrame]":
    """Compute all partitions at once, on the executors' disks, and delete them at the end.

    Reading rows in their order computes one partition at a time.
    """
    from pyspark import StorageLevel

    kept = frame.persist(StorageLevel.DISK_ONLY)
    try:
        kept.count()
        yield kept
    finally:
        kept.unpersist()


def _read_rows(frame: "DataFrame", job: ScoringJob) -> Iterator[list[ScoredItem]]:
    """Yield the scores of the images in their order."""
    rows = frame.toLocalIterator(prefetchPartitions=True)
    for position, row in enumerate(rows):
        assert row[_POSITION] == position, "Spark keeps the order of partitions and of their rows"
        yield [ScoredItem(job.rows[position], _build_score(row))]


def _build_score(row: "Row") -> ImageScore:
    if row[PROBABILITIES] is None:
        return ImageScore(None, row[ERROR])
    features = row[FEATURES]
    return ImageScore(
        np.asarray(row[PROBABILITIES], np.float32),
        features=None if features is None else np.asarray(features, np.float32),
    )
