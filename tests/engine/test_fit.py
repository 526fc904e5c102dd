"""Tests of the engine: batches, early stopping, determinism and the effect of each setting."""

import json
import math
import time
from collections.abc import Iterator
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conftest import CPU, SIZE, make_dataset
from trialrun.config import TrainConfig
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError
from trialrun.engine.early_stopping import EarlyStopping, forecast_gain, stop_early
from trialrun.engine.evaluate import EvaluationResult, evaluate_network
from trialrun.engine.fit import fit
from trialrun.engine.inputs.augment import augment_batch
from trialrun.engine.inputs.batches import (
    PrefetchIterator,
    chunk_indices,
    sequential_batches,
    training_batches,
)
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed, draw_permutation, draw_uniforms
from trialrun.engine.optim import make_loss, make_optimizer, make_schedule
from trialrun.engine.results import EpochResult
from trialrun.engine.state import init_train_state
from trialrun.engine.steps import count_batches, count_warm_up_steps
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights.serialization import hash_weights, serialize_state
from trialrun.models.zoo.networks import build_network, find_head_prefix

DATA = TrainingData(make_dataset(24), make_dataset(9, seed=1), 3, Preprocessing(SIZE))


def train(config: TrainConfig, data: TrainingData = DATA) -> tuple[str, list[EpochResult]]:
    """Train from scratch; return the weights' hash and the epochs' results."""
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), data, config, CPU)
    results = list(fit(state, config))
    return hash_weights(serialize_state(state.inference_model().state_dict())), results


BASE = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05)


@given(num_images=st.integers(1, 200), batch_size=st.integers(1, 64))
def test_every_image_is_in_one_batch(num_images: int, batch_size: int) -> None:
    """No image is missing or repeated, and no batch is below a half of the batch size."""
    batches = chunk_indices(np.arange(num_images), batch_size)
    assert np.concatenate(batches).tolist() == list(range(num_images))
    assert len(batches) == count_batches(num_images, batch_size)
    if batch_size > 1 and num_images > 1:
        assert min(len(batch) for batch in batches) > 1
    if num_images >= batch_size:
        assert min(len(batch) for batch in batches) >= batch_size // 2
    assert max(len(batch) for batch in batches) <= batch_size + 1


@given(num_items=st.integers(1, 500), seed=st.integers(0, 2**63 - 1))
def test_permutation_is_valid(num_items: int, seed: int) -> None:
    """An order holds every index once and depends on the seed alone."""
    order = draw_permutation(num_items, seed)
    assert sorted(order.tolist()) == list(range(num_items))
    assert (order == draw_permutation(num_items, seed)).all()


def test_epochs_differ_in_order() -> None:
    """The second epoch has a different order than the first."""
    data = make_dataset(30)
    orders = [
        np.concatenate(
            [
                batch.positions
                for batch in training_batches(data, epoch=e, batch_size=7, random_seed=1)
            ]
        )
        for e in (1, 2)
    ]
    assert (orders[0] != orders[1]).any()


@given(seed=st.integers(), purpose=st.text(max_size=5))
def test_any_integer_gives_a_valid_torch_seed(seed: int, purpose: str) -> None:
    """Torch accepts the seed derived from an integer of any size and sign."""
    torch.manual_seed(derive_seed(seed, purpose))


def test_draws_depend_on_the_image_alone() -> None:
    """An image's draws do not depend on the other images of its batch."""
    alone = draw_uniforms(5, np.array([3]), 4)
    together = draw_uniforms(5, np.array([9, 3, 1]), 4)
    assert (together[1] == alone[0]).all()
    assert ((together >= 0) & (together < 1)).all()


def test_prefetching_does_not_change_batches() -> None:
    """A thread loads the same batches as the loop would."""
    data = make_dataset(20)
    plain = [batch.positions.tolist() for batch in sequential_batches(data, 6)]
    prefetch = PrefetchIterator(sequential_batches(data, 6))
    assert [batch.positions.tolist() for batch in prefetch] == plain


