"""A GPU's steps, dry: on fake CUDA tensors, which have shapes and devices but no values.

They tell where a tensor is on the wrong device, and where the host would wait for the GPU.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from trialrun.config import TrainConfig
from trialrun.distributed import ALONE
from trialrun.engine import evaluate, optim
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.ema import MovingAverage, ema_decay
from trialrun.engine.inputs.batches import ImageDataset, sequential_batches
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import TrainState, init_train_state
from trialrun.engine.step import TrainingStep
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo import build_network, find_head_prefix
from trialrun.scoring import _score_batch

GPU = torch.device("cuda", 0)
NOWHERE = torch.device("meta")  # tensors without values, for lack of an Apple
PINNED = "_pinned_for_test"
DOUBLE = torch.float64


class Watch(TorchDispatchMode):
    """Notes what makes the host wait: values read off a GPU, copies from ordinary memory to it.

    And tensors on it that are wider than float32.

    What fake tensors cannot do is answered here: pinning, fused optimizers, values on the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.waits: list[str] = []
        self.doubles: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, options = func.overloadpacket.__name__, dict(kwargs or {})
        if name in ("pin_memory", "_pin_memory"):  # the first in inference mode
            setattr(args[0], PINNED, True)
            return args[0]
        if name.startswith("_fused"):
            assert options["found_inf"].device == self.device
            assert options["found_inf"].dtype == torch.float32
            return None
        if name == "bincount":
            return torch.ones(args[2], dtype=torch.int64)
        if name == "_local_scalar_dense" and isinstance(args[0], FakeTensor):
            if args[0].device == self.device:
                self.waits.append(f"{name} of {tuple(args[0].shape)}")
            return 0.5
        result = func(*args, **options)
        waits = not (options.get("non_blocking") and hasattr(args[0], PINNED))
        if name == "_to_copy" and args[0].device != self.device == result.device and waits:
            self.waits.append(f"copy of {tuple(args[0].shape)}")
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor) and made.device == self.device and made.dtype == DOUBLE:
                self.doubles.append(name)
        return result


class Blank:
    """Images without values."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, 64, 64) uint8."""
        return torch.zeros(len(rows), 3, 64, 64, dtype=torch.uint8)


def moved(network: nn.Module, *place: Any, **layout: Any) -> nn.Module:
    """`Module.to` for fake tensors, which do not let their contents be swapped."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (place or parameter.ndim == 4):
                new = nn.Parameter(parameter.detach().to(*place, **layout))
                module._parameters[name] = new
        for name, buffer in module._buffers.items():
            if buffer is not None and place:
                module._buffers[name] = buffer.to(*place)
    return network


@pytest.fixture
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake tensors wherever tensors are made."""
    monkeypatch.setattr(nn.Module, "to", moved)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False  # it would keep devices that are not there from test to test
    with mode:
        yield


def on_device(device: torch.device) -> nn.Module:
    """A network on a fake device."""
    return moved(build_network("resnet18", 2, image_size=64), device)


def one_batch() -> ImageDataset:
    """Eight images of two classes."""
    return ImageDataset(Blank(), np.arange(8), np.arange(8) % 2)


