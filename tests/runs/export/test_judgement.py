"""The gate of engines: sabotaged networks are refused, rounding is accepted."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trialrun.config import build_config
from trialrun.config.engines import ONNX_RUNTIME, OPENVINO_INT8
from trialrun.config.export import ExportConfig
from trialrun.runs.export.judgement import EngineJudgement, judge_engine

CLASSES = ("a", "b", "c", "d", "e")
NUM_IMAGES, NUM_FEATURES = 1000, 16
MAX_PASSED = 2  # of 50 sabotaged networks


def make_images() -> tuple[Tensor, list[str]]:
    """Return images of five classes, whose clusters overlap a little, and their labels."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(len(CLASSES), 1, NUM_FEATURES, 1, generator=generator)
    index = torch.arange(NUM_IMAGES) % len(CLASSES)
    noise = torch.randn(NUM_IMAGES, 1, NUM_FEATURES, 1, generator=generator)
    return centers[index] + 1.2 * noise, [CLASSES[number] for number in index.tolist()]


def fit_network(images: Tensor, labels: list[str]) -> nn.Sequential:
    """Return a convolutional network that is fitted to the images."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, (5, 1), padding=(2, 0)),
        nn.ReLU(),
        nn.Conv2d(16, 16, (5, 1), padding=(2, 0)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * NUM_FEATURES, len(CLASSES)),
    )
    targets = torch.tensor([CLASSES.index(label) for label in labels])
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
    return network.eval()


def scale_layer(network: nn.Sequential, seed: int) -> None:
    """Scale most of the channels of a convolution, as wrong scales of a quantization do."""
    layer = network[2 * (seed % 2)]
    assert isinstance(layer, nn.Conv2d)
    channels = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:12]
    layer.weight.data[channels] *= (0.0, 16.0, 1 / 64)[seed // 3 % 3]


def swap_classes(network: nn.Sequential, seed: int) -> None:
    """Exchange two classes of the last layer."""
    head = network[5]
    assert isinstance(head, nn.Linear)
    first, second = np.random.default_rng(seed).choice(len(CLASSES), 2, replace=False).tolist()
    for tensor in (head.weight.data, head.bias.data):
        tensor[[first, second]] = tensor[[second, first]].clone()


def clip_activations(network: nn.Sequential, seed: int) -> None:
    """Clip activations far below their range, as a calibration on black images does."""
    network[1 + 2 * (seed % 2)] = nn.Hardtanh(0.0, 0.02 * (1 + seed % 5))


SABOTAGES: tuple[Callable[[nn.Sequential, int], None], ...] = (
    scale_layer,
    swap_classes,
    clip_activations,
)


@torch.inference_mode()
def compute(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """Return the probabilities."""
    probabilities: NDArray[np.float32] = network(images).softmax(dim=1).numpy()
    return probabilities


def judge(
    labels: list[str],
    expected: NDArray[np.float32],
    found: NDArray[np.float32],
    engine: str = OPENVINO_INT8,
    num_engines: int = 1,
) -> EngineJudgement:
    """Judge with the default settings."""
    config = build_config(ExportConfig, {})
    return judge_engine(engine, labels, CLASSES, expected, found, config, num_engines)


def test_sabotaged_quantizations_are_refused() -> None:
    """Of 50 networks with a scaled layer, swapped classes or clipped activations, 2 pass."""
    images, labels = make_images()
    network = fit_network(images, labels)
    expected = compute(network, images)
    accuracy = np.mean([CLASSES[i] for i in expected.argmax(axis=1)] == np.array(labels))
    assert accuracy > 0.8
    passed = []
    for seed in range(50):
        sabotaged = copy.deepcopy(network)
        SABOTAGES[seed % len(SABOTAGES)](sabotaged, seed)
        if judge(labels, expected, compute(sabotaged, images)).passed:
            passed.append(seed)
    assert len(passed) <= MAX_PASSED, passed


def test_rounding_passes() -> None:
    """The network in bf16 and one rounded to 8 bits predict as well as the original."""
    images, labels = make_images()
    network = fit_network(images, labels)
    expected = compute(network, images)
    rounded = copy.deepcopy(network).bfloat16().float()
    quantized = copy.deepcopy(network)
    for parameter in quantized.parameters():
        step = parameter.data.abs().max() / 127
        parameter.data = (parameter.data / step).round() * step
    for other in (rounded, quantized):
        judgement = judge(labels, expected, compute(other, images))
        assert judgement.passed, judgement.describe_refusal()
        assert judgement.comparison.num_images == NUM_IMAGES


def test_engines_that_are_judged_together_share_the_error_probability() -> None:
    """Three wrong images of 1,000 pass alone; one of four engines needs stronger evidence."""
    labels = [name for name in CLASSES for _ in range(NUM_IMAGES // len(CLASSES))]
    expected = np.full((len(labels), len(CLASSES)), 0.1, dtype=np.float32)
    expected[np.arange(len(labels)), [CLASSES.index(label) for label in labels]] = 0.6
    found = expected.copy()
    wrong = [0, 300, 600]
    found[wrong] = np.roll(expected[wrong], 1, axis=1)
    alone, together = (judge(labels, expected, found, num_engines=number) for number in (1, 4))
    assert alone.passed
    assert not together.passed
    assert together.comparison.confidence == pytest.approx(0.9875)
    assert together.describe_refusal().startswith("accuracy not-worse: required 98.8% interval")
    assert together.format_interval().endswith("] at 98.8%")


@pytest.mark.parametrize(("engine", "passes"), [(ONNX_RUNTIME, False), (OPENVINO_INT8, True)])
def test_engine_in_fp32_is_held_to_parity(engine: str, passes: bool) -> None:
    """A difference of 0.001 in a probability refuses only an engine that should be exact."""
    labels = [name for name in CLASSES for _ in range(200)]
    expected = np.full((len(labels), len(CLASSES)), 0.1, dtype=np.float32)
    expected[np.arange(len(labels)), np.repeat(np.arange(len(CLASSES)), 200)] = 0.6
    found = expected.copy()
    found[0, 0] -= 0.001
    judgement = judge(labels, expected, found, engine)
    assert judgement.passed is passes
    assert judgement.flips == 0
