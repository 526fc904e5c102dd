"""Reproducing and comparing runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import trialrun
from tests.tuning.conftest import settings
from trialrun.runs.inspection.compare import compare_runs
from trialrun.runs.inspection.reproduce import reproduce_run

TINY: dict[str, Any] = {
    "model": "shufflenet_v2_x0_5",
    "epochs": 1,
    "batch_size": 8,
    "precision": "fp32",
}


def test_a_trial_of_a_search_is_reproduced(store: str, colors: Path) -> None:
    """The search's seed splits the data, the trial's own seed draws the weights."""
    search = trialrun.search(**settings(colors, trials=1, random_seed=5))
    repetition = reproduce_run(search.best_run_id)
    assert (repetition.verdict, repetition.data_changes) == ("identical", ())


def test_runs_that_disagree_on_a_label_have_no_paired_comparison(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """Two runs have the same images, but one label was corrected in between."""
    corrected = tmp_path / "corrected"
    shutil.copytree(colors, corrected)
    shutil.move(corrected / "red" / "000.png", corrected / "blue" / "red.png")
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(valid), **TINY).run_id
        for valid in (colors, corrected)
    ]
    comparison = compare_runs(runs)
    assert comparison.paired == ()
    assert comparison.metrics


def test_runs_with_the_same_images_have_a_paired_comparison(store: str, colors: Path) -> None:
    """Images are matched by content and label, in any order and under any name."""
    runs = [
        trialrun.train(train_data=str(colors), valid_data=str(colors), random_seed=seed, **TINY)
        for seed in (1, 2)
    ]
    comparison = compare_runs([run.run_id for run in runs])
    assert {pair.comparison.num_images for pair in comparison.paired} == {36}


def test_a_run_is_reproduced_from_another_folder(
    store: str, colors: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative paths start at the run's folder, even if they exist in the current one."""
    monkeypatch.chdir(tmp_path)
    trained = trialrun.train(train_data=colors.name, **TINY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copytree(colors / "red", tmp_path / "elsewhere" / colors.name / "red")
    assert trialrun.reproduce(trained.run_id).verdict == "identical"


def test_a_run_is_reproduced_by_its_model_version(store: str, colors: Path) -> None:
    """A version's URI identifies the run that trained it."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    assert trialrun.reproduce("models:/colors/1").verdict == "identical"
