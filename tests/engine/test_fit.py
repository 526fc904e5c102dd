"""The engine: order, stopping, determinism, and what each setting changes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.conftest import CPU, SIZE, labelled
from trialrun.config import TrainConfig
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.compute.torch_errors import NonFiniteLossError, translate_torch_errors
from trialrun.engine.early_stopping import stop_early
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
from trialrun.errors import InvalidParameterError, OutOfMemoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.weights import hash_weights, serialize_state
from trialrun.models.zoo import build_network, find_head_prefix

TASK = TrainingData(labelled(24), labelled(9, seed=1), 3, Preprocessing(SIZE))


def trained(config: TrainConfig, task: TrainingData = TASK) -> tuple[str, list[EpochResult]]:
    """The weights' hash and the epochs of a training from scratch."""
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), task, config, CPU)
    results = list(fit(state, config))
    return hash_weights(serialize_state(state.inference_model().state_dict())), results


BASE = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05)


@given(num_images=st.integers(1, 200), batch_size=st.integers(1, 64))
def test_every_image_is_in_one_batch(num_images: int, batch_size: int) -> None:
    """No image is lost or doubled, and no batch of one is left for batch norm."""
    batches = chunk_indices(np.arange(num_images), batch_size)
    assert np.concatenate(batches).tolist() == list(range(num_images))
    assert len(batches) == count_batches(num_images, batch_size)
    if batch_size > 1 and num_images > 1:
        assert min(len(batch) for batch in batches) > 1
    assert max(len(batch) for batch in batches) <= batch_size + 1


@given(num_items=st.integers(1, 500), seed=st.integers(0, 2**63 - 1))
def test_permutation_is_one(num_items: int, seed: int) -> None:
    """An order holds every number once and depends on the seed alone."""
    order = draw_permutation(num_items, seed)
    assert sorted(order.tolist()) == list(range(num_items))
    assert (order == draw_permutation(num_items, seed)).all()


def test_epochs_differ_in_order() -> None:
    """The second epoch does not repeat the first."""
    data = labelled(30)
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
def test_any_integer_makes_a_torch_seed(seed: int, purpose: str) -> None:
    """Seeds of any size and sign fit what torch takes."""
    torch.manual_seed(derive_seed(seed, purpose))


def test_draws_belong_to_images() -> None:
    """An image's draw does not depend on which others are in its batch."""
    alone = draw_uniforms(5, np.array([3]), 4)
    together = draw_uniforms(5, np.array([9, 3, 1]), 4)
    assert (together[1] == alone[0]).all()
    assert ((together >= 0) & (together < 1)).all()


def test_prefetching_changes_nothing() -> None:
    """The batches a thread makes are those the loop would have made."""
    plain = [b.positions.tolist() for b in sequential_batches(labelled(20), 6)]
    ahead = [b.positions.tolist() for b in PrefetchIterator(sequential_batches(labelled(20), 6))]
    assert plain == ahead


def test_error_in_the_loading_thread_reaches_the_loop() -> None:
    """What goes wrong while batches are made is raised where they are used."""

    def failing() -> Iterator[object]:
        yield next(sequential_batches(labelled(4), 2))
        raise OSError("gone")

    batches = iter(PrefetchIterator(failing()))  # type: ignore[arg-type]
    next(batches)
    with pytest.raises(OSError, match="gone"):
        next(batches)


def test_same_seed_gives_the_same_weights() -> None:
    """Two runs on one processor agree to the last bit; another seed does not."""
    first, _ = trained(BASE)
    again, _ = trained(BASE)
    other, _ = trained(TrainConfig(epochs=2, batch_size=8, learning_rate=0.05, random_seed=-7))
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
    """Each setting of the recipe has an effect, and the same one each time."""
    values = {"epochs": 2, "batch_size": 8, "learning_rate": 0.05, **setting}
    config = TrainConfig(**values)  # type: ignore[arg-type]
    compute = ComputeConfig(torch.device("cpu"), "bf16" if "precision" in setting else "fp32")

    def weights() -> str:
        torch.manual_seed(derive_seed(config.random_seed, "weights"))
        network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
        state = init_train_state(network, find_head_prefix(network), TASK, config, compute)
        list(fit(state, config))
        return hash_weights(serialize_state(state.inference_model().state_dict()))

    first = weights()
    assert first == weights()
    assert first != trained(BASE)[0]


def test_frozen_backbone_changes_the_head_alone() -> None:
    """Nothing but the last layer moves, batch-norm statistics included."""
    config = TrainConfig(epochs=1, batch_size=8, learning_rate=0.05, freeze="backbone")
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = init_train_state(network, find_head_prefix(network), TASK, config, CPU)
    list(fit(state, config))
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"fc.weight", "fc.bias"}


