"""Tests of gradient accumulation: parts of a batch give the gradient of the whole batch."""

import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.engine.memory.conftest import (
    DATA,
    LimitedMemory,
    build_norm_network,
    build_plain_network,
    init_state,
)
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.fit import fit
from trialrun.engine.inputs.batches import sequential_batches
from trialrun.engine.memory.accumulation import count_max_parts, count_valid_images
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep
from trialrun.errors import OutOfMemoryError

LOSSES: list[dict[str, Any]] = [
    {},
    {"class_weights": "balanced", "label_smoothing": 0.1},
    {"mixup": 0.4, "cutmix": 0.7},
    {"mixup": 0.4, "augment": "standard", "label_smoothing": 0.2},
]


def compute_gradients(num_parts: int, settings: dict[str, Any]) -> tuple[list[Tensor], Tensor]:
    """Return the gradients and the totals of one batch of 11 images."""
    config = TrainConfig(batch_size=11, accumulate_steps=num_parts, **settings)
    state = init_state(build_plain_network(nn.Dropout(0.0)), config)
    step = TrainingStep(state, config, SINGLE_PROCESS, 1)
    torch.manual_seed(5)
    state.set_training()
    totals, _ = step.compute_gradients(next(sequential_batches(DATA.train, 11)), 11)
    return [p.grad for p in state.network.parameters() if p.grad is not None], totals


@pytest.mark.parametrize("settings", LOSSES, ids=str)
@pytest.mark.parametrize("num_parts", [2, 3, 4, 11, 100])
def test_parts_give_the_gradient_of_the_whole_batch(
    num_parts: int, settings: dict[str, Any]
) -> None:
    """Gradient, loss and accuracy are equal up to rounding, also with parts of unequal size."""
    whole, totals = compute_gradients(1, settings)
    parts, part_totals = compute_gradients(num_parts, settings)
    assert len(whole) == 4
    for gradient, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(part_totals, totals, rtol=1e-6, atol=0)


@pytest.mark.parametrize("accumulate_steps", [3, 8])
def test_training_in_parts_takes_the_same_steps(accumulate_steps: int) -> None:
    """Steps, learning rates, average, clipping and metrics equal those of whole batches."""
    results = []
    for num_parts in (1, accumulate_steps):
        config = TrainConfig(
            epochs=2, batch_size=8, accumulate_steps=num_parts, ema=0.9, clip_grad_norm=0.3
        )
        state = init_state(build_plain_network(), config)
        epochs = [(e.train_loss, e.learning_rate, e.valid_loss) for e in fit(state, config)]
        assert state.ema is not None
        results.append((epochs, state.scheduler.last_epoch, list(state.ema.module.parameters())))
    (whole, steps, weights), (parts, part_steps, part_weights) = results
    assert steps == part_steps == 10  # five batches, twice
    for epoch, expected in zip(parts, whole, strict=True):
        assert epoch == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(part_weights, weights, rtol=1e-4, atol=1e-5)


def test_parts_have_two_images_with_batch_norm() -> None:
    """A batch of 8 is computed in four parts at most; in eight without batch norm."""
    config = TrainConfig(batch_size=8, accumulate_steps=100)
    limit = LimitedMemory(8)
    state = init_state(build_norm_network(limit), config)
    next(fit(state, config))
    assert limit.calls[:4] == [2, 2, 2, 2]
    assert count_max_parts(3, state) == 1
    assert count_max_parts(8, init_state(build_plain_network(), config)) == 8


def test_statistics_of_batch_norm_average_the_parts() -> None:
    """After a step, the buffers hold the mean of the parts' statistics, weighted by images."""
    config = TrainConfig(batch_size=8, accumulate_steps=3)
    state = init_state(build_norm_network(), config)
    seen: list[Tensor] = []
    norm = state.network.get_submodule("2")
    norm.register_forward_hook(lambda _norm, inputs, _output: seen.append(inputs[0].detach()))
    step = TrainingStep(state, config, SINGLE_PROCESS, 1)
    state.set_training()
    step(next(sequential_batches(DATA.train, 8)))
    assert [len(part) for part in seen] == [3, 3, 2]
    means = [part.mean((0, 2, 3)) for part in seen]
    variances = [part.var((0, 2, 3)) for part in seen]
    for name, values in (("running_mean", means), ("running_var", variances)):
        expected = (3 * values[0] + 3 * values[1] + 2 * values[2]) / 8
        torch.testing.assert_close(norm.get_buffer(name), expected)
    assert state.batch_norm_statistics is not None
    averages = state.batch_norm_statistics.list_averages()  # the first step has weight 1
    torch.testing.assert_close(averages[0], norm.get_buffer("running_mean"))