def test_error_in_the_loading_thread_reaches_the_loop() -> None:
    """An error while batches are loaded is raised where they are used."""

    def fail_after_one() -> Iterator[object]:
        yield next(sequential_batches(make_dataset(4), 2))
        raise OSError("disk failed")

    batches = iter(PrefetchIterator(fail_after_one()))  # type: ignore[arg-type]
    next(batches)
    with pytest.raises(OSError, match="disk failed"):
        next(batches)


def test_a_source_that_does_not_answer_delays_the_end_by_seconds() -> None:
    """A stopped training waits a limited time for images that a store does not send."""
    is_stuck, may_end = Event(), Event()

    def wait_after_one() -> Iterator[object]:
        yield next(sequential_batches(make_dataset(4), 2))
        is_stuck.set()
        may_end.wait(30)

    batches = iter(PrefetchIterator(wait_after_one(), stop_seconds=0.1))  # type: ignore[arg-type]
    next(batches)
    is_stuck.wait()
    started = time.monotonic()
    batches.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < 2
    may_end.set()


def test_same_seed_gives_the_same_weights() -> None:
    """Two runs on one processor give the same bits; another seed gives other weights."""
    first, _ = train(BASE)
    again, _ = train(BASE)
    other, _ = train(TrainConfig(epochs=2, batch_size=8, learning_rate=0.05, random_seed=-7))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "setting",
    [
        {"optimizer": "adamw", "learning_rate": 0.001},
        {"schedule": "constant"},
        {"schedule": "polynomial"},
        {"warmup_steps": 3},
        {"warmup_epochs": 0.5},
        {"class_sampling": "balanced"},
        {"label_smoothing": 0.1},
        {"mixup": 0.4},
        {"cutmix": 1.0},
        {"mixup": 0.4, "cutmix": 1.0},
        {"ema": 0.9},
        {"freeze": "backbone"},
        {"augment": "flip"},
        {"augment": "standard"},
        {"augment": "strong"},
        {"weight_decay": 0.0},
        {"decay_norms": False, "weight_decay": 0.1},
        {"clip_grad_norm": 0.1},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_setting_changes_the_weights_and_is_repeatable(setting: dict[str, object]) -> None:
    """Each setting has an effect, the same in every run."""
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **setting}
    config = TrainConfig(**values)  # type: ignore[arg-type]
    compute = ComputeConfig(torch.device("cpu"), "bf16" if "precision" in setting else "fp32")

    def train_weights() -> str:
        torch.manual_seed(derive_seed(config.random_seed, "weights"))
        network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
        state = init_train_state(network, find_head_prefix(network), DATA, config, compute)
        list(fit(state, config))
        return hash_weights(serialize_state(state.inference_model().state_dict()))

    first = train_weights()
    assert first == train_weights()
    assert first != train(BASE)[0]


def test_frozen_backbone_changes_only_the_head() -> None:
    """Only the last layer changes; batch-norm statistics stay the same too."""
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.05, freeze="backbone")
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = init_train_state(network, find_head_prefix(network), DATA, config, CPU)
    list(fit(state, config))
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}


def test_balanced_weights_are_higher_for_rare_classes() -> None:
    """A class with a third as many images gets three times the weight."""
    labels = torch.tensor([0, 0, 0, 1])
    weight = make_loss(TrainConfig(class_weights="balanced"), labels, 2).weight
    assert weight is not None
    assert weight.tolist() == pytest.approx([4 / 6, 4 / 2])


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_schedule_falls_from_the_peak_to_zero(schedule: str) -> None:
    """The factor is 1 at the first step and 0 at the end."""
    factor = make_schedule(schedule, 0, 10)
    assert factor(0) == 1
    assert factor(10) == pytest.approx(0)
    assert all(factor(step) >= factor(step + 1) for step in range(10))


