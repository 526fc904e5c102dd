"""The training loop: batches in, epoch results out.

Nothing here prints, logs, saves or reads a file; the caller does. Tensor letters in this module:
N images in a batch, C classes, S the image size.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from trialrun.config import TrainConfig
from trialrun.engine.augment import augmented
from trialrun.engine.batches import (
    Batch,
    LabelledPixels,
    Prefetched,
    num_batches,
    ordered_batches,
    training_batches,
)
from trialrun.engine.evaluate import Evaluation, evaluate
from trialrun.engine.precision import Arithmetic
from trialrun.engine.recipe import (
    freeze_backbone,
    make_average,
    make_loss,
    make_mixer,
    make_optimizer,
    make_scheduler,
)
from trialrun.engine.seeds import seed_for
from trialrun.errors import InvalidParameterError, OutOfMemoryError, TrialrunError
from trialrun.images.preprocessing import Preprocessing
from trialrun.images.transforms import Step

# Validation keeps no activations for a backward pass, so that twice the batch fits where one did.
_VALID_BATCH_FACTOR = 2


class NonFiniteLossError(TrialrunError):
    """The training loss is no longer a number; the step that made it was not applied."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint or "Lower learning_rate, or set warmup_steps.")


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What one epoch came to; epochs count from 1, accuracies are shares from 0 to 1."""

    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float  # of the epoch's last step
    train_images_per_second: float
    data_wait_fraction: float  # of the training time, spent waiting for batches
    epoch_seconds: float
    validation: Evaluation

    @property
    def valid_loss(self) -> float:
        """The validation loss, by which epochs are compared."""
        return self.validation.loss

    def metrics(self) -> dict[str, float]:
        """The epoch's figures by the names under which they are recorded."""
        named = {
            "train_loss": self.train_loss,
            "train_accuracy": self.train_accuracy,
            "valid_loss": self.validation.loss,
            "valid_accuracy": self.validation.accuracy,
            "valid_top5_accuracy": self.validation.top5_accuracy,
            "learning_rate": self.learning_rate,
            "train_images_per_second": self.train_images_per_second,
            "valid_images_per_second": self.validation.images_per_second,
            "data_wait_fraction": self.data_wait_fraction,
            "epoch_seconds": self.epoch_seconds,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be learned: the two sets, the number of classes, what is done to every image.

    `train_steps` are done to training images alone, in place of what `augment` says.
    """

    train: LabelledPixels
    valid: LabelledPixels
    num_classes: int
    preprocessing: Preprocessing
    train_steps: tuple[Step, ...] = ()


@dataclass(slots=True)
class TrainState:
    """All that training changes."""

    network: nn.Module
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    frozen: bool
    epoch: int = 0  # epochs done

    def deployed(self) -> nn.Module:
        """The network that is validated and kept: the moving average where there is one."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    def set_training(self) -> None:
        """Training mode; a frozen backbone keeps its batch-norm statistics."""
        self.network.train(not self.frozen)


def begin(
    network: nn.Module, head_prefix: str, task: Task, config: TrainConfig, math: Arithmetic
) -> TrainState:
    """The state before the first epoch, `network` moved to the device."""
    network.to(math.device).to(memory_format=math.memory_format)
    if config.freeze == "backbone":
        freeze_backbone(network, head_prefix)
    optimizer = make_optimizer(network, config)
    num_steps = config.epochs * num_batches(len(task.train), config.batch_size)
    return TrainState(
        network=network,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, num_steps),
        scaler=torch.amp.GradScaler(math.device.type, enabled=math.precision == "fp16"),
        average=make_average(network, config),
        frozen=config.freeze == "backbone",
    )


def fit(
    state: TrainState, task: Task, config: TrainConfig, math: Arithmetic
) -> Iterator[EpochResult]:
    """Train `state` in place, yielding after each epoch until `config.epochs`.

    The order and the augmentation of an epoch depend on seed and epoch alone. Stop early by no
    longer iterating.

    Raises:
        NonFiniteLossError: The loss is no number; the step was not applied.
        OutOfMemoryError: The batch does not fit; the hint names a size to try.
        InvalidParameterError: The network cannot learn from a batch this small.
    """
    while state.epoch < config.epochs:
        started = time.perf_counter()
        epoch = state.epoch + 1
        with _translated(config):
            trained = _train_epoch(state, task, config, math, epoch)
            batches = ordered_batches(task.valid, _VALID_BATCH_FACTOR * config.batch_size)
            validation = evaluate(state.deployed(), Prefetched(batches), task.preprocessing, math)
        state.epoch = epoch
        yield EpochResult(
            epoch=epoch,
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            learning_rate=trained.learning_rate,
            train_images_per_second=len(task.train) / trained.seconds,
            data_wait_fraction=trained.waited_seconds / trained.seconds,
            epoch_seconds=time.perf_counter() - started,
            validation=validation,
        )


