"""Every network of torchvision: built, trained by one step, stored, loaded and scored.

    python -m benchmarks.zoo [PATTERN]

Prints the seconds of each network, and of building it with random values and without, as before
loading. Fails at the first one that is not equal after loading. The tests do this for all but the
largest networks.
"""

import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from benchmarks.table import format_table, make_heading
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription, write_model_directory
from trialrun.models.open import create_network, open_classifier
from trialrun.models.weights.initial import describe_initial_weights
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.catalog import list_networks
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.network import prepare_network

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
LABELS = torch.tensor([0, 2, 1, 0])
IMAGE_SIZE = 32  # or the smallest size that the network takes


def train_one_step(network: nn.Module, size: int) -> None:
    """Change every parameter by one step of SGD on random images."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
    logits = network.train()(torch.randn(len(LABELS), 3, size, size))
    nn.functional.cross_entropy(logits, LABELS).backward()
    optimizer.step()


def check_network(name: str, folder: Path) -> None:
    """Train a network by one step, store and load it.

    Raises:
        AssertionError: The loaded network computes other probabilities, or none.
    """
    size = describe_initial_weights(name, None).expected_input.choose_size(IMAGE_SIZE)
    torch.manual_seed(0)
    initial = create_network(name, len(CLASSES), image_size=size, weights=None)
    network = initial.network
    train_one_step(network, size)
    preprocessing = Preprocessing(size)
    write_model_directory(
        folder,
        ModelDescription(name, initial.description.arguments, CLASSES, preprocessing),
        serialize_state(network.state_dict()),
    )
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    trained = prepare_network(ImageClassifier(network, CLASSES, preprocessing).eval(), CPU)
    expected = trained.compute_probabilities(pixels)
    del network, trained
    loaded = prepare_network(open_classifier(folder), CPU)
    assert torch.isfinite(expected).all(), f"{name} computes no probabilities"
    difference = (loaded.compute_probabilities(pixels) - expected).abs().max()
    assert float(difference) <= 1e-6, f"{name} differs by {float(difference):g} after loading"


def measure_building(name: str) -> tuple[float, float]:
    """Return the seconds of building a network with random values, and without."""
    seconds = []
    for context in (nullcontext(), NoRandomValues()):
        started = time.perf_counter()
        with context:
            build_network(name, len(CLASSES), image_size=None)
        seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def main() -> int:
    """Check the networks and print the table."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else "*"
    rows: list[list[object]] = []
    for entry in list_networks(pattern):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            check_network(entry.name, Path(folder))
        seconds = time.perf_counter() - started
        building = measure_building(entry.name)
        rows.append([entry.name, (entry.num_params or 0) / 1e6, *building, seconds, "equal"])
    columns = (
        "network",
        "parameters, M",
        "built, s",
        "without random values, s",
        "all, s",
        "after loading",
    )
    heading = make_heading(f"{len(rows)} networks stored and loaded")
    sys.stdout.write(heading + "\n" + format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
