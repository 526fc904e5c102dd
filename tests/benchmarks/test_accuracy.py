"""The benchmark of time to accuracy: its clock, its file of results, ratios and picture."""

import math
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy.__main__ import format_set
from benchmarks.accuracy.comparison import compare, find_fastest
from benchmarks.accuracy.picture import compute_band, draw_picture
from benchmarks.accuracy.processes import measure_curve
from benchmarks.accuracy.results import Result, append_result, read_results
from benchmarks.accuracy.sets import SETS
from benchmarks.accuracy.trainers import Job, Trainer

DIGITS = SETS["digits"]


def make_result(trainer: str, seed: int, *points: tuple[float, float]) -> Result:
    """Return a result whose process ended with its last epoch."""
    return Result(
        set="digits",
        trainer=trainer,
        version="1",
        seed=seed,
        threads=2,
        points=points,
        seconds=points[-1][0],
        date="2026-11-28",
    )


def make_trainer(code: str) -> Trainer:
    """Return a trainer that is a Python program."""
    return Trainer("it", (), {}, lambda *_: [sys.executable, "-c", code])


def test_ratio_is_the_geometric_mean_over_seeds() -> None:
    """Half of the time with one seed and an eighth with another is a quarter."""
    ours = [make_result("trialrun", 1, (2.0, 0.98)), make_result("trialrun", 2, (2.0, 0.98))]
    others = [make_result("it", 1, (4.0, 0.98)), make_result("it", 2, (16.0, 0.98))]

    ratio = compare(ours, others, 0.97)

    assert ratio is not None
    assert ratio.mean == pytest.approx(0.25)
    # Student's t with one degree of freedom is 12.706; the standard error of the logs is ln 2.
    assert ratio.high == pytest.approx(0.25 * 2**12.706, rel=1e-3)


def test_ratio_to_a_process_that_misses_the_accuracy_is_an_upper_limit() -> None:
    """Such a process counts with the seconds that it ran, fewer than it would need."""
    ratio = compare(
        [make_result("trialrun", 1, (2.0, 0.98))], [make_result("it", 1, (8.0, 0.9))], 0.97
    )

    assert ratio is not None
    assert ratio.mean == pytest.approx(0.25)
    assert ratio.is_upper_limit


def test_ratio_is_infinite_if_trialrun_misses_the_accuracy() -> None:
    """A missed accuracy of trialrun cannot look like a win."""
    ratio = compare(
        [make_result("trialrun", 1, (2.0, 0.9))], [make_result("it", 1, (8.0, 0.98))], 0.97
    )

    assert ratio is not None
    assert math.isinf(ratio.mean)


def test_fastest_trainer_reached_the_accuracy_with_every_seed() -> None:
    """A trainer that was fast once and missed the accuracy once is not the fastest."""
    lucky = [make_result("lucky", 1, (1.0, 0.98)), make_result("lucky", 2, (1.0, 0.9))]
    steady = [make_result("steady", seed, (5.0, 0.98)) for seed in (1, 2)]

    assert find_fastest({"lucky": lucky, "steady": steady}, 0.97) == "steady"


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """An interrupted benchmark finds the results of its earlier processes."""
    file = tmp_path / "results.jsonl"
    results = [make_result("it", seed, (1.5, 0.5), (3.0, 0.98)) for seed in (1, 2)]

    for result in results:
        append_result(file, result)

    assert read_results(file) == results


def test_table_of_a_set_names_the_fastest_other_trainer() -> None:
    """The row has the median seconds and the ratio."""
    results = [
        make_result("trialrun", 1, (2.0, 0.98)),
        make_result("it", 1, (3.0, 0.9), (4.0, 0.98)),
    ]

    table = format_set(DIGITS, results, ["trialrun", "it"])

    assert "| it (fastest other) | 1 | 1 of 1 | 4.0 | 4.0 to 4.0 | 0.50 | - |" in table


def test_band_holds_the_best_accuracy_so_far() -> None:
    """A later epoch with a lower accuracy does not lower the line."""
    times, (_, middle, _) = compute_band([make_result("it", 1, (1.0, 0.9), (2.0, 0.8))])

    assert middle[times < 1].max() == 0
    assert middle[-1] == 0.9


def test_picture_is_a_png_of_modest_size() -> None:
    """The picture is small enough for the README."""
    results = [
        make_result(name, seed, (2.0 + seed, 0.9), (5.0 + seed, 0.98))
        for name in ("trialrun", "it")
        for seed in (1, 2)
    ]

    picture = draw_picture(results, [DIGITS], ["trialrun", "it"])

    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 100_000


def make_job(folder: Path) -> Job:
    """Return a job on the digits, whose images nobody reads."""
    return Job(DIGITS, 1, folder, folder, folder)


def test_process_is_ended_when_it_has_reached_the_accuracy(tmp_path: Path) -> None:
    """The clock stops at the line of the first epoch that is good enough."""
    code = """
import time
print("valid_accuracy=0.9")
time.sleep(0.2)
print("valid_accuracy=0.975")
time.sleep(60)
"""

    curve = measure_curve(make_trainer(code), make_job(tmp_path))

    assert [accuracy for _, accuracy in curve.points] == [0.9, 0.975]
    assert 0.2 < curve.seconds < 30


def test_process_is_ended_after_the_limit(tmp_path: Path) -> None:
    """A trainer that misses the accuracy does not run for ever."""
    code = """
import time
while True:
    print("valid_accuracy=0.5")
    time.sleep(0.1)
"""

    curve = measure_curve(make_trainer(code), make_job(tmp_path), limit_seconds=0.3)

    assert curve.find_seconds(DIGITS.accuracy) is None
    assert 0.3 <= curve.seconds < 30
