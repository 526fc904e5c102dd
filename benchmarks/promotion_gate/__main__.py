"""Simulated error rates of promotions, on answers of real networks and of models of networks.

    python -m benchmarks.promotion_gate [--quick] [--fashion-mnist FOLDER]

Counts false promotions (nominal: 2.5 %; target: at most 5 %), promotions of true gains (target: at
least 85 %) and intervals that cover the true value (nominal: 95 %; target: at least 93 %).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.promotion_gate import reuse
from benchmarks.promotion_gate.answers import Answers
from benchmarks.promotion_gate.cases import Case, count_false_promotions, list_cases
from benchmarks.promotion_gate.coverage import Setting, list_settings, measure_coverage
from benchmarks.promotion_gate.networks import FASHION_FOLDER, load_networks
from benchmarks.promotion_gate.power import count_promotions, list_gains
from benchmarks.promotion_gate.shares import run_tasks
from benchmarks.table import format_table, make_heading
from trialrun.config.promote import METRICS

_CACHE = Path(tempfile.gettempdir()) / "trialrun-benchmarks"


def main() -> None:
    """Run all simulations and print their tables."""
    options = _parse_options()
    os.environ["OMP_NUM_THREADS"] = "1"  # one process per core computes
    num_drawn = options.test_sets or (400 if options.quick else 4000)
    is_fashion = options.fashion_mnist.exists()
    name = "fashion-mnist" if is_fashion else "digits"
    networks = load_networks(options.fashion_mnist, _CACHE / f"answers-{name}.npz")
    started = time.monotonic()
    print(make_heading(f"Promotion gate, networks on {name}, {num_drawn} test sets per figure"))
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
    cases = list(list_cases(networks))
    tasks = [(case, metric) for case in cases for metric in case.metrics]
    counted = run_tasks(partial(count_false_promotions, *task, num_drawn) for task in tasks)
    shares = {
        (id(case), metric): str(share) for (case, metric), share in zip(tasks, counted, strict=True)
    }
    yield "False promotions, % of test sets ± Monte-Carlo error\n"
    columns = "requirement", "models", "images", "rare classes", "group size", "attempts", *METRICS
    rows = [
        (*_describe_case(case), *(shares.get((id(case), metric), "") for metric in METRICS))
        for case in cases
    ]
    yield format_table(columns, rows)
    yield f"Highest share: {100 * max(share.value for share in counted):.1f} %\n"


def _describe_case(case: Case) -> Sequence[object]:
    size = case.design.group_size
    return (
        case.requirement,
        case.models,
        case.num_images,
        case.num_rare or "",
        "" if size == 1 else size,
        case.attempts,
    )


def _show_power(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    gains = list(list_gains(networks))
    counted = run_tasks(
        partial(count_promotions, gain, metric, num_drawn) for gain in gains for metric in METRICS
    )
    yield "Promotions of true gains with `better`, % of test sets ± Monte-Carlo error (true gain)\n"
    rows = []
    for number, gain in enumerate(gains):
        shares = counted[number * len(METRICS) : (number + 1) * len(METRICS)]
        figures = [
            f"{share} ({gain.compute_difference(metric):+.3f})"
            for metric, share in zip(METRICS, shares, strict=True)
        ]
        disagreement = f"{gain.compute_disagreement():.1%}"
        rows.append((gain.models, gain.num_images, gain.compute_accuracy(), disagreement, *figures))
    yield format_table(("models", "images", "baseline", "disagree", *METRICS), rows)


def _show_coverage(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    settings = list(list_settings(networks))
    measured = run_tasks(
        partial(measure_coverage, setting, metric, num_drawn)
        for setting in settings
        for metric in METRICS
    )
    yield "Intervals of `evaluate` that cover the true value, % ± Monte-Carlo error (mean width)\n"
    rows = []
    for number, setting in enumerate(settings):
        results = measured[number * len(METRICS) : (number + 1) * len(METRICS)]
        figures = [f"{result.covered} ({result.mean_width:.3f})" for result in results]
        rows.append((*_describe_setting(setting), *figures))
    yield format_table(("model", "classes' shares", "images", "group size", *METRICS), rows)
    lowest = min(result.covered.value for result in measured)
    width = min(result.min_width for result in measured)
    yield f"Lowest coverage: {100 * lowest:.1f} %; smallest width: {width:.2g}\n"


def _describe_setting(setting: Setting) -> Sequence[object]:
    size = setting.group_size
    num_images = setting.num_units * size
    return setting.model, setting.shares_name, num_images, "" if size == 1 else size


def _show_ratchet(networks: Mapping[str, Answers], num_drawn: int) -> Iterator[str]:
    num_series = max(num_drawn // 20, 20)
    yield (
        f"{reuse.NUM_CHALLENGERS} challengers, each {reuse.LOSS:.3f} worse than its champion, on "
        f"{reuse.NUM_IMAGES} images; not-worse, margin 0.01; {num_series} series\n"
    )
    rows = []
    for churn, is_reused, has_baseline in product((0.005, 0.02), (False, True), (False, True)):
        ends = run_tasks(
            partial(reuse.run_ratchet, seed, churn, is_reused=is_reused, has_baseline=has_baseline)
            for seed in range(num_series)
        )
        accuracies = [end.accuracy for end in ends]
        rows.append(
            (
                f"{churn:.1%}",
                "the same" if is_reused else "new for each",
                "yes" if has_baseline else "no",
                sum(end.num_promoted for end in ends) / len(ends),
                f"{sum(accuracies) / len(accuracies):.4f}",
                f"{min(accuracies):.4f}",
            )
        )
    columns = (
        "disagree",
        "images",
        "compared with the best champion",
        "promoted, mean",
        "last champion's accuracy, mean",
        "lowest",
    )
    yield format_table(columns, rows)


_PARTS = {
    "false": _show_false_promotions,
    "power": _show_power,
    "coverage": _show_coverage,
    "ratchet": _show_ratchet,
}

if __name__ == "__main__":
    main()
