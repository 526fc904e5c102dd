"""Repetition of a training step with a non-finite loss, to find the layer and images at fault."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep

INPUT, LOSS = "the input", "the loss"


@dataclass(frozen=True, slots=True)
class NonFiniteStep:
    """The first place in a step where a value is not finite.

    `layer` is the layer's name, `INPUT` or `LOSS`. `positions`, (M,), are the images whose values
    are not finite there, as positions in the training set. `largest_before` is the largest
    absolute value that went into the layer. `has_finite_weights` concerns the layer's own weights.
    """

    layer: str
    kind: str  # the layer's class
    positions: NDArray[np.int64]
    largest_before: float
    has_finite_weights: bool


@dataclass(slots=True)
class _FirstFault:
    """Collects the first layer with a non-finite output, and its images in all parts."""

    layer: str = ""
    kind: str = ""
    rows: list[int] = field(default_factory=list)  # of the batch
    part_start: int = 0
    part_end: int = 0
    largest_before: float = 0.0
    has_finite_weights: bool = True

    def inspect(
        self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: object
    ) -> None:
        """Keep this layer if its output is the first that is not finite."""
        is_known = bool(self.layer)
        if is_known and name != self.layer:
            return
        if not isinstance(output, Tensor) or bool(output.isfinite().all()):
            return
        rows = (self.part_start + row for row in _find_rows(output))
        self.rows = sorted({*self.rows, *rows})
        if is_known:
            return
        self.layer, self.kind = name, type(module).__name__
        before = [value for value in inputs if isinstance(value, Tensor)]
        self.largest_before = max((_find_largest(value) for value in before), default=0.0)
        self.has_finite_weights = all(bool(p.isfinite().all()) for p in module.parameters())


def replay_step(
    state: TrainState, config: TrainConfig, positions: NDArray[np.int64]
) -> NonFiniteStep | None:
    """Compute the loss of the images at `positions` again; None if it is finite this time.

    Args:
        state: The state before the step, torch's generators included. Its weights do not change.
        config: The settings of the run.
        positions: (N,), the images of the step in the training set.
    """
    batch = state.data.train.load_batch(positions, len(positions))
    state.set_training()
    epoch = state.epoch + 1
    step = TrainingStep(state, config, SINGLE_PROCESS, epoch, state.choose_image_size(epoch))
    fault = _FirstFault()
    with _inspect_layers(state.trainable, fault):
        losses = [step.compute_loss(part)[0] for part in step.split_batch(batch, len(positions))]
    return None if all(map(torch.isfinite, losses)) else _describe(fault, positions)


def _describe(fault: _FirstFault, positions: NDArray[np.int64]) -> NonFiniteStep:
    """Return what was found; without a layer it is the loss, which all images share."""
    if not fault.layer:
        return NonFiniteStep(LOSS, "CrossEntropyLoss", positions, 0.0, has_finite_weights=True)
    return NonFiniteStep(
        fault.layer,
        fault.kind,
        positions[[row for row in fault.rows if row < len(positions)]],
        fault.largest_before,
        fault.has_finite_weights,
    )


@contextmanager
def _inspect_layers(module: nn.Module, fault: _FirstFault) -> Iterator[None]:
    """Pass the input and the outputs of all layers to `fault` in the block."""
    handles = [module.register_forward_pre_hook(partial(_inspect_input, fault))]
    for name, layer in module.named_modules():
        if not list(layer.children()):
            handles.append(layer.register_forward_hook(partial(fault.inspect, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inspect_input(fault: _FirstFault, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
    fault.part_start, fault.part_end = fault.part_end, fault.part_end + len(inputs[0])
    fault.inspect(INPUT, nn.Identity(), inputs, inputs[0])


def _find_rows(output: Tensor) -> list[int]:
    """Return the rows of a batch, its first dimension, that hold a value that is not finite."""
    rows = (~output.isfinite()).flatten(1).any(dim=1) if output.ndim > 1 else ~output.isfinite()
    found: list[int] = torch.nonzero(rows).flatten().tolist()
    return found


def _find_largest(values: Tensor) -> float:
    finite = values.detach()[values.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0
