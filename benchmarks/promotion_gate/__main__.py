"""Simulated error rates of promotions, on answers of real networks and of models of networks.

    python -m benchmarks.promotion_gate [--quick] [--fashion-mnist FOLDER]

Counts false promotions (nominal: 2.5 %; target: at most 5 %), promotions of true gains (target: at
least 85 %) and intervals that cover the true value (nominal: 95 %; target: at least 93 %).
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.promotion_gate import reuse
from benchmarks.promotion_gate.answers import Answers
from benchmarks.promotion_gate.cases import MARGIN, count_false_promotions, list_cases
from benchmarks.promotion_gate.coverage import list_settings, measure_coverage
from benchmarks.promotion_gate.networks import FASHION_FOLDER, load_networks
from benchmarks.promotion_gate.power import count_promotions, list_gains
from benchmarks.promotion_gate.shares import run_tasks
from benchmarks.promotion_gate.tables import Figure, is_higher, is_lower, tabulate
from benchmarks.table import format_table, make_heading
from trialrun.config.promote import METRICS

_CACHE = Path(tempfile.gettempdir()) / "trialrun-benchmarks" / "answers-fashion-mnist.npz"


def main() -> None:
    """Run all simulations and print their tables."""
    options = _parse_options()
    if not (options.fashion_mnist.exists() or _CACHE.exists()):
        sys.exit(
            "No Fashion-MNIST: install Debian's dataset-fashion-mnist, or --fashion-mnist FOLDER"
        )
    os.environ["OMP_NUM_THREADS"] = "1"  # one process per core computes
    num_drawn = options.test_sets or (400 if options.quick else 4000)
    networks = load_networks(options.fashion_mnist, _CACHE)
    started = time.monotonic()
    print(make_heading(f"Promotion gate, {num_drawn} test sets per figure"))
    for part, show in _PARTS.items():
        if part in (options.parts or _PARTS):
            print("\n".join(show(networks, num_drawn)), flush=True)
    print(f"{time.monotonic() - started:.0f} s in all")


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tenth of the test sets")
    parser.add_argument("--test-sets", type=int, help="number of test sets per figure")
    parser.add_argument("--fashion-mnist", type=Path, default=FASHION_FOLDER, help="its folder")
    parser.add_argument("--parts", nargs="*", choices=_PARTS, help="parts to run; default: all")
    return parser.parse_args()


def _show_false_promotions(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    tasks = [(case, metric) for case in list_cases(networks) for metric in case.metrics]
    shares = run_tasks(partial(count_false_promotions, *task, num_drawn) for task in tasks)
    counted = [(case, metric, share) for (case, metric), share in zip(tasks, shares, strict=True)]
    yield "False promotions, % of test sets ± Monte-Carlo error: the highest (number of images)\n"
    yield tabulate(
        ("requirement", "models", "test sets"),
        [
            Figure((case.requirement, case.models, case.kind), metric, share, f"{case.num_images}")
            for case, metric, share in counted
        ],
        is_higher,
    )
    yield "All false promotions\n"
    yield tabulate(
        ("requirement", "models", "test sets", "group size", "images"),
        [
            Figure(
                (
                    case.requirement,
                    case.models,
                    case.kind,
                    case.design.group_size,
                    case.num_images,
                ),
                metric,
                share,
            )
            for case, metric, share in counted
        ],
    )
    yield f"Highest share: {100 * max(share.value for share in shares):.1f} %\n"


def _show_power(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    tasks = list(product(list_gains(networks), METRICS))
    shares = run_tasks(partial(count_promotions, *task, num_drawn) for task in tasks)
    yield "True gains promoted by `better`, % of test sets ± Monte-Carlo error (true gain)\n"
    yield tabulate(
        ("models", "images", "baseline's accuracy", "disagree"),
        [
            Figure(
                (
                    gain.models,
                    gain.num_images,
                    gain.compute_accuracy(),
                    f"{gain.compute_disagreement():.1%}",
                ),
                metric,
                share,
                f"{gain.compute_difference(metric):+.3f}",
            )
            for (gain, metric), share in zip(tasks, shares, strict=True)
        ],
    )


def _show_coverage(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    tasks = list(product(list_settings(networks), METRICS))
    results = run_tasks(partial(measure_coverage, *task, num_drawn) for task in tasks)
    measured = [
        (setting, metric, result) for (setting, metric), result in zip(tasks, results, strict=True)
    ]
    columns = "class shares", "group size", "images"
    yield "Intervals that cover the true value, % ± Monte-Carlo error: the lowest (model)\n"
    yield tabulate(
        columns,
        [
            Figure(setting.key, metric, result.covered, setting.model)
            for setting, metric, result in measured
        ],
        is_lower,
    )
    yield "All coverages (mean width)\n"
    yield tabulate(
        ("model", *columns),
        [
            Figure(
                (setting.model, *setting.key), metric, result.covered, f"{result.mean_width:.3f}"
            )
            for setting, metric, result in measured
        ],
    )
    lowest = min(result.covered.value for result in results)
    width = min(result.min_width for result in results)
    yield f"Lowest coverage: {100 * lowest:.1f} %; smallest width: {width:.2g}\n"


def _show_ratchet(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    num_series = max(num_drawn // 20, 20)
    yield (
        f"{reuse.NUM_CHALLENGERS} challengers, each {reuse.LOSS:.3f} worse than its champion, on "
        f"{reuse.NUM_IMAGES} images; not-worse, margin {MARGIN:g}; {num_series} series\n"
    )
    columns = "disagree", "images", "compared with the best champion", "promoted, mean"
    yield format_table(
        (*columns, "last champion's accuracy, mean", "lowest"),
        [
            _summarize_series(num_series, *options)
            for options in product((0.005, 0.02), (False, True), (False, True))
        ],
    )


def _summarize_series(
    num_series: int, churn: float, is_reused: bool, has_baseline: bool
) -> tuple[object, ...]:
    ends = run_tasks(
        partial(reuse.run_ratchet, seed, churn, is_reused=is_reused, has_baseline=has_baseline)
        for seed in range(num_series)
    )
    accuracies = [end.accuracy for end in ends]
    return (
        f"{churn:.1%}",
        "the same" if is_reused else "new for each",
        "yes" if has_baseline else "no",
        sum(end.num_promoted for end in ends) / len(ends),
        f"{sum(accuracies) / len(accuracies):.4f}",
        f"{min(accuracies):.4f}",
    )


_PARTS = {
    "false": _show_false_promotions,
    "power": _show_power,
    "coverage": _show_coverage,
    "ratchet": _show_ratchet,
}

if __name__ == "__main__":
    main()
