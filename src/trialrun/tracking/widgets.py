"""Images and tables that MLflow's UI shows in widgets of its own.

The files and tags are those of MLflow's `log_image` and `log_table`, as records of the run: they
wait in its journal, and a resumed run that repeats a step writes the same files again.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trialrun.files import scratch_directory
from trialrun.mlflow_client import translate_tracking_errors
from trialrun.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from PIL.Image import Image

IMAGES_TAG, TABLES_TAG = "mlflow.loggedImages", "mlflow.loggedArtifacts"
IMAGES_FOLDER = "images"
_THUMBNAIL_SIDE = 256  # pixels


def log_image(run: TrackedRun, picture: "Image", *, key: str, step: int, timestamp_ms: int) -> None:
    """Store a picture and its thumbnail, which the image grid shows at `step` of `key`.

    `key` has letters, digits, `_`, `-` and `.` only.
    """
    stem = f"{key}+step+{step}+timestamp+{timestamp_ms}+{_make_id(key, step)}"
    with scratch_directory() as scratch:
        whole, thumbnail = scratch / f"{stem}.png", scratch / f"{stem}+compressed.webp"
        picture.save(whole, compress_level=1)  # three times as fast, a tenth larger
        _shrink(picture).save(thumbnail)
        for path in (whole, thumbnail):
            run.log_artifact(path, IMAGES_FOLDER)
    run.set_tags({IMAGES_TAG: "True"})


def _make_id(key: str, step: int) -> uuid.UUID:
    """Return the same id whenever a run logs the step; MLflow draws a random one."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{key} {step}")


def _shrink(picture: "Image") -> "Image":
    """Return the picture with a longer side of 256 pixels, as MLflow does."""
    scale = _THUMBNAIL_SIDE / max(picture.size)
    width, height = picture.size
    size = (_THUMBNAIL_SIDE, int(height * scale))
    return picture.resize(size if width > height else (int(width * scale), _THUMBNAIL_SIDE))


def log_table(
    run: TrackedRun,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    others: Sequence[Mapping[str, str]] = (),
) -> None:
    """Store rows as the table `name`, which ends with .json; `others` is from `list_tables`."""
    import pandas as pd

    with scratch_directory() as scratch:
        path = scratch / Path(name).name
        pd.DataFrame(list(rows)).to_json(path, orient="split", index=False, date_format="iso")
        run.log_artifact(path, Path(name).parent.as_posix().removeprefix(".") or None)
    table = {"path": name, "type": "table"}
    tables = [*others, *([] if table in others else [table])]
    run.set_tags({TABLES_TAG: json.dumps(tables)})


def list_tables(client: "MlflowClient", run_id: str) -> list[dict[str, str]]:
    """Return the tables that a run has, as its tag describes them.

    Raises:
        TrackingError: The run cannot be read.
    """
    with translate_tracking_errors(f"run {run_id} cannot be read"):
        tags = client.get_run(run_id).data.tags
    tables: list[dict[str, str]] = json.loads(tags.get(TABLES_TAG, "[]"))
    return tables
