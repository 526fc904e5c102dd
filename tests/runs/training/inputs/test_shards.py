"""Runs on shards: the same data as a folder, cached or streamed, on this machine or in a store."""

from pathlib import Path
from typing import Any

import fsspec
import mlflow
import numpy as np
import pytest

import trialrun
from tests.conftest import SMALL, write_classes
from tests.images.shards.examples import make_png, write_tar
from tests.runs.training.inputs.test_data import prepare
from tests.runs.training.test_run import QUICK, read_run
from trialrun.config.shard import ShardConfig
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.image_cache.stream import StreamedImages
from trialrun.images.decoding.file_io import read_item
from trialrun.runs.datasets.shard import shard_dataset
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.scoring.spark import check_files

ONE_EPOCH: dict[str, Any] = QUICK | {"model": SMALL, "epochs": 1}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use an empty cache folder."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shards(colors: Path, tmp_path: Path) -> Path:
    """Return shards of the coloured images."""
    shard_dataset(str(colors), str(tmp_path / "shards"), config=ShardConfig())
    return tmp_path / "shards"


def _read_digests(store: str, run_id: str) -> list[str]:
    inputs = read_run(store, run_id).inputs
    assert inputs is not None
    return sorted(entry.dataset.digest for entry in inputs.dataset_inputs)


def test_run_on_shards_records_the_data_of_the_folder(
    store: str, colors: Path, shards: Path, tmp_path: Path
) -> None:
    """Both sets have the folder's digests; the model scores the shards, under the same names."""
    runs = [
        trialrun.train(**ONE_EPOCH | {"train_data": str(data), "data_mode": mode})
        for data, mode in ((colors, "cache"), (shards, "cache"), (shards, "stream"))
    ]
    digests = [_read_digests(store, run.run_id) for run in runs]
    assert digests[0] == digests[1] == digests[2]
    assert runs[1].metrics["valid_loss"] > 0
    output = tmp_path / "scored.csv"
    result = trialrun.score(f"runs:/{runs[2].run_id}/model", str(shards), str(output))
    assert (result.num_images, result.num_errors) == (36, 0)
    assert "red/000.png" in output.read_text()
    evaluated = trialrun.evaluate(f"runs:/{runs[2].run_id}/model", str(shards))
    assert mlflow.get_run(evaluated.run_id).info.status == "FINISHED"


def test_images_decoded_from_a_folder_are_not_decoded_from_its_shards(
    own_cache: None, colors: Path, shards: Path
) -> None:
    """The cache knows them by the hashes that the index has."""
    assert prepare(colors).num_decoded == 36
    assert prepare(shards).num_decoded == 0


def test_shards_in_a_store_are_read_and_streamed(own_cache: None, shards: Path) -> None:
    """Their images are those of the local shards; a stream reads them in the order of shards."""
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/remote/set", recursive=True)
    local, remote = open_source(str(shards)), open_source("memory://remote/set")
    assert list(local.items) == list(remote.items)
    contents = [[read_item(s, item).data for item in s.items] for s in (local, remote)]
    assert contents[0] == contents[1]
    data = prepare("memory://remote/set", data_mode="stream")
    assert isinstance(data.train.dataset.source, StreamedImages)
    pixels = data.train.dataset.source.pixels(data.train.dataset.rows[:4])
    cached = prepare(shards).train
    np.testing.assert_array_equal(pixels, cached.dataset.source.pixels(cached.dataset.rows[:4]))


def test_shards_of_other_tools_are_scanned_once(
    own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without recorded hashes each image is read for the first run, whatever its split."""
    for shard in range(2):
        files: dict[str, bytes] = {}
        for number in range(10):
            label = b"ab"[number % 2 : number % 2 + 1]
            files |= {f"{shard}{number}.png": make_png(shard * 10 + number)}
            files |= {f"{shard}{number}.cls": label}
        write_tar(tmp_path / "set" / f"{shard:04}.tar", files)
    assert prepare(tmp_path / "set").num_decoded == 20
    monkeypatch.setattr("trialrun.images.scanning.scan._scan_file", None)
    assert prepare(tmp_path / "set", seed=3).num_decoded == 0


def test_changed_image_in_a_shard_is_an_error(own_cache: None, shards: Path) -> None:
    """An image whose bytes are not those that the index records is not used under its name."""
    shard = next(shards.glob("*.tar"))
    content = bytearray(shard.read_bytes())
    place = content.index(b"IDAT") + 10
    content[place] ^= 1
    shard.write_bytes(content)
    with pytest.raises(InvalidDatasetError, match="changed while it was being read"):
        prepare(shards)


def test_shard_that_vanishes_ends_the_run(own_cache: None, tmp_path: Path) -> None:
    """Its images are not left out."""
    root = write_classes(tmp_path / "set", {"a": 120, "b": 120}, size=64)
    shard_dataset(str(root), str(tmp_path / "out"), config=ShardConfig(shard_size_mb=1))
    images = open_source(str(tmp_path / "out"))
    next((tmp_path / "out").glob("*.tar")).unlink()
    with pytest.raises(InvalidDatasetError, match=r"shard-.*\.tar cannot be read"):
        [read_item(images, item) for item in images.items]
    with pytest.raises(InvalidDatasetError, match=r"lacks \d of \d shards, such as shard-"):
        prepare(tmp_path / "out")


def test_spark_does_not_score_shards(shards: Path) -> None:
    """Its executors read files only; the error says what to do."""
    with pytest.raises(InvalidParameterError, match="are in shards"):
        check_files(open_source(str(shards)))