@pytest.mark.parametrize("schedule", ["cosine", "polynomial", "onecycle"])
def test_peak_can_last(schedule: str) -> None:
    """The fall then takes the remaining steps, with the same shape."""
    factor, shorter = make_schedule(schedule, 2, 20, 10), make_schedule(schedule, 0, 10)
    assert [factor(step) for step in range(2, 11)] == [1.0] * 9
    assert [factor(step) for step in range(10, 20)] == [shorter(step) for step in range(10)]


def test_warm_up_rises_to_the_peak() -> None:
    """The rate rises linearly before the schedule starts."""
    factor = make_schedule("constant", 3, 10)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


def test_one_cycle_is_that_of_torch() -> None:
    """Each step has the rate of OneCycleLR with the same length of the warm-up."""
    warm_up_steps, num_steps = 5, 20
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    share = (warm_up_steps + 1) / num_steps
    torch_schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=num_steps, pct_start=share, cycle_momentum=False
    )
    factor = make_schedule("onecycle", warm_up_steps, num_steps)
    for step in range(num_steps):
        assert factor(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < num_steps - 1:
            torch_schedule.step()


@pytest.mark.parametrize(
    ("setting", "steps"),
    [({}, 0), ({"warmup_steps": 7}, 7), ({"warmup_epochs": 1.0}, 12), ({"warmup_epochs": 0.25}, 3)],
    ids=str,
)
def test_warm_up_is_counted_in_steps_or_epochs(setting: dict[str, Any], steps: int) -> None:
    """An epoch of 96 images in batches of 8 has 12 steps."""
    config = TrainConfig(epochs=2, batch_size=8, **setting)
    assert count_warm_up_steps(config, 96) == steps


@pytest.mark.parametrize("setting", [{"warmup_steps": 24}, {"warmup_epochs": 2.0}], ids=str)
def test_warm_up_as_long_as_the_run_is_an_error(setting: dict[str, Any]) -> None:
    """The learning rate would never reach its peak."""
    with pytest.raises(InvalidParameterError, match="not shorter than the run"):
        count_warm_up_steps(TrainConfig(epochs=2, batch_size=8, **setting), 96)


def test_two_units_of_the_warm_up_are_an_error() -> None:
    """The warm-up is set in steps or in epochs, not in both."""
    with pytest.raises(InvalidParameterError, match="are set together"):
        TrainConfig(warmup_steps=3, warmup_epochs=1)


def test_non_finite_loss_stops_before_the_step() -> None:
    """A loss of NaN raises, and the weights do not change."""
    config = TrainConfig(epochs=3, batch_size=8)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), DATA, config, CPU)
    with torch.no_grad():
        network.get_parameter("fc.bias").fill_(torch.nan)
    before = network.get_parameter("conv1.0.weight").detach().clone()
    with pytest.raises(NonFiniteLossError):
        list(fit(state, config))
    assert torch.equal(network.get_parameter("conv1.0.weight"), before)


def test_batch_of_one_image_is_an_error_with_batch_norm() -> None:
    """One image at 32 pixels has one value per channel in the last layers."""
    config = TrainConfig(epochs=1, batch_size=1)
    network = build_network("resnet18", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), DATA, config, CPU)
    with pytest.raises(InvalidParameterError, match="batch_size=1"):
        list(fit(state, config))


def test_validation_counts_every_image_once() -> None:
    """The figures do not depend on the batch size."""
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    whole = evaluate_network(
        network, sequential_batches(DATA.valid, 9), DATA.preprocessing, CPU, num_images=9
    )
    parts = evaluate_network(
        network, sequential_batches(DATA.valid, 4), DATA.preprocessing, CPU, num_images=9
    )
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.predicted.tolist() == parts.predicted.tolist()
    assert whole.top5_accuracy is None


def make_results(losses: list[float]) -> Iterator[EpochResult]:
    """Yield results with these validation losses."""
    empty = np.zeros(0)
    for epoch, loss in enumerate(losses, start=1):
        validation = EvaluationResult(
            loss, 0.5, None, empty.astype(np.int64), empty.astype(np.float32),
            empty.astype(np.float32), 1.0,
        )  # fmt: skip
        yield EpochResult(epoch, 1.0, 0.5, 0.1, 1.0, 0.0, 1.0, validation)


