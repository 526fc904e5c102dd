"""A plan and its data as a network under training: the part of a run that every rank does."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from trialrun.distributed import Ranks, read_ranks
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.engine.compute.torch_errors import translate_torch_errors
from trialrun.engine.early_stopping import EpochStatus, stop_early
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.state import TrainState, init_train_state
from trialrun.engine.steps import steps_per_epoch
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.models.directory import ModelDescription
from trialrun.models.open import create_network
from trialrun.models.zoo import find_head_prefix
from trialrun.runs.callbacks import RunCallback
from trialrun.runs.training.data import PreparedData
from trialrun.runs.training.initial import (
    compute_initial_params,
    describe_source,
    resolve_model,
    resolve_weights,
)
from trialrun.runs.training.plan import TrainPlan
from trialrun.tracking import truncate_digest

_FORECAST_STEPS = 10  # the first steps are slower than the rest: count from here
_LONG_SECONDS = 600


@dataclass(slots=True)
class TrainingSession:
    """A network under training, and what describes it once it is trained."""

    plan: TrainPlan
    description: ModelDescription
    state: TrainState
    ranks: Ranks
    initial_params: Mapping[
        str, str
    ]  # what identifies the weights it began with; of the first rank

    def epochs(self, on_step: Callable[[], None]) -> Iterator[EpochStatus]:
        """Train; an item an epoch. Every rank stops after the same epoch: the first's clock counts.

        Raises:
            TrialrunError: As `engine.fit.fit`.
        """
        config = self.plan.config
        results = fit(self.state, config, ranks=self.ranks, on_step=on_step)
        return stop_early(results, config, lambda: self.ranks.agree(time.monotonic()))


def resolve_rank_compute(plan: TrainPlan) -> ComputeConfig:
    """Device and precision of this rank.

    Raises:
        InvalidParameterError: The device is not there, is not enough for all ranks, or cannot
            compute in that precision.
    """
    config, ranks = plan.config, read_ranks(os.environ)
    if ranks.world_size > 1 and ":" in config.device:
        raise InvalidParameterError(
            f"device={config.device} is one for {ranks.world_size} ranks",
            "Take device=cuda: each rank then has a GPU of its own.",
        )
    return resolve_compute(
        config.device, config.precision, tf32=config.tf32, local_rank=ranks.local_rank
    )


def start_session(
    plan: TrainPlan,
    data: PreparedData,
    compute: ComputeConfig,
    ranks: Ranks,
    note: Callable[[str], None] | None = None,
) -> TrainingSession:
    """The network of a plan before its first epoch; `note` is given what a person should know.

    Raises:
        InvalidModelDirectoryError: The model or its weights cannot be used.
        InvalidParameterError: The image size does not fit the network.
        InvalidDatasetError: This rank has other images than the first.
        OutOfMemoryError: Network and batch do not fit.
    """
    config, size = plan.config, data.preprocessing.image_size
    assert size is not None, "what is trained on has one size"
    _check_same_images(data, ranks)
    keep_freed_memory()
    torch.manual_seed(derive_seed(config.random_seed, "weights"))
    description, network = create_network(
        resolve_model(plan),
        len(plan.classes),
        image_size=size,
        weights=resolve_weights(plan),
        classes=plan.classes,
        note=lambda text: note(f"{describe_source(config)}: {text}") if note else None,
    )
    params = compute_initial_params(plan, network) if ranks.is_first else {}
    task = TrainingData(
        data.train.pixels,
        data.valid.pixels,
        len(plan.classes),
        data.preprocessing,
        data.train_steps,
    )
    with translate_torch_errors(config.batch_size):
        state = init_train_state(network, find_head_prefix(network), task, config, compute, ranks)
    trained = replace(description, classes=plan.classes, preprocessing=data.preprocessing)
    return TrainingSession(plan, trained, state, ranks, params)


def _check_same_images(data: PreparedData, ranks: Ranks) -> None:
    """Hold this rank to the images that the first has: with others they would wait for each other.

    A machine may have another copy, or have failed to read an image just now.
    """
    parts = [
        each.tobytes()
        for p in (data.train.pixels, data.valid.pixels)
        for each in (p.rows, p.labels)
    ]
    ours = [truncate_digest(each.scan) for each in (data.train, data.valid)]
    ours.append(hashlib.sha256(b"|".join(parts)).hexdigest())
    if ranks.agree(ours) != ours:
        raise InvalidDatasetError(
            "the images are not those that the first rank has",
            "Give every machine the same ones; `trialrun data check` names what cannot be read.",
        )


class DurationForecast:
    """Says, once and early, how long a long training on a CPU will take."""

    def __init__(self, under_way: TrainingSession, callback: RunCallback) -> None:
        config, ranks = under_way.plan.config, under_way.ranks
        num_images = len(under_way.state.task.train)
        per_epoch = steps_per_epoch(config, num_images, ranks.world_size)
        self._num_steps = config.epochs * per_epoch
        self._on_cpu = under_way.state.compute.device.type == "cpu"
        self._callback = callback
        self._steps = 0
        self._started = 0.0

    def step(self) -> None:
        """Count a step."""
        self._steps += 1
        if self._steps == _FORECAST_STEPS:
            self._started = time.perf_counter()
        if self._steps == 2 * _FORECAST_STEPS and self._on_cpu:
            self._tell((time.perf_counter() - self._started) / _FORECAST_STEPS)

    def _tell(self, step_seconds: float) -> None:
        seconds = step_seconds * (self._num_steps - self._steps)
        if seconds >= _LONG_SECONDS:
            hours, minutes = divmod(round(seconds / 60), 60)
            self._callback.on_note(
                f"at this pace the epochs take about {hours} h {minutes} min on this CPU; "
                "a GPU is advised"
            )
