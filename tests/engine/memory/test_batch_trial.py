"""Tests of the search for a batch size that fits, by steps that are undone."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from tests.engine.memory.conftest import (
    LimitedMemory,
    build_norm_network,
    build_plain_network,
    init_state,
)
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.compute.torch_errors import translate_network_errors
from trialrun.engine.fit import fit
from trialrun.engine.memory.batch_trial import find_fitting_batch, name_fitting_batch
from trialrun.engine.results import EpochResult
from trialrun.engine.state import TrainState
from trialrun.errors import OutOfMemoryError


def train(
    state: TrainState, config: TrainConfig, ranks: Ranks = SINGLE_PROCESS
) -> Iterator[EpochResult]:
    """Train with a hint that names a batch size."""
    return name_fitting_batch(fit(state, config), state, config, ranks)


@pytest.mark.slow
def test_hint_names_the_largest_size_that_was_tried() -> None:
    """With memory for five of 24 images, three fit and six do not."""
    config = TrainConfig(batch_size=24)
    limit = LimitedMemory(5)
    state = init_state(build_plain_network(limit), config)
    with pytest.raises(OutOfMemoryError, match="a batch of 24 images does not fit") as raised:
        next(train(state, config))
    assert raised.value.hint == (
        "Set batch_size=3, which fits (tried), or keep the batch and set accumulate_steps=8."
    )
    assert limit.calls == [24, 1, 1, 3, 3, 6]  # two parts each: the second keeps the gradients
    for batch_size, num_parts in ((3, 1), (24, 8)):
        config = TrainConfig(epochs=1, batch_size=batch_size, accumulate_steps=num_parts)
        next(fit(init_state(build_plain_network(LimitedMemory(5)), config), config))


def test_nothing_fits() -> None:
    """The hint then names what else takes less memory."""
    config = TrainConfig(batch_size=8)
    with pytest.raises(OutOfMemoryError) as raised:
        next(train(init_state(build_norm_network(LimitedMemory(1)), config), config))
    assert raised.value.hint.startswith("No smaller batch fits either (tried): set a smaller image")


@pytest.mark.slow
def test_parts_that_do_not_fit_are_halved_too() -> None:
    """A batch of 24 in two parts: sizes below a part are tried."""
    config = TrainConfig(batch_size=24, accumulate_steps=2)
    limit = LimitedMemory(7)
    with pytest.raises(OutOfMemoryError, match="24") as raised:
        next(train(init_state(build_plain_network(limit), config), config))
    assert "batch_size=6" in raised.value.hint
    assert "accumulate_steps=4" in raised.value.hint


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_trial_leaves_no_trace(optimizer: str) -> None:
    """Weights, statistics, optimizer state, generators and gradients are as before."""
    config = TrainConfig(batch_size=8, optimizer=optimizer)
    state = init_state(build_norm_network(nn.Dropout()), config)
    next(fit(state, config))

    def copy_all() -> list[torch.Tensor]:
        values = [value for entry in state.optimizer.state.values() for value in entry.values()]
        values += state.network.state_dict().values()
        return [torch.get_rng_state(), *(value.clone() for value in values)]

    state.optimizer.zero_grad()
    before = copy_all()
    assert len(before) > 10
    assert find_fitting_batch(state, config) == 4
    assert all(torch.equal(a, b) for a, b in zip(before, copy_all(), strict=True))
    assert all(parameter.grad is None for parameter in state.network.parameters())
    assert not hasattr(state.optimizer, "found_inf")
    next(fit(state, TrainConfig(batch_size=8, optimizer=optimizer)))


@pytest.mark.slow
def test_trial_of_a_new_optimizer_leaves_no_state() -> None:
    """The state that a trial allocates is dropped."""
    config = TrainConfig(batch_size=8)
    state = init_state(build_plain_network(), config)
    assert find_fitting_batch(state, config) == 4
    assert len(state.optimizer.state) == 0


def test_time_limit_ends_the_trial() -> None:
    """The smallest size is tried in any case."""
    config = TrainConfig(batch_size=24)
    limit = LimitedMemory(100)
    state = init_state(build_plain_network(limit), config)
    assert find_fitting_batch(state, config, max_seconds=0) == 1
    assert limit.calls == [1, 1]


def test_several_ranks_try_nothing() -> None:
    """A rank that tries sizes alone would wait for the others."""
    config = TrainConfig(batch_size=8)
    limit = LimitedMemory(3)
    state = init_state(build_plain_network(limit), config)
    with pytest.raises(OutOfMemoryError) as raised:
        next(train(state, config, Ranks(0, 2)))
    assert raised.value.hint == "Set a smaller batch_size, or more accumulate_steps."
    assert limit.calls == [8]


def test_other_errors_of_the_trial_do_not_hide_the_cause() -> None:
    """An error in the trial leaves the general hint."""

    class Broken(LimitedMemory):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if len(self.calls) == 1:
                raise RuntimeError("device-side assert triggered")
            return super().forward(images)

    config = TrainConfig(batch_size=8)
    state = init_state(build_plain_network(Broken(3)), config)
    with pytest.raises(OutOfMemoryError) as raised:
        next(train(state, config))
    assert "more accumulate_steps" in raised.value.hint


def test_network_that_does_not_fit_is_named() -> None:
    """No batch size helps then."""
    gpu = torch.device("cuda", 0)
    with (
        pytest.raises(OutOfMemoryError, match="network does not fit in the memory of cuda:0"),
        translate_network_errors(gpu),
    ):
        torch.empty(1 << 60)
