"""Tests of GPU steps on fake CUDA tensors, which have shapes and devices but no values.

They find tensors on the wrong device, and operations that make the host wait for the GPU.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine import evaluate, optim
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.eager_optimizers import EagerSGD
from trialrun.engine.ema import MovingAverage, compute_decay
from trialrun.engine.inputs.batches import ImageDataset, sequential_batches
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import TrainState, init_train_state
from trialrun.engine.step import TrainingStep
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.models.zoo.networks import build_network, find_head_prefix
from trialrun.scoring.network import TorchNetwork
from trialrun.scoring.pipeline import score_batch

GPU = torch.device("cuda", 0)
MPS_STAND_IN = torch.device("meta")  # tensors without values, in place of an Apple GPU
PINNED = "_pinned_for_test"
DOUBLE = torch.float64


class TransferMonitor(TorchDispatchMode):
    """Records operations that make the host wait, and float64 tensors on the device.

    The host waits for values read from the device and for copies to it from ordinary memory. The
    class also emulates operations that fake tensors lack: pinning, fused optimizers, CPU values.
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
        for output in result if isinstance(result, tuple | list) else [result]:
            if (
                isinstance(output, Tensor)
                and output.device == self.device
                and output.dtype == DOUBLE
            ):
                self.doubles.append(name)
        return result


class ZeroImages:
    """Black images."""

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, 64, 64) uint8."""
        return torch.zeros(len(rows), 3, 64, 64, dtype=torch.uint8)


def move_to(network: nn.Module, *device: Any, **layout: Any) -> nn.Module:
    """Move a network as `Module.to` does; fake tensors do not support swapping their contents."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and (device or parameter.ndim == 4):
                new = nn.Parameter(parameter.detach().to(*device, **layout))
                module._parameters[name] = new
        for name, buffer in module._buffers.items():
            if buffer is not None and device:
                module._buffers[name] = buffer.to(*device)
    return network


@pytest.fixture
def fake_tensors(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make all new tensors fake."""
    monkeypatch.setattr(nn.Module, "to", move_to)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False  # the cache would carry missing devices over to other tests
    with mode:
        yield


def build_on_device(device: torch.device) -> nn.Module:
    """Build a network on a fake device."""
    return move_to(build_network("resnet18", 2, image_size=64), device)


def make_dataset() -> ImageDataset:
    """Make a labelled set of eight images of two classes."""
    return ImageDataset(ZeroImages(), np.arange(8), np.arange(8) % 2)


def init_state(
    device: torch.device, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> TrainState:
    """Return a state before its first step; backward passes set all gradients to 0."""
    data, network = make_dataset(), build_on_device(device)
    train_data = TrainingData(data, data, 2, Preprocessing(64))

    def set_zero_gradients(_loss: Tensor) -> None:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", set_zero_gradients)  # torch's needs a real device
    compute = ComputeConfig(device, "bf16" if device == GPU else "fp32")
    return init_train_state(
        network, find_head_prefix(network), train_data, TrainConfig(**settings), compute
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
    """No value is read from the GPU, and every copy to it is asynchronous."""
    state = init_state(GPU, settings, monkeypatch)
    batch = next(sequential_batches(make_dataset(), 8))
    with TransferMonitor(GPU) as first_step_monitor:
        step = TrainingStep(state, TrainConfig(**settings), SINGLE_PROCESS, 1)
        step(batch)
    assert len(first_step_monitor.waits) <= 3  # mean, deviation, class weights: once
    with TransferMonitor(GPU) as monitor:
        totals = step(batch)
        with torch.inference_mode():
            scores = evaluate._score_batch(
                state.network, batch, state.data.preprocessing, state.compute
            )
    assert monitor.waits == []
    assert (totals.device, scores.device) == (GPU, GPU)


class FetchMonitor(TorchDispatchMode):
    """Counts copies from the GPU, and records the precision of convolutions on it."""

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
    """Pixels are copied asynchronously, and all results of a batch return in one copy."""
    classifier = ImageClassifier(build_on_device(GPU), ("a", "b"), Preprocessing(64)).eval()
    network = TorchNetwork(classifier, GPU)
    monkeypatch.setattr(Tensor, "numpy", lambda tensor: np.zeros(tensor.shape, np.float32))
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    with TransferMonitor(GPU):
        list(score_batch(network, [image]))  # copies mean and deviation to the GPU
    with FetchMonitor() as fetch_monitor, TransferMonitor(GPU) as monitor:
        scores = list(score_batch(network, [image, image, "cannot be read", image]))
    assert monitor.waits == []
    assert (fetch_monitor.num_copies, fetch_monitor.precisions) == (1, {"ieee"})
    assert [score.error for score in scores] == ["", "", "cannot be read", ""]


def test_mps_gets_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has no float64: sums are float32 there, and no other tensor is wider."""
    assert ComputeConfig(torch.device("mps"), "fp32").accumulator_dtype == torch.float32
    monkeypatch.setattr(ComputeConfig, "accumulator_dtype", torch.float32)
    # Tensors without values have no fused kernels.
    monkeypatch.setattr(
        optim, "EagerSGD", lambda groups, **kw: EagerSGD(groups, **(kw | {"fused": False}))
    )
    settings: dict[str, Any] = {"augment": "standard", "ema": 0.9, "mixup": 0.2}
    monkeypatch.setattr(EagerSGD, "step", lambda _self: None)
    state = init_state(MPS_STAND_IN, settings, monkeypatch)
    batch = next(sequential_batches(make_dataset(), 8))
    with TransferMonitor(MPS_STAND_IN) as monitor:
        totals = TrainingStep(state, TrainConfig(**settings), SINGLE_PROCESS, 1)(batch)
        with torch.inference_mode():
            evaluate._score_batch(state.network, batch, state.data.preprocessing, state.compute)
    assert monitor.doubles == []
    assert totals.device == MPS_STAND_IN


def test_moving_average_copies_nothing_to_the_device() -> None:
    """Updates make no copy to the device."""
    network = build_network("resnet18", 2, image_size=64).to(MPS_STAND_IN)
    average = MovingAverage(network, 0.9)
    average.update_parameters(network)
    with TransferMonitor(MPS_STAND_IN) as monitor:
        average.update_parameters(network)
    assert monitor.waits == []
    assert int(average.n_averaged) == 2


def test_moving_average_equals_that_of_torch() -> None:
    """Weights and batch-norm statistics equal those of torch's own update."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    ours = MovingAverage(network, 0.25)

    def update_by_torch(averages: Any, values: Any, num_averaged: Any) -> None:
        decay = compute_decay(0.25, int(num_averaged))
        get_ema_multi_avg_fn(decay)(averages, values, num_averaged)

    reference = AveragedModel(network, multi_avg_fn=update_by_torch, use_buffers=True)
    for _ in range(4):
        with torch.no_grad():
            network(torch.randn(2, 3, 8, 8))
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update_parameters(network)
        reference.update_parameters(network)
    expected = reference.module.state_dict()
    for name, value in ours.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