class _translated:  # noqa: N801 - reads as a verb where it is used
    """Turn what torch says of memory and of too small a batch into our errors."""

    def __init__(self, config: TrainConfig) -> None:
        self._batch_size = config.batch_size

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in text
        ):
            raise OutOfMemoryError(
                f"a batch of {self._batch_size} images does not fit in memory",
                f"Set batch_size={max(self._batch_size // 2, 1)}, or a smaller image_size.",
            ) from error
        if isinstance(error, ValueError) and "more than 1 value per channel" in text:
            raise InvalidParameterError(
                "batch_size=1 leaves batch norm nothing to average at this image size",
                "Set batch_size=2 or more.",
            ) from error


@dataclass(frozen=True, slots=True)
class _TrainedEpoch:
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    waited_seconds: float


def _train_epoch(
    state: TrainState, task: Task, config: TrainConfig, math: Arithmetic, epoch: int
) -> _TrainedEpoch:
    started = time.perf_counter()
    torch.manual_seed(seed_for(config.random_seed, "dropout", epoch))  # and MixUp's draws
    state.set_training()
    step = _Step(state, task, config, math)
    batches = Prefetched(
        training_batches(
            task.train, epoch=epoch, batch_size=config.batch_size, random_seed=config.random_seed
        )
    )
    totals = torch.zeros(2, dtype=torch.float64, device=math.device)  # loss sum, correct
    for batch in batches:
        learning_rate = float(state.scheduler.get_last_lr()[0])
        totals += step(batch, epoch)
    loss_sum, num_correct = totals.tolist()  # the one read off the device
    return _TrainedEpoch(
        loss=loss_sum / len(task.train),
        accuracy=num_correct / len(task.train),
        learning_rate=learning_rate,
        seconds=time.perf_counter() - started,
        waited_seconds=batches.waited_seconds,
    )


class _Step:
    """One optimizer step, with what does not change between steps made once."""

    def __init__(
        self, state: TrainState, task: Task, config: TrainConfig, math: Arithmetic
    ) -> None:
        self._state, self._task, self._config, self._math = state, task, config, math
        labels = torch.from_numpy(task.train.labels)
        self._loss = make_loss(config, labels, task.num_classes).to(math.device)
        self._mixer = make_mixer(config, task.num_classes)

    def __call__(self, batch: Batch, epoch: int) -> Tensor:
        """Learn from one batch; (2,) float64 on the device: loss times N, number correct."""
        state, math = self._state, self._math
        pixels, labels = self._on_device(batch, epoch)
        images = self._task.preprocessing.normalised(pixels)
        images, targets = self._mixer(images, labels) if self._mixer else (images, labels)
        images = images.contiguous(memory_format=math.memory_format)
        with math.autocast():
            logits = state.network(images)
        loss = self._loss(logits.float(), targets)
        if not bool(loss.isfinite()):
            raise NonFiniteLossError(f"the training loss became {loss.item()} in epoch {epoch}")
        self._apply(loss)
        correct = (logits.detach().argmax(dim=1) == labels).sum()
        return torch.stack([loss.detach().double() * len(batch), correct.double()])

    def _on_device(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        pixels = batch.pixels.to(self._math.device, non_blocking=True)
        changed = augmented(
            pixels,
            batch.positions,
            augment=self._config.augment,
            epoch=epoch,
            random_seed=self._config.random_seed,
            size=self._task.preprocessing.image_size,
            steps=self._task.train_steps,
        )
        return changed, batch.labels.to(self._math.device, non_blocking=True)

    def _apply(self, loss: Tensor) -> None:
        state = self._state
        state.optimizer.zero_grad(set_to_none=True)
        state.scaler.scale(loss).backward()
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.scheduler.step()
        if state.average is not None:
            state.average.update_parameters(state.network)