def test_balanced_weights_count_rare_classes_more() -> None:
    """A class with a third of the images weighs three times as much."""
    labels = torch.tensor([0, 0, 0, 1])
    weight = make_loss(TrainConfig(class_weights="balanced"), labels, 2).weight
    assert weight is not None
    assert weight.tolist() == pytest.approx([4 / 6, 4 / 2])


@pytest.mark.parametrize("schedule", ["cosine", "polynomial"])
def test_schedule_falls_from_the_peak_to_zero(schedule: str) -> None:
    """The first step has the peak rate, the end none."""
    factor = make_schedule(schedule, 0, 10)
    assert factor(0) == 1
    assert factor(10) == pytest.approx(0)
    assert all(factor(step) >= factor(step + 1) for step in range(10))


def test_warm_up_rises_to_the_peak() -> None:
    """The rate rises in equal steps, then the schedule begins."""
    factor = make_schedule("constant", 3, 10)
    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


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
def test_warm_up_as_long_as_the_run_is_refused(setting: dict[str, Any]) -> None:
    """The learning rate would never reach its peak."""
    with pytest.raises(InvalidParameterError, match="not shorter than the run"):
        count_warm_up_steps(TrainConfig(epochs=2, batch_size=8, **setting), 96)


def test_two_units_of_the_warm_up_are_refused() -> None:
    """Which of the two counts would be a guess."""
    with pytest.raises(InvalidParameterError, match="both set"):
        TrainConfig(warmup_steps=3, warmup_epochs=1)


def test_loss_that_is_no_number_stops_before_the_step() -> None:
    """Weights that are no numbers in one channel get no gradient: the others stay as they were."""
    config = TrainConfig(epochs=3, batch_size=8)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), TASK, config, CPU)
    with torch.no_grad():
        network.get_parameter("fc.bias").fill_(torch.nan)
    before = network.get_parameter("conv1.0.weight").detach().clone()
    with pytest.raises(NonFiniteLossError):
        list(fit(state, config))
    assert torch.equal(network.get_parameter("conv1.0.weight"), before)


def test_batch_of_one_is_told_where_batch_norm_cannot_take_it() -> None:
    """One image at 32 pixels leaves one value a channel."""
    config = TrainConfig(epochs=1, batch_size=1)
    network = build_network("resnet18", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), TASK, config, CPU)
    with pytest.raises(InvalidParameterError, match="batch_size=1"):
        list(fit(state, config))


def test_validation_counts_every_image_once() -> None:
    """The figures do not depend on how the set is cut into batches."""
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    whole = evaluate_network(
        network, sequential_batches(TASK.valid, 9), TASK.preprocessing, CPU, num_images=9
    )
    parts = evaluate_network(
        network, sequential_batches(TASK.valid, 4), TASK.preprocessing, CPU, num_images=9
    )
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert whole.predicted.tolist() == parts.predicted.tolist()
    assert whole.top5_accuracy is None


def epochs_with(losses: list[float]) -> Iterator[EpochResult]:
    """Results with these validation losses."""
    nothing = np.zeros(0)
    for epoch, loss in enumerate(losses, start=1):
        found = EvaluationResult(
            loss, 0.5, None, nothing.astype(np.int64), nothing.astype(np.float32),
            nothing.astype(np.float32), 1.0,
        )  # fmt: skip
        yield EpochResult(epoch, 1.0, 0.5, 0.1, 1.0, 0.0, 1.0, found)


def test_patience_counts_epochs_without_a_new_best() -> None:
    """An epoch that beats its predecessor but not the best so far is no progress."""
    standings = list(
        stop_early(epochs_with([1.0, 3.0, 2.0, 0.5]), TrainConfig(epochs=9, patience=2))
    )
    last = standings[-1]
    assert (last.result.epoch, last.best_epoch, last.stop_reason) == (3, 1, "early_stop")


def test_min_delta_asks_for_real_progress() -> None:
    """A smaller gain than min_delta stalls, but the lowest loss stays the best."""
    config = TrainConfig(epochs=9, patience=2, min_delta=0.1)
    last = list(stop_early(epochs_with([1.0, 0.95, 0.92, 0.1]), config))[-1]
    assert (last.result.epoch, last.best_epoch, last.stop_reason) == (3, 3, "early_stop")


def test_loss_that_is_no_number_never_improves() -> None:
    """A validation loss of NaN counts as a stall."""
    losses = [1.0, float("nan"), float("nan")]
    last = list(stop_early(epochs_with(losses), TrainConfig(epochs=9, patience=2)))[-1]
    assert (last.best_epoch, last.stop_reason) == (1, "early_stop")