def test_patience_counts_epochs_without_a_new_best() -> None:
    """An epoch that is better than the previous one but not the best does not reset patience."""
    statuses = list(
        stop_early(
            make_results([1.0, 3.0, 2.0, 0.5]), EarlyStopping(TrainConfig(epochs=9, patience=2))
        )
    )
    last = statuses[-1]
    assert (last.result.epoch, last.best_epoch, last.stop_reason) == (3, 1, "early_stop")


def test_patience_begins_once_all_layers_train() -> None:
    """Epochs of the last layer alone do not stop a training."""
    config = TrainConfig(epochs=9, batch_size=8, patience=2, freeze_epochs=4)
    results = make_results([1.0] * 9)
    assert [status.stop_reason for status in stop_early(results, EarlyStopping(config))] == [
        *[None] * 5,
        "early_stop",
    ]


def test_early_stopping_waits_for_the_full_image_size() -> None:
    """Of fifteen epochs, the last five have the full size."""
    config = TrainConfig(epochs=15, batch_size=8, patience=2, progressive_resize="on")
    statuses = list(stop_early(make_results([0.5] + [1.0] * 14), EarlyStopping(config)))
    last = statuses[-1]
    assert (last.result.epoch, last.best_epoch, last.stop_reason) == (12, 1, "early_stop")


def test_improvement_below_min_delta_does_not_count() -> None:
    """An improvement below min_delta does not reset patience; the lowest loss is still the best."""
    config = TrainConfig(epochs=9, patience=2, min_delta=0.1)
    last = list(stop_early(make_results([1.0, 0.95, 0.92, 0.1]), EarlyStopping(config)))[-1]
    assert (last.result.epoch, last.best_epoch, last.stop_reason) == (3, 3, "early_stop")


def test_nan_never_improves() -> None:
    """A validation loss of NaN counts as no improvement."""
    losses = [1.0, float("nan"), float("nan")]
    last = list(stop_early(make_results(losses), EarlyStopping(TrainConfig(epochs=9, patience=2))))[
        -1
    ]
    assert (last.best_epoch, last.stop_reason) == (1, "early_stop")


def test_nan_in_the_first_epoch_does_not_block_later_ones() -> None:
    """A later epoch with a finite loss becomes the best."""
    losses = [float("nan"), 2.0, 1.0]
    last = list(stop_early(make_results(losses), EarlyStopping(TrainConfig(epochs=3, patience=2))))[
        -1
    ]
    assert (last.best_epoch, last.best_valid_loss) == (3, 1.0)


def test_training_stops_when_little_gain_is_expected() -> None:
    """0.09 is expected of two more epochs after the fifth, and 0.035 of one after the sixth."""
    losses = [1.0, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4]
    base = {"epochs": 7, "patience": 2, "batch_size": 8}
    for min_gain, epoch, reason in (
        (0.0, 7, "completed"),
        (0.03, 7, "completed"),
        (0.04, 6, "early_stop"),
        (0.1, 5, "early_stop"),
    ):
        config = TrainConfig(**base, min_gain=min_gain)  # type: ignore[arg-type]
        last = list(stop_early(make_results(losses), EarlyStopping(config)))[-1]
        assert (last.result.epoch, last.stop_reason) == (epoch, reason), min_gain


def test_expected_gain_shrinks_as_it_did() -> None:
    """Halved gains stay halved per window; equal ones go on; without a gain none is expected."""
    assert forecast_gain([1.0, 0.6, 0.4], 1, 3) == pytest.approx(0.1 + 0.05 + 0.025)
    assert forecast_gain([1.0, 0.9, 0.8], 1, 4) == pytest.approx(0.4)
    assert forecast_gain([1.0, 0.9, 0.9], 1, 4) == 0
    assert forecast_gain([1.0, 0.9], 1, 4) == math.inf
    assert forecast_gain([math.inf, 0.9, 0.8], 1, 4) == math.inf