def begun(
    device: torch.device, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> TrainState:
    """A training that has not made a step yet; its backward passes leave gradients of 0."""
    data, network = one_batch(), on_device(device)
    task = TrainingData(data, data, 2, Preprocessing(64))

    def no_gradient(_loss: Tensor) -> None:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", no_gradient)  # the real one wants a real device
    compute = ComputeConfig(device, "bf16" if device == GPU else "fp32")
    return init_train_state(
        network, find_head_prefix(network), task, TrainConfig(**settings), compute
    )


SETTINGS = (
    {"augment": "none"},
    {"augment": "flip", "mixup": 0.2},
    {"augment": "standard", "class_weights": "balanced", "optimizer": "adamw"},
    {"augment": "standard", "label_smoothing": 0.1},
)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:.*data pointer of FakeTensor")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.usefixtures("fake_tensors")
def test_neither_step_nor_validation_waits_for_the_gpu(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value is read off the GPU, and every copy to it takes its turn."""
    state = begun(GPU, settings, monkeypatch)
    batch = next(sequential_batches(one_batch(), 8))
    with Watch(GPU) as constants_move:
        step = TrainingStep(state, TrainConfig(**settings), ALONE, 1)
        step(batch)
    assert len(constants_move.waits) <= 3  # mean, deviation, class weights: once
    with Watch(GPU) as watch:
        totals = step(batch)
        with torch.inference_mode():
            judged = evaluate._score_batch(
                state.network, batch, state.task.preprocessing, state.compute
            )
    assert watch.waits == []
    assert (totals.device, judged.device) == (GPU, GPU)


class Fetches(TorchDispatchMode):
    """Counts copies off the GPU, and notes the precision of convolutions on it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_copies = 0
        self.precisions: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_to_copy" and args[0].device == GPU and result.device != GPU:
            self.num_copies += 1
        if "conv" in name:
            backends: Any = torch.backends
            self.precisions.add(backends.cudnn.conv.fp32_precision)
        return result


@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:.*data pointer of FakeTensor")
@pytest.mark.usefixtures("fake_tensors")
def test_scoring_waits_for_the_gpu_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels go there without waiting, in full fp32; all results of a batch return together."""
    classifier = ImageClassifier(on_device(GPU), ("a", "b"), Preprocessing(64)).eval()
    monkeypatch.setattr(Tensor, "numpy", lambda given: np.zeros(given.shape, np.float32))
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with Watch(GPU):
        list(_score_batch(classifier, [image]))  # mean and deviation move
    with Fetches() as fetches, Watch(GPU) as watch:
        scores = list(_score_batch(classifier, [image, image, "cannot be read", image]))
    assert watch.waits == []
    assert (fetches.num_copies, fetches.precisions) == (1, {"ieee"})
    assert [each.error for each in scores] == ["", "", "cannot be read", ""]


def test_apples_gpu_is_asked_for_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has no float64: sums are kept in float32 there, and nothing else is wider."""
    assert ComputeConfig(torch.device("mps"), "fp32").accumulator_dtype == torch.float32
    monkeypatch.setattr(ComputeConfig, "accumulator_dtype", torch.float32)
    # What has no values has no fused kernels either.
    monkeypatch.setattr(optim, "SGD", lambda groups, **kw: SGD(groups, **(kw | {"fused": False})))
    settings: dict[str, Any] = {"augment": "standard", "ema": 0.9, "mixup": 0.2}
    monkeypatch.setattr(SGD, "step", lambda _self: None)
    state = begun(NOWHERE, settings, monkeypatch)
    batch = next(sequential_batches(one_batch(), 8))
    with Watch(NOWHERE) as watch:
        totals = TrainingStep(state, TrainConfig(**settings), ALONE, 1)(batch)
        with torch.inference_mode():
            evaluate._score_batch(state.network, batch, state.task.preprocessing, state.compute)
    assert watch.doubles == []
    assert totals.device == NOWHERE


def test_moving_average_brings_nothing_to_the_device() -> None:
    """Updates stay where the network is."""
    network = build_network("resnet18", 2, image_size=64).to(NOWHERE)
    average = MovingAverage(network, 0.9)
    average.update_parameters(network)
    with Watch(NOWHERE) as watch:
        average.update_parameters(network)
    assert watch.waits == []
    assert int(average.n_averaged) == 2


def test_moving_average_is_torchs() -> None:
    """Weights and batch-norm statistics are what torch's own update makes of them."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours = MovingAverage(network, 0.25)

    def torchs_average(averages: Any, values: Any, num_averaged: Any) -> None:
        decay = ema_decay(0.25, int(num_averaged))
        get_ema_multi_avg_fn(decay)(averages, values, num_averaged)

    theirs = AveragedModel(network, multi_avg_fn=torchs_average, use_buffers=True)
    for _ in range(4):
        with torch.no_grad():
            network(torch.randn(2, 3, 8, 8))
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_parameters(network)
        theirs.update_parameters(network)
    expected = theirs.module.state_dict()
    for name, value in ours.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
