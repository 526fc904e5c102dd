"""Image sets as inputs of MLflow runs."""

import json
from pathlib import Path

from tests.conftest import write_classes
from trialrun.images import open_data
from trialrun.images.scanning.scan import scan_files
from trialrun.tracking.datasets import make_dataset_input, truncate_digest


def test_dataset_input_describes_the_set(tmp_path: Path) -> None:
    """It has the digest, the counts per class and the folder; other bytes have another digest."""
    folder = write_classes(tmp_path / "set", {"ant": 2, "bée": 3})
    scan = scan_files(open_data(str(folder), tmp_path), threads=1)
    made = make_dataset_input(scan, name="train", context="training")
    assert made.dataset.digest == truncate_digest(scan) == scan.content_digest()[:36]
    assert json.loads(made.dataset.source) == {"uri": str(folder)}
    profile = json.loads(str(made.dataset.profile))
    assert profile == {"num_images": 5, "images_by_class": {"ant": 2, "bée": 3}}
    assert [(tag.key, tag.value) for tag in made.tags] == [("mlflow.data.context", "training")]
    write_classes(tmp_path / "set", {"ant": 1}, seed=99)
    changed = scan_files(open_data(str(folder), tmp_path), threads=1)
    assert truncate_digest(changed) != truncate_digest(scan)
