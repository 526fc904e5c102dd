"""Whether decoded images are cached or decoded in every epoch, and shards that are sorted."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trialrun
from tests.conftest import SMALL
from tests.engine.conftest import InMemoryImages
from tests.runs.training.inputs.test_pixels import prepare
from tests.runs.training.test_run import QUICK, read_run
from trialrun.cache.location import decoded_folder
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.stream_order import Sharding
from trialrun.errors import StorageError
from trialrun.image_cache.entries import list_summaries
from trialrun.runs.training.inputs.data_mode import find_uniform_shards

ONE_EPOCH: dict[str, Any] = QUICK | {"model": SMALL, "epochs": 1}


@pytest.mark.slow
def test_streamed_images_train_as_cached_ones(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that decodes in every epoch caches no pixels, records it, and gets the same weights."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    streamed = trialrun.train(train_data=str(colors), data_mode="stream", **ONE_EPOCH)
    assert {entry.image_size for entry in list_summaries(decoded_folder())} == {0}
    cached = trialrun.train(train_data=str(colors), data_mode="cache", **ONE_EPOCH)
    assert streamed.weights_sha256 == cached.weights_sha256
    modes = [
        read_run(store, run.run_id).data.params["resolved_data_mode"] for run in (streamed, cached)
    ]
    assert modes == ["stream", "cache"]
    run = read_run(store, streamed.run_id)
    assert run.data.metrics["images_read"] == int(run.data.params["num_train_images"])


def test_a_stream_says_what_an_epoch_reads(colors: Path) -> None:
    """The number of images of an epoch and of skipped ones is noted for each set."""
    prepared, notes = prepare(colors, data_mode="stream")
    (note,) = [text for text in notes if f"reads and decodes {len(prepared.train.dataset)}" in text]
    assert note.endswith("images, each once, and skips 0 that cannot be read")


def test_a_cache_without_room_is_an_error_if_it_is_asked_for(
    colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """data_mode=cache fails where auto decodes in every epoch."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "0")
    with pytest.raises(StorageError, match="data_mode=cache"):
        prepare(colors, data_mode="cache")
    _, notes = prepare(colors)
    assert any("each epoch reads and decodes" in note for note in notes)


@pytest.mark.parametrize(("is_sorted", "has_note"), [(True, True), (False, False)])
def test_shards_that_are_sorted_by_class_are_noted(is_sorted: bool, has_note: bool) -> None:
    """Shards of one class each are named, and shards that mix classes are not."""
    labels = np.random.default_rng(0).integers(0, 20, 4000)
    labels = np.sort(labels) if is_sorted else labels
    sharding = Sharding(np.arange(4000) // 20, lambda _numbers: None)
    data = ImageDataset(
        InMemoryImages(1, seed=0), np.arange(4000), labels.astype(np.int64), sharding=sharding
    )
    note = find_uniform_shards("s3://data", data)
    assert (note is not None) == has_note
    assert note is None or note.startswith("s3://data: ")
