"""Speed, equality and gates of all engines, and the time to register a model with its parity.

    python -m benchmarks.engines [--parts speed,gate,registration]

speed: ResNet-18 with random weights and MobileNetV2 with torchvision's, at 224 pixels, in batches
of 16 and one by one, as ratios to torch in fp32 without folding, which is what scoring was before.
All engines take turns on the same pixels. gate: MobileNetV2 with a last layer fitted to half of Tux
Paint's photos of six subjects; engines are judged on the other half. registration: the seconds from
the last epoch of a ResNet-18 to its version in a local store.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.fetched import fetch_mobilenet_weights, fetch_stamps
from benchmarks.table import format_table, make_heading
from trialrun.config import build_config
from trialrun.config.engines import ENGINES
from trialrun.config.export import ExportConfig
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import build_network
from trialrun.runs.export.candidates import EngineCandidate, build_candidates, measure_speeds
from trialrun.runs.export.judgement import judge_engine
from trialrun.scoring.network import TorchNetwork, prepare_network
from trialrun.scoring.parity import compute_all, decode_images

SIZE, NUM_SUBJECTS, CALIBRATION_IMAGES = 224, 6, 200
MARGIN, MAX_CLASS_DROP = 0.02, 0.2  # about 300 test images cannot show less
FOLDED = "torch-fp32 folded"
CPU = torch.device("cpu")
COLUMNS = ("engine", "images/s", "speed-up", "speed-up, one by one", "flips", "largest difference")


def make_classifier(name: str, num_classes: int) -> ImageClassifier:
    """Return a network, with real weights if it is MobileNetV2."""
    torch.manual_seed(0)
    network = build_network(name, num_classes, image_size=SIZE)
    if name == "mobilenet_v2":
        network.load_state_dict(torch.load(fetch_mobilenet_weights(), weights_only=True))
    classes = tuple(f"{number:04}" for number in range(num_classes))
    return ImageClassifier(network, classes, Preprocessing(SIZE)).eval()


def list_photos() -> tuple[list[bytes], list[str]]:
    """Return the files and labels of the subjects with the most photos."""
    photos = {
        folder.name: sorted(folder.rglob("*.png"))
        for folder in fetch_stamps().iterdir()
        if folder.is_dir()
    }
    largest = sorted(photos, key=lambda name: -len(photos[name]))[:NUM_SUBJECTS]
    pairs = [(path.read_bytes(), name) for name in sorted(largest) for path in photos[name]]
    return [data for data, _ in pairs], [name for _, name in pairs]


def build_all(classifier: ImageClassifier, files: list[bytes]) -> list[EngineCandidate]:
    """Build the folded network and every engine."""
    folded = EngineCandidate(FOLDED, {}, prepare_network(classifier, CPU))
    return [folded, *build_candidates(classifier, ENGINES, files, lambda _: None)]


def measure_model(name: str, files: list[bytes]) -> list[list[object]]:
    """Return a row per engine."""
    classifier = make_classifier(name, 1000)
    candidates = build_all(classifier, files[:CALIBRATION_IMAGES])
    speeds = measure_speeds(classifier, candidates, files)
    images = decode_images(classifier.preprocessing, files[:CALIBRATION_IMAGES])
    expected = compute_all(TorchNetwork(classifier, CPU), images)
    rows: list[list[object]] = []
    for item in candidates:
        if item.network is None:
            rows.append([item.engine, item.problem, "-", "-", "-", "-"])
            continue
        found, speed = compute_all(item.network, images), speeds[item.engine]
        flips = int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        difference = float(np.abs(found - expected).max())
        rows.append(
            [
                item.engine,
                speed.images_per_second,
                speed.speedup,
                speed.single_speedup,
                f"{flips} of {len(images)}",
                f"{difference:.1e}",
            ]
        )
    return rows


def fit_head(classifier: ImageClassifier, images: list[Tensor], labels: NDArray[np.int64]) -> None:
    """Replace the last layer by a logistic regression on the features of images."""
    from sklearn.linear_model import LogisticRegression

    network = classifier.network
    head = network.get_submodule("classifier")
    assert isinstance(head, nn.Sequential)
    head[1] = nn.Identity()
    with torch.inference_mode():
        pixels = torch.stack(images)
        features = torch.cat(
            [classifier(classifier.preprocessing.normalised(batch)) for batch in pixels.split(16)]
        )
    probe = LogisticRegression(C=0.1, max_iter=1000).fit(features.numpy(), labels)
    linear = nn.Linear(features.shape[1], NUM_SUBJECTS)
    linear.weight.data = torch.tensor(probe.coef_, dtype=torch.float32)
    linear.bias.data = torch.tensor(probe.intercept_, dtype=torch.float32)
    head[1] = linear


def judge_photos() -> list[list[object]]:
    """Return a row per engine: its gates on the photos that did not fit the head."""
    files, labels = list_photos()
    classes = tuple(sorted(set(labels)))
    base = make_classifier("mobilenet_v2", 1000)
    images = decode_images(base.preprocessing, files)
    assert len(images) == len(labels)
    targets = np.array([classes.index(label) for label in labels])
    fit_head(base, images[::2], targets[::2])
    classifier = ImageClassifier(base.network, classes, base.preprocessing).eval()
    candidates = build_all(classifier, files[::2][:CALIBRATION_IMAGES])
    speeds = measure_speeds(classifier, candidates, files)
    expected = compute_all(TorchNetwork(classifier, CPU), images[1::2])
    settings = {"margin": MARGIN, "max_class_drop": MAX_CLASS_DROP}
    config = build_config(ExportConfig, settings)
    rows: list[list[object]] = []
    for item in candidates:
        if item.network is None:
            continue
        found = compute_all(item.network, images[1::2])
        judgement = judge_engine(item.engine, labels[1::2], classes, expected, found, config)
        outcome = "passed" if judgement.passed else judgement.describe_refusal()
        speedup = speeds[item.engine].speedup
        flips = f"{judgement.flips} of {len(expected)}"
        rows.append([item.engine, speedup, flips, judgement.format_interval(), outcome])
    return rows


def measure_registration() -> list[list[object]]:
    """Return the seconds of parity, upload and registration of a ResNet-18, and of the CPU."""
    from benchmarks.photos import write_photos
    from trialrun.runs.training import execution

    with tempfile.TemporaryDirectory() as scratch:
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
        os.environ["TRIALRUN_CACHE"] = f"{scratch}/cache"
        os.chdir(scratch)
        photos = write_photos(Path(scratch, "photos"), 48, seed=1)
        seconds: list[tuple[float, float]] = []
        add_outcome = execution.TrainingRun._log_outcome

        def log_outcome(self: object, *arguments: object) -> object:
            started, started_cpu = time.perf_counter(), time.process_time()
            result = add_outcome(self, *arguments)  # type: ignore[arg-type]
            seconds.append((time.perf_counter() - started, time.process_time() - started_cpu))
            return result

        execution.TrainingRun._log_outcome = log_outcome  # type: ignore[assignment,method-assign]
        import trialrun

        for number in range(2):
            trialrun.train(
                train_data=str(photos),
                image_size=SIZE,
                epochs=1,
                register_as="photos",
                run_name=str(number),
            )
    return [[f"run {number}", *values] for number, values in enumerate(seconds, 1)]


def main() -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default="speed,gate,registration")
    parts = parser.parse_args().parts.split(",")
    write = sys.stdout.write
    if "speed" in parts:
        files = list_photos()[0]
        for name in ("resnet18", "mobilenet_v2"):
            write(make_heading(f"Engines, {name} at {SIZE}") + "\n")
            write(format_table(COLUMNS, measure_model(name, files)) + "\n")
    if "gate" in parts:
        write(make_heading(f"Gate of engines, MobileNetV2, margin {MARGIN}") + "\n")
        columns = ("engine", "speed-up", "flips", "difference in accuracy", "outcome")
        write(format_table(columns, judge_photos()) + "\n")
    if "registration" in parts:
        write(make_heading("From the last epoch to a version, ResNet-18, seconds") + "\n")
        write(format_table(("run", "seconds", "of CPU"), measure_registration()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
