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
from trialrun.tracking.run import TrackedRun

if TYPE_CHECKING:
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
        picture.save(whole)
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


def log_table(run: TrackedRun, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store rows as the table `name`, which ends with .json; it is the run's only table."""
    import pandas as pd

    with scratch_directory() as scratch:
        path = scratch / Path(name).name
        pd.DataFrame(list(rows)).to_json(path, orient="split", index=False, date_format="iso")
        run.log_artifact(path, Path(name).parent.as_posix().removeprefix(".") or None)
    run.set_tags({TABLES_TAG: json.dumps([{"path": name, "type": "table"}])})
