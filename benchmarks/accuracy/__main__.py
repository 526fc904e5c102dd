"""Seconds until a stated validation accuracy: trialrun and other trainers with their own recipes.

    python -m benchmarks.accuracy --environments FOLDER [--timm-train FILE] [--sets digits photos]
        [--seeds 5] [--only trialrun fastai] [--results FILE] [--picture FILE] [--threads 2]
        [--limit-ratio 4] [--to-the-end]
    python -m benchmarks.accuracy --results FILE --only-print [--picture FILE]

The clock starts with the process (imports and decoding count) and stops at the line of the first
epoch whose validation accuracy is at least the stated one (`sets.SETS`); the process is then ended,
unless `--to-the-end`. All trainers train the same network on the same files, split by the seed,
without augmentation and with the same number of threads; `trainers` has their recipes. They take
turns, each seed in another order. Each process adds a line to the file of results; those that the
file has are not run again. With `--limit-ratio`, a process is ended after so many times the longest
time that trialrun has taken on the set; its trainer's ratio is then an upper limit. timm's
`train.py` is not in its package: give the path of the file from its repository, or timm is left
out.
"""

import argparse
import datetime
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.comparison import compare, find_fastest, format_ratio, summarize
from benchmarks.accuracy.picture import write_picture
from benchmarks.accuracy.processes import measure_curve
from benchmarks.accuracy.results import Result, append_result, read_results, select
from benchmarks.accuracy.sets import SETS, ImageSet, remove_caches, write_set
from benchmarks.accuracy.trainers import OURS, TRAINERS, Job, Trainer, make_timm_trainer
from benchmarks.environments import read_version
from benchmarks.table import format_table, make_heading


def main() -> int:
    """Measure what the file of results lacks, and print the tables."""
    arguments = parse_arguments()
    trainers = [*TRAINERS]
    if arguments.timm_train is not None:
        trainers.append(make_timm_trainer(arguments.timm_train.resolve()))
    if arguments.only:
        trainers = [trainer for trainer in trainers if trainer.name in arguments.only]
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    if not arguments.only_print:
        measure(trainers, arguments)
    results = read_results(arguments.results)
    names = [trainer.name for trainer in trainers]
    sets = [SETS[name] for name in arguments.sets if any(r.set == name for r in results)]
    threads = ", ".join(sorted({str(result.threads) for result in results}))
    sys.stdout.write(make_heading(f"Time to accuracy, threads: {threads}"))
    for images in sets:
        sys.stdout.write("\n" + format_set(images, results, names))
    if arguments.picture is not None:
        write_picture(arguments.picture, results, sets, names)
    return 0


def parse_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--environments", type=Path, default=Path(".peers"))
    parser.add_argument("--timm-train", type=Path)
    parser.add_argument("--sets", nargs="+", choices=[*SETS], default=[*SETS])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="the names of the trainers to run")
    parser.add_argument("--results", type=Path, default=Path("accuracy.jsonl"))
    parser.add_argument("--picture", type=Path, help="the PNG file to write")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch")
    parser.add_argument("--limit-ratio", type=float, default=math.inf)
    parser.add_argument("--to-the-end", action="store_true", help="train all epochs")
    parser.add_argument("--only-print", action="store_true", help="measure nothing")
    return parser.parse_args()


def measure(trainers: Sequence[Trainer], arguments: argparse.Namespace) -> None:
    """Run each trainer on each set with each seed, unless the file has its result."""
    environments = arguments.environments.absolute()
    versions = {trainer.name: find_version(trainer, environments) for trainer in trainers}
    for seed in range(1, arguments.seeds + 1):
        turn = (seed - 1) % len(trainers)
        order = [*trainers[turn:], *trainers[:turn]]
        for name in arguments.sets:
            done = select_done(arguments.results, name, seed)
            missing = [trainer for trainer in order if trainer.name not in done]
            if not missing:
                continue
            with tempfile.TemporaryDirectory(prefix="trialrun-benchmark-") as scratch:
                folder = write_set(name, seed, Path(scratch) / "images")
                for trainer in missing:
                    job = Job(SETS[name], seed, folder, Path(scratch) / trainer.name, environments)
                    append_result(
                        arguments.results, run(trainer, job, versions[trainer.name], arguments)
                    )


def select_done(file: Path, set_name: str, seed: int) -> set[str]:
    """Return the trainers that the file of results has for a set and a seed."""
    return {r.trainer for r in read_results(file) if (r.set, r.seed) == (set_name, seed)}


def find_limit(images: ImageSet, arguments: argparse.Namespace) -> float:
    """Return the seconds after which a process is ended; infinite before trialrun's first."""
    ours = select(read_results(arguments.results), images.name, OURS)
    longest = max((result.seconds for result in ours), default=math.inf)
    return float(longest * arguments.limit_ratio)


def run(trainer: Trainer, job: Job, version: str, arguments: argparse.Namespace) -> Result:
    """Run one process and report it on standard error."""
    job.scratch.mkdir()
    remove_caches(job.folder)
    limit = find_limit(job.images, arguments)
    curve = measure_curve(trainer, job, to_the_end=arguments.to_the_end, limit_seconds=limit)
    result = Result(
        set=job.images.name,
        trainer=trainer.name,
        version=version,
        seed=job.seed,
        threads=arguments.threads,
        points=curve.points,
        seconds=curve.seconds,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )
    points = ", ".join(f"{accuracy:.3f} at {seconds:.1f} s" for seconds, accuracy in curve.points)
    print(f"{result.set}, seed {job.seed}, {trainer.name}: {points}", file=sys.stderr, flush=True)
    return result


def find_version(trainer: Trainer, environments: Path) -> str:
    """Return the version of the trainer's package in its environment, which is made if missing."""
    python = trainer.find_python(environments)
    return read_version(python, trainer.packages[0] if trainer.packages else OURS)


def format_set(images: ImageSet, results: Sequence[Result], names: Sequence[str]) -> str:
    """Return the table of a set."""
    by_trainer = {name: select(results, images.name, name) for name in names}
    ours = by_trainer.get(OURS, ())
    peers = {name: found for name, found in by_trainer.items() if name != OURS}
    fastest = find_fastest(peers, images.accuracy)
    rows = []
    for name, found in by_trainer.items():
        if not found:
            continue
        ratio = None if name == OURS else compare(ours, found, images.accuracy)
        title = f"{name} (fastest other)" if name == fastest else name
        cells = (*summarize(found, images.accuracy), *format_ratio(ratio))
        rows.append([title, found[0].version, *cells])
    columns = ("trainer", "version", "reached", "median, s", "range, s", "trialrun / it", "95 %")
    heading = f"{images.title}, from {'pretrained' if images.is_pretrained else 'random'} weights, "
    return f"{heading}to {images.accuracy:.2f}:\n\n{format_table(columns, rows)}"


if __name__ == "__main__":
    sys.exit(main())
