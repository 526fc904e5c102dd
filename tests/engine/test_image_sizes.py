"""Tests of progressive resizing: sizes by epoch, statistics, and what the network sees."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.batch_norm import compute_momentum
from trialrun.engine.evaluation_check import find_evaluation_fault
from trialrun.engine.fit import fit
from trialrun.engine.image_sizes import SizeSchedule, count_uncounted_epochs, plan_image_sizes
from trialrun.engine.inputs.augment import augment_batch, resize_square
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.memory.forecast import measure_bytes_per_image
from trialrun.engine.memory.full_size import try_full_batch
from trialrun.engine.snapshot import capture_generators
from trialrun.engine.state import TrainState, init_train_state
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.state_hash import hash_state
from trialrun.models.zoo.networks import build_network, find_head_prefix

DATA = TrainingData(make_dataset(24), make_dataset(9, seed=1), 3, Preprocessing(SIZE))
CONFIG = TrainConfig(epochs=2, batch_size=8, progressive_resize=16)


def init_state(config: TrainConfig = CONFIG, data: TrainingData = DATA) -> TrainState:
    """Return the state of a small network before its first epoch."""
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    return init_train_state(network, find_head_prefix(network), data, config, CPU)


@given(
    first=st.integers(1, 600),
    full=st.integers(2, 600),
    num_epochs=st.integers(1, 300),
    num_head_epochs=st.integers(0, 50),
)
def test_sizes_grow_from_the_first_to_the_full_one(
    first: int, full: int, num_epochs: int, num_head_epochs: int
) -> None:
    """The first half has the first size, the last third the full one; in between sizes rise."""
    assume(first < full)
    schedule = SizeSchedule(first, full, num_head_epochs + num_epochs, num_head_epochs)
    sizes = [schedule.choose_size(epoch) for epoch in range(1, schedule.num_epochs + 1)]
    assert set(sizes[:num_head_epochs]) <= {full}
    sizes = sizes[num_head_epochs:]
    assert sizes == sorted(sizes)
    assert set(sizes[2 * num_epochs // 3 :]) == {full}
    assert sizes[-1] == full
    if num_epochs > 1:
        assert set(sizes[: (num_epochs + 1) // 2]) == {first}
    between = set(sizes) - {first, full}
    assert all(first < size < full and size % schedule.step == 0 for size in between)
    starts = [num_head_epochs + sizes.index(size) + 1 for size in dict.fromkeys(sizes)]
    assert schedule.list_sizes() == list(zip(dict.fromkeys(sizes), starts, strict=True))
    mean = np.mean(np.square(sizes))
    assert schedule.average_pixels(num_head_epochs + 1) == pytest.approx(mean)


def test_run_of_five_epochs_takes_half_the_operations() -> None:
    """Operations grow as the number of pixels; `on` is half the size."""
    schedule = plan_image_sizes(TrainConfig(progressive_resize="on"), 224)
    assert str(schedule) == "112 (epochs 1 to 3), 224 (epochs 4 to 5)"
    assert schedule is not None
    assert schedule.average_pixels(1) / 224**2 == pytest.approx(0.55)


@pytest.mark.parametrize(
    "settings", [{"progressive_resize": "off"}, {"epochs": 1}, {"freeze": "backbone"}], ids=str
)
def test_without_small_epochs_there_are_no_sizes(settings: dict[str, object]) -> None:
    """The setting is off, a single epoch has the full size, or the last layer trains alone."""
    assert plan_image_sizes(replace(CONFIG, **settings), SIZE) is None  # type: ignore[arg-type]


def test_first_size_above_the_image_size_is_refused() -> None:
    """Also where the images decide on the full size."""
    with pytest.raises(InvalidParameterError, match=r"=32 is not below the image size \(32"):
        plan_image_sizes(replace(CONFIG, progressive_resize=32), 32)


def test_patience_counts_at_the_full_size_only() -> None:
    """Of ten epochs after two of the last layer, the last four count."""
    config = TrainConfig(epochs=12, batch_size=8, progressive_resize="on", freeze_epochs=2)
    assert count_uncounted_epochs(config) == 8
    assert count_uncounted_epochs(replace(config, progressive_resize="off")) == 2
    assert count_uncounted_epochs(replace(config, freeze="backbone")) == 0


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "onecycle"])
def test_learning_rate_falls_at_the_full_size_only(schedule: str) -> None:
    """With a rate that had fallen before, the network would hardly adapt to the full size."""
    state = init_state(replace(CONFIG, epochs=6, schedule=schedule, warmup_fraction=0.1))
    [factor, *_] = state.scheduler.lr_lambdas
    first, last = 3 * 4, 3 * 6  # three steps per epoch, sizes 16 in four epochs and 32 in two
    assert {factor(step) for step in range(2, first + 1)} == {1.0}
    falling = [factor(step) for step in range(first, last)]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.2


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "strong"])
def test_steps_have_small_images_and_validation_full_ones(augment: str) -> None:
    """The images of an epoch have its size, and the result names it."""
    config = replace(CONFIG, augment=augment)
    state = init_state(config)
    seen: dict[bool, list[int]] = {True: [], False: []}

    def record_size(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module.training].append(inputs[0].shape[-1])

    state.network.register_forward_pre_hook(record_size)
    results = list(fit(state, config))
    assert seen == {True: [16, 16, 16, 32, 32, 32], False: [32, 32]}
    assert [result.metrics()["train_image_size"] for result in results] == [16, 32]


def test_statistics_of_small_images_do_not_reach_the_model() -> None:
    """Whatever they were before the full size, batch norm and averages end with the same bits."""

    def train_weights(*, broken: bool) -> str:
        config = replace(CONFIG, ema=0.9)
        state = init_state(config)
        results = fit(state, config)
        next(results)
        if broken:
            assert state.ema is not None
            assert state.batch_norm_statistics is not None
            tensors = [*state.ema.module.buffers(), *state.batch_norm_statistics.list_averages()]
            for tensor in tensors:
                tensor.fill_(1000)
        next(results)
        return hash_state(state.network.state_dict()) + hash_state(
            state.inference_model().state_dict()
        )

    assert train_weights(broken=True) == train_weights(broken=False)


def test_statistics_average_all_steps_since_the_size_changed() -> None:
    """Equal weights at first, then the layer's momentum, as without a change."""
    assert [compute_momentum(0.1, 500 + step, 500) for step in range(3)] == [1, 1 / 2, 1 / 3]
    assert compute_momentum(0.1, 600, 500) == 0.1
    assert compute_momentum(0.0003, 600, 100) == compute_momentum(0.0003, 600)


