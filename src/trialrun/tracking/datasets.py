"""Image sets as MLflow datasets: a digest of names, labels and bytes, and the class counts."""

import json
from typing import TYPE_CHECKING

from trialrun.errors import redact_credentials
from trialrun.images import ImageSet
from trialrun.images.scanning.scan import DatasetScan

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

_DIGEST_LENGTH = 36  # width of MLflow's database column
_CONTEXT_TAG = "mlflow.data.context"


def truncate_digest(scan: DatasetScan) -> str:
    """Return the content digest, cut to the length that MLflow stores."""
    return scan.content_digest()[:_DIGEST_LENGTH]


def make_dataset_input(scan: DatasetScan, *, name: str, context: str) -> "DatasetInput":
    """Return the image set as an input of a run; `context` is for example `training`."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    images = scan.images
    profile = {"num_images": len(images), "images_by_class": images.count_classes()}
    dataset = Dataset(
        name=name,
        digest=truncate_digest(scan),
        source_type="local",
        source=json.dumps({"uri": _find_address(images)}),
        schema=json.dumps({"image": "binary", "label": "string", "classes": images.classes}),
        profile=json.dumps(profile, ensure_ascii=False),
    )
    return DatasetInput(dataset, [InputTag(_CONTEXT_TAG, context)])


def _find_address(images: ImageSet) -> str:
    """Return the folder of a set, or the address of its shards without credentials."""
    return str(images.root) if images.shards is None else redact_credentials(images.shards.address)
