"""Runs done again, and held against each other."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.tuning.conftest import settings
from trialrun.errors import InvalidDatasetError
from trialrun.runs.inspection.compare import compare_runs
from trialrun.runs.inspection.reproduce import reproduce_run

TINY: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


def test_a_trial_of_a_search_is_reproduced(store: str, colors: Path) -> None:
    """Its sets were split by the search's seed, its weights drawn by its own."""
    search = trialrun.search(**settings(colors, trials=1, random_seed=5))
    again = reproduce_run(search.best_run_id)
    assert (again.verdict, again.data_changes) == ("identical", ())


def test_runs_that_disagree_on_a_label_are_compared_without_their_answers(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """The same images, one label corrected in between: no question for a paired test."""
    corrected = tmp_path / "corrected"
    shutil.copytree(colors, corrected)
    shutil.move(corrected / "red" / "000.png", corrected / "blue" / "red.png")
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(valid), **TINY).run_id
        for valid in (colors, corrected)
    ]
    found = compare_runs(runs)
    assert found.paired == ()
    assert found.metrics


def test_runs_on_the_same_answers_are_compared_by_them(store: str, colors: Path) -> None:
    """Each image with its label, whatever the order and the names."""
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(colors), random_seed=seed, **TINY)
        for seed in (1, 2)
    ]
    found = compare_runs([run.run_id for run in runs])
    assert {each.comparison.num_images for each in found.paired} == {36}


def test_scoring_no_image_is_told(tmp_path: Path) -> None:
    """Folders of classes without an image in them are named, before any model is opened."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    with pytest.raises(InvalidDatasetError, match="contains no images"):
        trialrun.score("no model", str(tmp_path / "data"), str(tmp_path / "scored.csv"))
