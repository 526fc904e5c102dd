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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from trialrun.config import TrainConfig
from trialrun.distributed import ALONE
from trialrun.engine.batches import LabelledPixels, ordered_batches
from trialrun.engine.evaluate import _judged
from trialrun.engine.precision import Arithmetic
from trialrun.engine.state import begin
from trialrun.engine.step import TrainingStep
from trialrun.engine.task import Task
from trialrun.images.preprocessing import Preprocessing
from trialrun.models.zoo import build, head_prefix

GPU = torch.device("cuda", 0)
PINNED = "_pinned_for_test"


class Waits(TorchDispatchMode):
    """Notes what makes the host wait: values read off the GPU, copies from ordinary memory to it.

    What fake tensors cannot do is answered here: pinning, fused optimizers, values on the CPU.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, options = func.overloadpacket.__name__, dict(kwargs or {})
        if name in ("pin_memory", "_pin_memory"):  # the first in inference mode
            setattr(args[0], PINNED, True)
            return args[0]
        if name.startswith("_fused"):
            assert options["found_inf"].device == GPU
            assert options["found_inf"].dtype == torch.float32
            return None
        if name == "bincount":
            return torch.ones(args[2], dtype=torch.int64)
        if name in ("_local_scalar_dense", "nonzero"):
            if args[0].device == GPU:
                self.seen.append(f"{name} of {tuple(args[0].shape)}")
            return 0.5
        result = func(*args, **options)
        waits = not (options.get("non_blocking") and hasattr(args[0], PINNED))
        if name == "_to_copy" and args[0].device != GPU and result.device == GPU and waits:
            self.seen.append(f"copy of {tuple(args[0].shape)}")
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
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fake tensors wherever tensors are made."""
    monkeypatch.setattr(nn.Module, "to", moved)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False  # it would keep devices that are not there from test to test
    with mode:
        yield


def on_gpu() -> nn.Module:
    """A network on the fake GPU."""
    return moved(build("resnet18", 2, image_size=64), GPU)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available", "ignore:.*data pointer of FakeTensor")
@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "none"},
        {"augment": "flip", "mixup": 0.2},
        {"augment": "standard", "class_weights": "balanced", "optimizer": "adamw"},
        {"augment": "standard", "ema": 0.9, "label_smoothing": 0.1},
    ],
)
@pytest.mark.usefixtures("fake_gpu")
def test_neither_step_nor_validation_waits_for_the_gpu(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No value is read off the GPU, and every copy to it takes its turn."""
    data = LabelledPixels(Blank(), np.arange(8), np.arange(8) % 2)
    task = Task(data, data, 2, Preprocessing(64))
    config, network = TrainConfig(**settings), on_gpu()
    # A deep copy of fake tensors breaks Python's heap.
    monkeypatch.setattr("torch.optim.swa_utils.deepcopy", lambda _: on_gpu())
    state = begin(network, head_prefix(network), task, config, Arithmetic(GPU, "bf16"))

    def no_gradient(_loss: Tensor) -> None:
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(Tensor, "backward", no_gradient)  # the real one wants a real GPU
    batch = next(ordered_batches(data, 8))
    with Waits() as constants_move:
        step = TrainingStep(state, config, ALONE, 1)
        step(batch)
    assert len(constants_move.seen) <= 3  # mean, deviation, class weights: once
    with Waits() as waits:
        totals = step(batch)
        with torch.inference_mode():
            judged = _judged(network, batch, task.preprocessing, state.math)
    assert waits.seen == []
    assert (totals.device, judged.device) == (GPU, GPU)