def test_first_epoch_without_a_loss_does_not_block_the_rest() -> None:
    """A later epoch with a loss is the best, whatever the first one came to."""
    losses = [float("nan"), 2.0, 1.0]
    last = list(stop_early(epochs_with(losses), TrainConfig(epochs=3, patience=2)))[-1]
    assert (last.best_epoch, last.best_valid_loss) == (3, 1.0)


def test_time_budget_ends_after_the_epoch_under_way() -> None:
    """The clock is looked at between epochs."""
    ticks = iter([0.0, 30.0, 61.0])
    config = TrainConfig(epochs=9, max_minutes=1.0)
    last = list(stop_early(epochs_with([3.0, 2.0, 1.0]), config, lambda: next(ticks)))[-1]
    assert (last.result.epoch, last.stop_reason) == (2, "time_budget")


@pytest.mark.parametrize("augment", ["flip", "standard", "strong"])
def test_augmentation_depends_on_image_epoch_and_seed_alone(augment: str) -> None:
    """An image looks the same in any batch, and different in another epoch."""
    pixels = labelled(6).source.pixels(np.arange(6))
    whole = augment_batch(pixels, np.arange(6), augment=augment, epoch=1, random_seed=1)
    part = augment_batch(pixels[2:4], np.arange(2, 4), augment=augment, epoch=1, random_seed=1)
    later = augment_batch(pixels, np.arange(6), augment=augment, epoch=2, random_seed=1)
    assert torch.equal(whole[2:4], part)
    assert not torch.equal(whole, later)
    assert (whole.dtype, whole.shape) == (torch.uint8, pixels.shape)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_features_of_a_frozen_backbone_stand_for_the_images(precision: str) -> None:
    """The last layer learns from a table of features what the whole network then computes."""
    config = TrainConfig(epochs=2, batch_size=8, learning_rate=0.05, freeze="backbone")
    compute = ComputeConfig(torch.device("cpu"), precision)
    torch.manual_seed(1)
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), TASK, config, compute)
    assert state.trainable is network.get_submodule("fc")
    last = list(fit(state, config))[-1]
    whole = evaluate_network(
        network, sequential_batches(TASK.valid, 16), TASK.preprocessing, state.compute, num_images=9
    )
    assert whole.loss == pytest.approx(last.valid_loss, rel=1e-5)


@pytest.mark.parametrize("setting", [{"augment": "flip"}, {"mixup": 0.5}, {"ema": 0.9}], ids=str)
def test_random_inputs_keep_the_backbone_running(setting: dict[str, object]) -> None:
    """Where images differ from epoch to epoch no table of features is made."""
    config = TrainConfig(freeze="backbone", **setting)  # type: ignore[arg-type]
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), TASK, config, CPU)
    assert state.trainable is network


def test_network_that_goes_on_after_its_last_layer_keeps_running() -> None:
    """SqueezeNet pools after its last layer, which is no linear one: no table of features."""
    config = TrainConfig(freeze="backbone")
    network = build_network("squeezenet1_1", 3, image_size=SIZE)
    state = init_train_state(network, find_head_prefix(network), TASK, config, CPU)
    assert state.trainable is network


def test_norms_and_biases_can_be_spared_the_decay() -> None:
    """Vectors stand in a group of their own whose decay is zero."""
    config = TrainConfig(decay_norms=False, weight_decay=0.1)
    optimizer = make_optimizer(build_network("shufflenet_v2_x0_5", 3, image_size=SIZE), config)
    matrices, vectors = optimizer.param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in vectors["params"]} == {1}
    assert 1 not in {p.ndim for p in matrices["params"]}


def test_learning_rate_can_follow_the_number_of_ranks() -> None:
    """As given by default; multiplied where asked, as the ancestor does."""
    network = build_network("shufflenet_v2_x0_5", 3, image_size=SIZE)
    scaled = TrainConfig(learning_rate=0.1, scale_learning_rate=True)
    assert make_optimizer(network, TrainConfig(learning_rate=0.1), 4).defaults["lr"] == 0.1
    assert make_optimizer(network, scaled, 4).defaults["lr"] == pytest.approx(0.4)


def test_memory_that_runs_out_names_a_batch_size() -> None:
    """Fault 47: exit 7 and half the batch as the size to try."""
    with pytest.raises(OutOfMemoryError) as raised, translate_torch_errors(64):
        torch.empty(1 << 60)
    assert "batch_size=32" in raised.value.hint
