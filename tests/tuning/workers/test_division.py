"""The division of processors among workers, on machines described by files."""

from pathlib import Path
from typing import Any

import pytest

from tests.tuning.conftest import settings
from trialrun.tuning.plan import SearchPlan, plan_search
from trialrun.tuning.workers import division
from trialrun.tuning.workers.division import divide_processors, find_largest_side


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root of a machine with 8 processors and 64 GiB of free memory."""
    monkeypatch.setattr(division, "count_threads", lambda: 8)
    write_memory(tmp_path, gibibytes=64)
    return tmp_path


def write_memory(root: Path, *, gibibytes: int) -> None:
    """Write how much memory a machine has free."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    kilobytes = gibibytes << 20
    (root / "proc/meminfo").write_text(f"MemAvailable: {kilobytes} kB\nSwapFree: 0 kB\n")


def plan(colors: Path, **more: Any) -> SearchPlan:
    """Plan a search whose number of workers is chosen by rule."""
    return plan_search(settings(colors, **{"workers": "auto", **more}))


@pytest.mark.parametrize(
    ("image_size", "workers", "threads"),
    [("32", 8, 1), ("128", 8, 1), ("160", 4, 2), ("400", 1, 8)],
)
def test_larger_images_get_fewer_workers_with_more_threads(
    image_size: str, workers: int, threads: int, machine: Path, colors: Path
) -> None:
    """A thread is enough for 128 by 128 pixels."""
    found = divide_processors(plan(colors, image_size=image_size), 100, machine)
    assert (found.num_workers, found.num_threads) == (workers, threads)
    assert found.reason == f"{image_size} pixels"


def test_the_largest_searched_size_counts(machine: Path, colors: Path) -> None:
    """All trials have the same number of threads."""
    assert find_largest_side(plan(colors, image_size="32,400")) == 400


def test_the_size_of_images_counts_without_a_setting(machine: Path, colors: Path) -> None:
    """image_size=auto is not larger than the images."""
    assert find_largest_side(plan(colors)) <= 64


def test_no_more_workers_than_trials_start(machine: Path, colors: Path) -> None:
    """Two remaining trials get two workers, which share all processors."""
    found = divide_processors(plan(colors), 2, machine)
    assert (found.num_workers, found.num_threads) == (2, 4)
    assert found.text() == "workers=auto: 2 trials at a time, 4 threads for each (number of trials)"


def test_workers_fit_into_the_free_memory(machine: Path, colors: Path) -> None:
    """Each worker needs a process and the tensors of its largest batch."""
    write_memory(machine, gibibytes=3)
    assert divide_processors(plan(colors), 100, machine).num_workers == 2
    write_memory(machine, gibibytes=0)
    assert divide_processors(plan(colors), 100, machine).num_workers == 1


def test_a_finished_search_needs_one_worker(machine: Path, colors: Path) -> None:
    """It finds the queue finished."""
    assert divide_processors(plan(colors), 0, machine).num_workers == 1


@pytest.mark.parametrize(
    ("num_trials", "workers", "threads"), [(48, 1, 8), (95, 1, 8), (96, 2, 4), (1000, 8, 1)]
)
def test_short_trials_of_a_frozen_backbone_share_few_processes(
    num_trials: int, workers: int, threads: int, machine: Path, colors: Path
) -> None:
    """A further process must train at least 48 trials of the last layer."""
    found = divide_processors(plan(colors, freeze="backbone"), num_trials, machine)
    assert (found.num_workers, found.num_threads) == (workers, threads)


def test_workers_of_a_frozen_backbone_fit_into_the_free_memory(machine: Path, colors: Path) -> None:
    """They need no tensors of whole networks, but a process each."""
    write_memory(machine, gibibytes=3)
    found = divide_processors(plan(colors, freeze="backbone"), 1000, machine)
    assert (found.num_workers, found.reason) == (3, "free memory")


def test_the_user_s_number_of_workers_is_used(machine: Path, colors: Path) -> None:
    """Also if it exceeds the number of processors."""
    found = divide_processors(plan(colors, workers=16), 2, machine)
    assert (found.num_workers, found.num_threads, found.reason) == (16, 1, "")


def test_drivers_without_a_gpu_leave_the_cpu(machine: Path, colors: Path) -> None:
    """A driver's file alone is no GPU that torch can use."""
    (machine / "dev").mkdir()
    (machine / "dev/nvidia0").touch()
    import torch

    expected = torch.cuda.device_count() or 8
    found = divide_processors(plan(colors, device="auto"), 100, machine)
    assert found.num_workers == expected
