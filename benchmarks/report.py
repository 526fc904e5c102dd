"""Time of the report at the end of a training, for 1,000 validation images.

    python -m benchmarks.report

Each round is a process that has imported torch, as a training has, and then makes the report of
ResNet-18 at 224 pixels once: metrics with intervals, pictures, Grad-CAM of the 24 worst mistakes,
and the page. The seconds include matplotlib's import and the writing of the files.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.table import format_table, make_heading

_NUM_IMAGES, _NUM_CLASSES, _SIZE, _ROUNDS = 1000, 10, 224, 5


def measure_once(num_classes: int) -> float:
    """Return the seconds that this process needs for its first report."""
    import numpy as np
    import torch

    from trialrun.images.decoding.preprocessing import Preprocessing
    from trialrun.models.classifier import ImageClassifier
    from trialrun.models.zoo.networks import build_network
    from trialrun.report.document import ReportData, build_report
    from trialrun.report.predictions import Predictions
    from trialrun.runs.evaluation.predictions import ImagePredictions
    from trialrun.runs.evaluation.report import collect_mistakes

    generator = np.random.default_rng(0)
    names = tuple(f"class {number}" for number in range(num_classes))
    network = build_network("resnet18", num_classes, image_size=_SIZE)
    classifier = ImageClassifier(network, names, Preprocessing(_SIZE)).eval()
    labels = generator.integers(0, num_classes, _NUM_IMAGES)
    probabilities = generator.dirichlet(np.full(num_classes, 0.3), _NUM_IMAGES)
    predictions = Predictions(
        names,
        labels,
        probabilities.argmax(axis=1),
        probabilities[np.arange(_NUM_IMAGES), labels],
        probabilities.max(axis=1),
    )
    files = tuple(f"{number}.png" for number in range(_NUM_IMAGES))
    images = ImagePredictions(files, files, predictions)
    pixels = torch.randint(0, 256, (3, _SIZE, _SIZE), dtype=torch.uint8)
    started = time.perf_counter()
    data = ReportData(
        title="benchmark",
        predictions=predictions,
        top5_accuracy=0.9,
        mistakes=collect_mistakes(images, lambda _position: pixels, classifier),
        curves={"loss": {"training": {epoch: 1 / epoch for epoch in range(1, 6)}}},
    )
    report = build_report(data)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {**report.pictures, "report.html": report.page.encode()}.items():
            (Path(folder) / name).write_bytes(content)
    return time.perf_counter() - started


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, help="print the seconds of one report only")
    arguments = parser.parse_args()
    if arguments.classes:
        print(measure_once(arguments.classes))
        return
    rows = []
    for num_classes in (_NUM_CLASSES, 1000):
        command = [sys.executable, "-m", "benchmarks.report", f"--classes={num_classes}"]
        seconds = [
            float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(_ROUNDS)
        ]
        rows.append((num_classes, statistics.median(seconds), min(seconds), max(seconds)))
    print(make_heading("Report of a training, 1,000 validation images"))
    print(format_table(("classes", "median s", "min s", "max s"), rows))


if __name__ == "__main__":
    main()