def test_memory_is_forecast_for_the_full_size() -> None:
    """Epochs of small images would pass, and the last ones run out of memory."""
    off = replace(CONFIG, progressive_resize="off")
    expected = measure_bytes_per_image(init_state(off), off)
    assert measure_bytes_per_image(init_state(), CONFIG) == expected


class SmallOnly(nn.Module):
    """Knows the color of small images; of large ones only in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 3)
        nn.init.eye_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the mean color, or nothing."""
        is_known = self.training or images.shape[-1] < SIZE
        color: Tensor = self.head(images.mean((2, 3)))
        return color if is_known else color * 0


@pytest.mark.parametrize(("image_size", "is_fault"), [(None, True), (16, False)])
def test_network_that_only_knows_small_images_is_not_broken(
    image_size: int | None, is_fault: bool
) -> None:
    """Both modes are compared at the size of the epoch's training images."""
    state = init_train_state(SmallOnly(), "head.", DATA, replace(CONFIG, ema=0.0), CPU)
    fault = find_evaluation_fault(
        state,
        train_accuracy=1.0,
        valid_accuracy=1 / 3,
        ranks=SINGLE_PROCESS,
        image_size=image_size,
    )
    assert (fault is not None) is is_fault


def test_trial_of_a_full_batch_leaves_no_trace() -> None:
    """It has the full size; weights, buffers, gradients and generators stay as they were."""
    state = init_state()
    sizes: list[tuple[int, ...]] = []
    state.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape))
    before = hash_state(state.network.state_dict())
    generators = capture_generators(CPU.device)
    try_full_batch(state, CONFIG, SINGLE_PROCESS)
    assert sizes == [(8, 3, SIZE, SIZE)]
    assert hash_state(state.network.state_dict()) == before
    assert all(parameter.grad is None for parameter in state.network.parameters())
    after = capture_generators(CPU.device)
    assert all(torch.equal(after[name], value) for name, value in generators.items())


def make_smooth_images() -> Tensor:
    """Return (6, 3, 64, 64) uint8, gradients of color in several directions."""
    axis = torch.linspace(0, 1, 64)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    images = [
        torch.stack([rows * a + columns * (1 - a), columns, rows]) for a in torch.linspace(0, 1, 6)
    ]
    return (torch.stack(images) * 255).to(torch.uint8)


@pytest.mark.parametrize("augment", ["none", "flip", "standard", "strong"])
def test_small_image_is_the_full_one_made_smaller(augment: str) -> None:
    """The augmentation of an image does not depend on the size."""
    pixels, positions = make_smooth_images(), np.arange(6)

    def augment_to(size: int) -> Tensor:
        return augment_batch(
            pixels, positions, augment=augment, epoch=1, random_seed=1, size=size, full_size=48
        )

    small, expected = augment_to(24), resize_square(augment_to(48), 24)
    assert small.shape == (6, 3, 24, 24)
    assert (small.int() - expected.int()).abs().float().mean() < 2
