"""Tests of the forecast of a step's memory on a CPU."""

import pytest
import torch
from torch import nn

from tests.engine.conftest import SIZE
from tests.engine.memory.conftest import build_norm_network, build_plain_network, init_state
from trialrun.config import TrainConfig
from trialrun.engine.fit import fit
from trialrun.engine.memory import forecast
from trialrun.engine.memory.available import AvailableMemory
from trialrun.engine.memory.forecast import (
    check_batch_fits,
    limit_trial_images,
    measure_bytes_per_image,
)
from trialrun.errors import OutOfMemoryError

CONFIG = TrainConfig(batch_size=8)
# float32 values that the plain network keeps per image: the input of the convolution, the output
# of ReLU, and its copy in the order of the linear layer.
BYTES_PER_IMAGE = 4 * (3 * SIZE * SIZE + 2 * 4 * 15 * 15)


WEIGHTS = 3 * 4 * (4 * 3 * 9 + 4 + 2700 + 3)  # gradients, momentum and a copy


def limit_memory(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int, process_bytes: int | None = None
) -> None:
    """Let this machine have `num_bytes` of free memory."""
    available = AvailableMemory(num_bytes, process_bytes)
    monkeypatch.setattr(forecast, "read_available_memory", lambda: available)


def test_forecast_counts_what_the_backward_pass_needs() -> None:
    """Weights, which do not depend on the batch, do not count."""
    measured = measure_bytes_per_image(init_state(build_plain_network(), CONFIG), CONFIG)
    assert measured == pytest.approx(BYTES_PER_IMAGE, rel=0.01)


def test_measuring_leaves_no_trace() -> None:
    """Statistics, generators, gradients and mode are as before."""
    state = init_state(build_norm_network(nn.Dropout()), CONFIG)
    state.network.eval()
    before = {name: value.clone() for name, value in state.network.state_dict().items()}
    generator = torch.get_rng_state()
    measure_bytes_per_image(state, CONFIG)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not state.network.training
    for name, value in state.network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_batch_that_certainly_exceeds_the_memory_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel would kill the process; the error comes before the first step."""
    state = init_state(build_plain_network(), CONFIG)
    limit_memory(monkeypatch, 7 * BYTES_PER_IMAGE)
    with pytest.raises(OutOfMemoryError, match="a batch of 8 images needs about"):
        next(fit(state, CONFIG))
    limit_memory(monkeypatch, 9 * BYTES_PER_IMAGE)
    check_batch_fits(state, CONFIG)


def test_limit_of_the_process_has_room_for_the_whole_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some processes crash at this limit, so that a step that may reach it is refused."""
    state = init_state(build_plain_network(), CONFIG)
    limit_memory(monkeypatch, 10**12, 9 * BYTES_PER_IMAGE)
    with pytest.raises(OutOfMemoryError):
        check_batch_fits(state, CONFIG)
    limit_memory(monkeypatch, 10**12, 14 * BYTES_PER_IMAGE + WEIGHTS)
    check_batch_fits(state, CONFIG)


def test_parts_that_fit_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of four images counts, not the batch of eight."""
    config = TrainConfig(batch_size=8, accumulate_steps=2)
    limit_memory(monkeypatch, 5 * BYTES_PER_IMAGE)
    check_batch_fits(init_state(build_plain_network(), config), config)


def test_auto_computes_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for five images in the forecast, half of which is left for the rest of a step."""
    config = TrainConfig(epochs=1, batch_size=8, accumulate_steps="auto")
    state = init_state(build_plain_network(), config)
    limit_memory(monkeypatch, 5 * BYTES_PER_IMAGE + WEIGHTS)
    next(fit(state, config))
    assert state.num_parts == 4


def test_trials_stay_below_the_available_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial may not be killed either."""
    state = init_state(build_plain_network(), CONFIG)
    limit_memory(monkeypatch, 6 * BYTES_PER_IMAGE + WEIGHTS)
    assert limit_trial_images(state, CONFIG) == pytest.approx(3, rel=0.01)
    limit_memory(monkeypatch, 10**15)
    assert limit_trial_images(state, CONFIG) == float("inf")


def test_trials_leave_addresses_for_the_rest_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of the process also bounds checkpoints and libraries that are loaded later."""
    state = init_state(build_plain_network(), CONFIG)
    monkeypatch.setattr(forecast, "_REST_OF_RUN_BYTES", 2 * BYTES_PER_IMAGE)
    limit_memory(monkeypatch, 10**12, 8 * BYTES_PER_IMAGE + WEIGHTS)
    assert limit_trial_images(state, CONFIG) == pytest.approx(3, rel=0.01)
