"""The training session: network and training state, which every rank creates and trains."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import Ranks, read_ranks
from trialrun.engine.compute.allocator import keep_freed_memory
from trialrun.engine.compute.precision import ComputeConfig, resolve_compute
from trialrun.engine.compute.torch_errors import translate_network_errors
from trialrun.engine.early_stopping import EarlyStopping, EpochStatus, stop_early
from trialrun.engine.fine_tuning.head_probe import find_linear_head, fit_head
from trialrun.engine.fine_tuning.phases import enter_phase
from trialrun.engine.fine_tuning.range_test import RangeTest, find_learning_rate
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.seeds import derive_seed
from trialrun.engine.optim import set_peak_learning_rate
from trialrun.engine.state import TrainState, init_train_state
from trialrun.engine.steps import count_frozen_epochs, count_steps_per_epoch
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.models.directory import ModelDescription
from trialrun.models.open import InitialNetwork, create_network
from trialrun.models.weights.state_hash import hash_frozen_layers
from trialrun.models.zoo.networks import find_head_prefix, set_dropout
from trialrun.runs.callbacks import RunCallback
from trialrun.runs.training.environment import describe_environment, read_version
from trialrun.runs.training.fine_tuning import resolve_fine_tuning
from trialrun.runs.training.image_sizes import resolve_image_sizes
from trialrun.runs.training.initial import (
    ResolvedWeights,
    compute_initial_params,
    describe_source,
    hash_sources,
    resolve_model,
)
from trialrun.runs.training.inputs.backbones import NetworkMemory
from trialrun.runs.training.inputs.data import PreparedData
from trialrun.runs.training.inputs.features import ImageFeatures
from trialrun.runs.training.plan import TrainPlan
from trialrun.tracking import truncate_digest

_FORECAST_STEPS = 10  # steps before timing, since the first are slower, and steps that are timed
_LONG_SECONDS = 600


def _do_nothing() -> None:
    """Do nothing; the default of `on_step` and `on_valid_batch`."""


@dataclass(slots=True)
class TrainingSession:
    """A network in training, and the description of the trained model.

    In the plan's settings, what `auto` means for the initial weights is resolved. `initial_params`
    are the parameters that identify these weights; empty on ranks above 0.
    """

    plan: TrainPlan
    description: ModelDescription
    state: TrainState
    ranks: Ranks
    initial_params: Mapping[str, str]

    def prepare(self, on_range_test: Callable[[RangeTest], None] | None = None) -> None:
        """Fit a new last layer and find the learning rate, as the settings say.

        Call it before the first epoch, and not after a checkpoint is restored. `on_range_test`
        receives the test that learning_rate=auto runs.

        Raises:
            TrialrunError: See `engine.fit.fit`.
        """
        config, state = self.plan.config, self.state
        enter_phase(state, config, self.ranks)
        if config.head_start == "probe":
            fit_head(state, config, self.ranks)
        if config.learning_rate != AUTO_TEXT:
            return
        found = find_learning_rate(state, config, self.ranks)
        num_ranks = self.ranks.world_size if config.scale_learning_rate else 1
        set_peak_learning_rate(state.scheduler, found.learning_rate * num_ranks)
        if on_range_test is not None:
            on_range_test(found)

    def epochs(
        self,
        stopping: EarlyStopping,
        on_step: Callable[[], None] = _do_nothing,
        on_valid_batch: Callable[[], None] = _do_nothing,
    ) -> Iterator[EpochStatus]:
        """Train; yield the status after each epoch, and update `stopping`.

        All ranks stop after the same epoch, because rank 0's clock decides for all.

        Raises:
            TrialrunError: See `engine.fit.fit`.
        """
        config = self.plan.config
        results = fit(
            self.state, config, ranks=self.ranks, on_step=on_step, on_valid_batch=on_valid_batch
        )
        clock = time.monotonic
        return stop_early(results, stopping, lambda: self.ranks.broadcast_object(clock()))


def resolve_rank_compute(plan: TrainPlan) -> ComputeConfig:
    """Return the device and precision of this rank.

    Raises:
        InvalidParameterError: The device does not exist, does not suffice for all ranks, or does
            not support the precision.
    """
    config, ranks = plan.config, read_ranks(os.environ)
    if ranks.world_size > 1 and ":" in config.device:
        raise InvalidParameterError(
            f"device={config.device} is a single device for {ranks.world_size} ranks",
            "Set device=cuda: each rank then uses its own GPU.",
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
    """Create the network of a plan and its training state; `note` receives notes for the user.

    Raises:
        InvalidModelDirectoryError: The model or its weights cannot be used.
        InvalidParameterError: The image size does not fit the network.
        InvalidDatasetError: This rank's images differ from rank 0's.
        OutOfMemoryError: The network does not fit in memory.
    """
    config, size = plan.config, data.preprocessing.image_size
    assert size is not None, "training images have one size"
    _check_same_images(data, ranks)
    keep_freed_memory()
    is_kept = config.freeze == "backbone" and ranks.world_size == 1
    memory = data.backbones.networks if is_kept else NetworkMemory()
    initial = create_initial_network(plan, data.weights, size, note, memory)
    network, params = initial.network, dict[str, str]()
    if ranks.is_first:
        params = compute_initial_params(plan, data.weights, memory.hash_initial())
    config = _resolve_auto(config, initial, data, note)
    plan = replace(plan, config=config)
    task = TrainingData(
        data.train.dataset,
        data.valid.dataset,
        len(plan.classes),
        data.preprocessing,
        data.train_transforms,
        ImageFeatures(
            data.backbones.features,
            _describe_inputs(data, initial.description, compute),
            memory.hash_frozen
            if is_kept
            else lambda: hash_frozen_layers(network.state_dict(), find_head_prefix(network)),
        ),
    )
    with translate_network_errors(compute.device):
        state = init_train_state(network, find_head_prefix(network), task, config, compute, ranks)
    description = replace(
        initial.description, classes=plan.classes, preprocessing=data.preprocessing
    )
    return TrainingSession(plan, description, state, ranks, params)


def _resolve_auto(
    config: TrainConfig,
    initial: InitialNetwork,
    data: PreparedData,
    note: Callable[[str], None] | None,
) -> TrainConfig:
    """Return the settings without those `auto` that the network and its weights decide."""
    network, name = initial.network, initial.description.architecture
    config = resolve_fine_tuning(
        config, are_random=data.weights.are_random, has_new_head=initial.has_new_head
    )
    notes: list[str] = []
    if config.head_start == "probe" and not find_linear_head(network, find_head_prefix(network)):
        config = replace(config, head_start="random")
        notes.append(f"the last layer of {name} is not linear: it starts from random weights")
    assert data.preprocessing.image_size is not None, "training images have one size"
    config, text = resolve_image_sizes(config, network, name, data.preprocessing.image_size)
    if text is not None and not config.smoke:  # which has one epoch
        notes.append(text)
    if note is not None:
        for item in notes:
            note(item)
    return config


def _describe_inputs(
    data: PreparedData, description: ModelDescription, compute: ComputeConfig
) -> str:
    """Return a text that is equal only if the images and the code that features depend on are."""
    values = {
        "images": [data.train.hash_images(), data.valid.hash_images()],
        "preprocessing": data.preprocessing.to_json(),
        "network": [description.architecture, dict(description.arguments), read_version("timm")],
        "environment": describe_environment(compute),
    }
    return json.dumps(values, sort_keys=True)


def create_initial_network(
    plan: TrainPlan,
    weights: ResolvedWeights,
    image_size: int,
    note: Callable[[str], None] | None = None,
    memory: NetworkMemory | None = None,
) -> InitialNetwork:
    """Create the network with its initial weights; notes name the setting that they concern.

    It may be that of the training before, from `memory`.

    Raises:
        InvalidModelDirectoryError: The model or its weights cannot be used.
        InvalidParameterError: The image size does not fit the network.
    """
    config, model = plan.config, resolve_model(plan)
    source = describe_source(config, weights)

    def build(note_replaced: Callable[[str], None]) -> InitialNetwork:
        initial = create_network(
            model,
            len(plan.classes),
            image_size=image_size,
            weights=weights.source,
            classes=plan.classes,
            note=note_replaced,
        )
        if config.dropout is not None:
            set_dropout(initial.network, initial.description.architecture, config.dropout)
        return initial

    def note_source(text: str) -> None:
        if note is not None:
            note(f"{source}: {text}")

    seed = derive_seed(config.random_seed, "weights")
    if memory is None or config.freeze != "backbone":
        return (memory or NetworkMemory()).create(None, seed, build, note_source)
    key = (model, image_size, plan.classes, config.dropout, *hash_sources(plan, weights).items())
    return memory.create(key, seed, build, note_source)


def _check_same_images(data: PreparedData, ranks: Ranks) -> None:
    """Raise unless this rank has the images of rank 0: ranks with other images would deadlock.

    A machine may have another copy of the data, or may have failed to read an image.
    """
    sets = (data.train, data.valid)
    arrays = [
        array.tobytes()
        for prepared in sets
        for array in (prepared.dataset.rows, prepared.dataset.labels)
    ]
    digests = [truncate_digest(prepared.scan) for prepared in sets]
    digests.append(hashlib.sha256(b"|".join(arrays)).hexdigest())
    if ranks.broadcast_object(digests) != digests:
        raise InvalidDatasetError(
            "this rank's images differ from rank 0's",
            "Give every machine the same images; `trialrun data check` lists unreadable ones.",
        )


class DurationForecast:
    """Notes once, after the first steps, how long a long training on a CPU will take."""

    def __init__(self, session: TrainingSession, callback: RunCallback) -> None:
        config, ranks = session.plan.config, session.ranks
        num_images = len(session.state.data.train)
        per_epoch = count_steps_per_epoch(config, num_images, ranks.world_size)
        self._num_steps = config.epochs * per_epoch
        self._state, self._num_frozen = session.state, count_frozen_epochs(config)
        self._has_phases = self._num_frozen < config.epochs
        self._on_cpu = session.state.compute.device.type == "cpu"
        self._callback = callback
        self._steps = 0
        self._started = 0.0

    def on_step(self) -> None:
        """Count one optimizer step; those of the last layer alone are faster and do not count."""
        if self._has_phases and self._state.epoch < self._num_frozen:
            self._num_steps -= 1
            return
        self._steps += 1
        if self._steps == _FORECAST_STEPS:
            self._started = time.perf_counter()
        if self._steps == 2 * _FORECAST_STEPS and self._on_cpu:
            self._note_duration((time.perf_counter() - self._started) / _FORECAST_STEPS)

    def _note_duration(self, step_seconds: float) -> None:
        seconds = step_seconds * (self._num_steps - self._steps) * self._compute_growth()
        if seconds >= _LONG_SECONDS:
            hours, minutes = divmod(round(seconds / 60), 60)
            self._callback.on_note(
                f"at this speed the remaining steps take about {hours} h {minutes} min on this "
                "CPU; a GPU is recommended"
            )

    def _compute_growth(self) -> float:
        """Return the pixels of a mean image of the remaining epochs, relative to those of now."""
        sizes, now = self._state.image_sizes, self._state.choose_image_size(self._state.epoch + 1)
        if sizes is None or now is None:
            return 1.0
        return sizes.average_pixels(self._state.epoch + 1) / now**2
