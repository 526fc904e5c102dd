"""Tests of opened models and their measurements."""

import tracemalloc
from pathlib import Path

import torch

from tests.conftest import SMALL, write_classes, write_model
from trialrun.runs.evaluation.candidates import open_candidate
from trialrun.runs.evaluation.predictions import open_labelled_data

FILE_BYTES = 3 * 128 * 128


def test_latency_does_not_read_the_whole_test_set(tmp_path: Path) -> None:
    """30 images are enough, however many the test set has."""
    from PIL import Image

    folder = write_classes(tmp_path / "data", {"a": 60, "b": 60}, size=128)
    for path in folder.rglob("*.png"):
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    scan = open_labelled_data(str(folder))
    write_model(tmp_path / "model", SMALL, ("a", "b"))
    candidate = open_candidate(str(tmp_path / "model"), torch.device("cpu"), allow_model_code=False)
    tracemalloc.start()
    assert candidate.measure_latency_ms(scan) > 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 90 * FILE_BYTES