def test_non_finite_loss_of_a_part_stops_before_the_step() -> None:
    """The weights stay as they were."""
    config = TrainConfig(batch_size=8, accumulate_steps=4)
    state = init_state(build_plain_network(), config)
    before = [p.clone() for p in state.network.parameters()]

    calls: list[int] = []

    def spoil_last_part(_layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        calls.append(len(inputs[0]))
        return output * float("nan") if len(calls) == 4 else output

    state.network.get_submodule("0").register_forward_hook(spoil_last_part)
    with pytest.raises(NonFiniteLossError):
        next(fit(state, config))
    assert len(calls) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, state.network.parameters(), strict=True))


def train_two_epochs(accumulate_steps: int | str, max_images: int) -> tuple[TrainState, list[Any]]:
    """Train a network with batch norm and dropout that has memory for `max_images` images."""
    config = TrainConfig(
        epochs=2, batch_size=8, accumulate_steps=accumulate_steps, mixup=0.4, ema=0.9
    )
    limit = LimitedMemory(max_images)
    # The limit comes last: a failed try has drawn numbers and changed statistics by then.
    network = build_norm_network(nn.Dropout(0.3), limit)
    state = init_state(network, config)
    results = [(e.train_loss, e.valid_loss, e.train_accuracy) for e in fit(state, config)]
    return state, [results, limit.calls]


def test_auto_finds_the_number_of_parts_without_a_trace_of_failed_tries() -> None:
    """Memory for three images: 1 and 2 parts fail; then all is bit for bit as with 4 parts."""
    auto, (results, calls) = train_two_epochs("auto", 3)
    fixed, (expected, _) = train_two_epochs(4, 8)
    assert auto.num_parts == 4
    assert calls[:7] == [8, 4, 2, 2, 2, 2, 2]
    assert results == expected
    assert auto.inference_model().state_dict().keys() == fixed.inference_model().state_dict().keys()
    for name, value in auto.network.state_dict().items():
        assert torch.equal(value, fixed.network.state_dict()[name]), name


def test_auto_computes_whole_batches_if_they_fit() -> None:
    """Results are bit for bit those of accumulate_steps=1."""
    auto, (results, _) = train_two_epochs("auto", 8)
    fixed, (expected, _) = train_two_epochs(1, 8)
    assert (auto.num_parts, results) == (1, expected)
    for name, value in auto.network.state_dict().items():
        assert torch.equal(value, fixed.network.state_dict()[name]), name


def test_auto_raises_when_the_smallest_part_does_not_fit() -> None:
    """With memory for one image, a part of two images under batch norm is too large."""
    with pytest.raises(OutOfMemoryError):
        train_two_epochs("auto", 1)


def test_fixed_number_of_parts_is_not_changed() -> None:
    """accumulate_steps=2 raises instead of taking more parts."""
    with pytest.raises(OutOfMemoryError):
        train_two_epochs(2, 3)


def test_validation_halves_batches_that_do_not_fit() -> None:
    """Validation batches of 16 images do not fit in the memory for 8; the losses are the same."""
    config = TrainConfig(epochs=2, batch_size=8)
    results = []
    for max_images in (8, 100):
        limit = LimitedMemory(max_images)
        state = init_state(build_plain_network(limit), config)
        results.append([(e.train_loss, e.valid_loss) for e in fit(state, config)])
        num_failed = sum(size > max_images for size in limit.calls)
        assert num_failed == (1 if max_images == 8 else 0)  # the size is kept for later epochs
    for limited, unlimited in zip(*results, strict=True):
        assert limited == pytest.approx(unlimited, rel=1e-6)


def test_validation_of_parts_has_batches_of_twice_a_part() -> None:
    """Four parts of two images: validation takes four at a time."""
    config = TrainConfig(batch_size=8, accumulate_steps=4)
    state = init_state(build_plain_network(), config)
    assert count_valid_images(config, state) == 4


def test_failed_try_frees_its_tensors() -> None:
    """Before the step is repeated, no tensor of the failed try exists any more."""
    alive: list[int] = []

    class Counter(LimitedMemory):
        def forward(self, images: Tensor) -> Tensor:
            alive.append(sum(reference() is not None for reference in references))
            references.append(weakref.ref(images))
            return super().forward(images)

    references: list[weakref.ref[Tensor]] = []
    config = TrainConfig(epochs=1, batch_size=8, accumulate_steps="auto")
    next(fit(init_state(build_plain_network(Counter(3)), config), config))
    assert alive[1:3] == [0, 0]