def test_state_of_early_stopping_is_restored() -> None:
    """The losses too, of which checkpoints of earlier versions have none."""
    config = TrainConfig(epochs=9, patience=2)
    stopping = EarlyStopping(config)
    list(stop_early(make_results([float("nan"), 0.8, 0.7]), stopping))
    values = json.loads(json.dumps(stopping.to_json()))
    assert EarlyStopping.from_json(config, values) == stopping
    assert stopping.lowest == (math.inf, 0.8, 0.7)
    del values["lowest"]
    assert EarlyStopping.from_json(config, values).lowest == ()


def test_time_budget_stops_after_the_current_epoch() -> None:
    """The time is checked between epochs."""
    ticks = iter([0.0, 30.0, 61.0])
    config = TrainConfig(epochs=9, max_minutes=1.0)
    last = list(
        stop_early(make_results([3.0, 2.0, 1.0]), EarlyStopping(config), lambda: next(ticks))
    )[-1]
    assert (last.result.epoch, last.stop_reason) == (2, "time_budget")


@pytest.mark.parametrize("augment", ["flip", "standard", "strong"])
def test_augmentation_depends_on_image_epoch_and_seed_alone(augment: str) -> None:
    """An image is augmented the same in any batch, and differently in another epoch."""
    pixels = make_dataset(6).source.pixels(np.arange(6))
    whole = augment_batch(pixels, np.arange(6), augment=augment, epoch=1, random_seed=1)
    part = augment_batch(pixels[2:4], np.arange(2, 4), augment=augment, epoch=1, random_seed=1)
    later = augment_batch(pixels, np.arange(6), augment=augment, epoch=2, random_seed=1)
    assert torch.equal(whole[2:4], part)
    assert not torch.equal(whole, later)
    assert (whole.dtype, whole.shape) == (torch.uint8, pixels.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_of_a_frozen_backbone_replace_the_images(precision: str) -> None:
    """The last layer trained on features gives the same loss as the whole network."""
    config = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05, freeze="backbone")
    compute = ComputeConfig(torch.device("cpu"), precision)
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), DATA, config, compute)
    assert state.trainable is network.get_submodule("fc")
    last = list(fit(state, config))[-1]
    whole = evaluate_network(
        network, sequential_batches(DATA.valid, 16), DATA.preprocessing, state.compute, num_images=9
    )
    assert whole.loss == pytest.approx(last.valid_loss, rel=1e-5)


@pytest.mark.parametrize("setting", [{"augment": "flip"}, {"mixup": 0.5}, {"ema": 0.9}], ids=str)
def test_random_inputs_prevent_a_feature_table(setting: dict[str, object]) -> None:
    """If images differ between epochs, the whole network runs."""
    config = TrainConfig(freeze="backbone", **setting)  # type: ignore[arg-type]
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), DATA, config, CPU)
    assert state.trainable is network


def test_layers_after_the_head_prevent_a_feature_table() -> None:
    """SqueezeNet's last layer is a convolution, followed by pooling: the whole network runs."""
    config = TrainConfig(freeze="backbone")
    network = build_network("squeezenet1_1", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), DATA, config, CPU)
    assert state.trainable is network


def test_norms_and_biases_can_be_excluded_from_decay() -> None:
    """Vectors are in a separate parameter group with a decay of 0."""
    config = TrainConfig(decay_norms=False, weight_decay=0.1)
    optimizer = make_optimizer(build_network("shufflenet_v2_x0_5", 3, image_size=SIZE), config)
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in vectors["params"]} == {1}
    assert 1 not in {p.ndim for p in matrices["params"]}


def test_learning_rate_can_scale_with_the_number_of_ranks() -> None:
    """It is unchanged by default, and multiplied if set, as in Azure ML designer."""
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    scaled = TrainConfig(learning_rate=0.1, scale_learning_rate=True)
    assert make_optimizer(network, TrainConfig(learning_rate=0.1), 4).defaults["lr"] == 0.1
    assert make_optimizer(network, scaled, 4).defaults["lr"] == pytest.approx(0.4)
