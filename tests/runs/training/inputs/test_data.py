"""The image sets of a run in the cache: what other runs have decoded, and what does not fit."""

from pathlib import Path

import pytest

from tests.conftest import SMALL, write_classes
from trialrun.image_cache import Pack
from trialrun.image_cache.on_the_fly import OnTheFlyImages
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.plan import plan_training


def prepare(
    train: Path | str, valid: Path | None = None, *, seed: int = 0, data_mode: str = "auto"
) -> PreparedData:
    """Prepare the sets of a run that stores both in the same way."""
    settings = {
        "train_data": str(train),
        "model": SMALL,
        "augment": "none",
        "random_seed": seed,
        "batch_size": 4,
        "data_mode": data_mode,
    }
    if valid is not None:
        settings["valid_data"] = str(valid)
    return prepare_data(plan_training(settings), NoOpCallback())


def test_run_on_changed_labels_and_split_decodes_nothing(
    colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a class with another name nor another seed of the split needs the files again."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    assert prepare(colors).num_decoded == 36
    (colors / "red").rename(colors / "crimson")
    assert prepare(colors, seed=1).num_decoded == 0


@pytest.mark.parametrize("sizes", [(20, 6), (6, 20)])
def test_smaller_set_is_decoded_live_if_both_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, int]
) -> None:
    """The larger set stays stored, be it for training or for validation; runs decode it once."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIALRUN_CACHE_GB", str(42 * (3 * 32 * 32 + 256) / 1e9))
    names = ("train", "valid")
    folders = [
        write_classes(tmp_path / name, {"a": size, "b": size}, seed=70 * number)
        for number, (name, size) in enumerate(zip(names, sizes, strict=True))
    ]
    kinds = tuple(Pack if size == 20 else OnTheFlyImages for size in sizes)
    for num_decoded in (52, 0):
        data = prepare(*folders)
        assert (type(data.train.decoded), type(data.valid.decoded)) == kinds
        assert data.num_decoded == num_decoded
