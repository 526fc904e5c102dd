"""The training state: everything that training changes, and its initial value."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.batch_norm import RunningStatistics
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.ema import MovingAverage
from trialrun.engine.image_sizes import SizeSchedule, plan_image_sizes
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.features import use_features
from trialrun.engine.optim import freeze_backbone, make_optimizer, make_scheduler
from trialrun.engine.steps import count_steps_per_epoch, count_warm_up_steps

# Validation keeps no activations for a backward pass, so twice the batch fits in the same memory.
_VALID_BATCH_FACTOR = 2


@dataclass(slots=True)
class TrainState:
    """A network, its optimizer and its data.

    `trainable` is the module that is trained: `network` itself, or only its last layer if the
    backbone is frozen and `data` holds the backbone's features of `image_data`. `train_module` is
    `trainable` as a step calls it: compiled, or wrapped for several ranks. `phases.enter_phase`
    changes them between epochs.
    """

    network: nn.Module
    trainable: nn.Module
    train_module: nn.Module
    data: TrainingData
    image_data: TrainingData
    head_prefix: str  # of the names of the last layer's parameters
    compute: ComputeConfig
    optimizer: Optimizer
    scheduler: LambdaLR
    warm_up_steps: int
    grad_scaler: torch.amp.GradScaler
    ema: MovingAverage | None
    batch_norm_statistics: RunningStatistics | None  # None if they stay as they are
    has_frozen_statistics: bool  # of batch norm
    has_frozen_backbone: bool
    image_sizes: SizeSchedule | None  # of training images; None if all epochs have the full size
    totals: Tensor  # (2,): sum of losses and number correct of the epoch's steps so far
    epoch: int = 0  # completed epochs
    step: int = 0  # completed steps of the next epoch
    learning_rate: float = 0.0  # of the last step
    train_seconds: float = 0.0  # of the epoch's steps before this process
    num_images: int | None = 0  # of the epoch's steps so far; None if a part was not counted
    num_parts: int = 1  # in which the last batch was computed
    valid_batch_size: int = 0  # of validation, unless parts of training are smaller
    checks_each_step: bool = False  # for losses that are not finite, also where it is slow
    is_in_step: bool = False  # the tensors belong to no step: an exception interrupted one

    def inference_model(self) -> nn.Module:
        """Return the network that is saved: the moving average if there is one."""
        if self.ema is None:
            return self.network
        averaged: nn.Module = self.ema.module
        return averaged

    def list_weights(self, *, changing_only: bool) -> dict[str, Tensor]:
        """Return the tensors of `inference_model` by name, or those that steps change now."""
        if changing_only and self.trains_on_features:
            return self.trainable.state_dict(prefix=self.head_prefix)
        return self.inference_model().state_dict()

    def changing_statistics(self) -> RunningStatistics | None:
        """Return the batch-norm statistics if steps change them: not with a frozen backbone."""
        return None if self.has_frozen_backbone else self.batch_norm_statistics

    def eval_module(self) -> nn.Module:
        """Return the module that maps the inputs in `data` to the outputs of `inference_model`."""
        return self.trainable if self.trains_on_features else self.inference_model()

    @property
    def trains_on_features(self) -> bool:
        """Whether only the last layer runs, on features of the images."""
        return self.trainable is not self.network

    def choose_image_size(self, epoch: int) -> int | None:
        """Return the size of the training images in an epoch, from 1; None is the full size."""
        return None if self.image_sizes is None else self.image_sizes.choose_size(epoch)

    def restart_statistics(self) -> None:
        """Start the running statistics again if the next epoch has images of another size."""
        if self.choose_image_size(self.epoch + 1) == self.choose_image_size(max(self.epoch, 1)):
            return
        if self.batch_norm_statistics is not None:
            self.batch_norm_statistics.restart()
        if self.ema is not None:
            self.ema.restart_buffers()

    def set_training(self) -> None:
        """Set training mode; evaluation mode where batch-norm statistics are to be kept."""
        self.train_module.train(not self.has_frozen_backbone)
        if self.has_frozen_statistics:
            for layer in self.network.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()


def init_train_state(
    network: nn.Module,
    head_prefix: str,
    data: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainState:
    """Return the state before the first epoch, with `network` moved to the device.

    `head_prefix` is the prefix of the last layer's parameter names.
    """
    compute = compute.for_network(network)
    if ranks.world_size > 1 and compute.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # not available on CPUs
    compute.place(network)
    freeze = config.freeze == "backbone"
    has_frozen_statistics = config.batch_norm == "frozen"
    trainable, trainable_data = network, data
    if freeze:
        freeze_backbone(network, head_prefix)
        trainable, trainable_data = use_features(network, head_prefix, data, config, compute)
    trains_head_first = not freeze and config.freeze_epochs not in (0, AUTO_TEXT)
    optimizer = make_optimizer(
        trainable, config, ranks.world_size, head_prefix if trains_head_first else ""
    )
    warm_up_steps = count_warm_up_steps(config, len(data.train), ranks.world_size)
    epoch_steps = count_steps_per_epoch(config, len(data.train), ranks.world_size)
    image_sizes = plan_image_sizes(config, data.preprocessing.image_size)
    num_small_steps = epoch_steps * image_sizes.num_uncounted_epochs if image_sizes else 0
    return TrainState(
        network=network,
        trainable=trainable,
        train_module=wrap_module(trainable, config, compute, ranks),
        data=trainable_data,
        image_data=data,
        head_prefix=head_prefix,
        compute=compute,
        optimizer=optimizer,
        scheduler=make_scheduler(
            optimizer, config, warm_up_steps, config.epochs * epoch_steps, num_small_steps
        ),
        warm_up_steps=warm_up_steps,
        grad_scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16"),
        ema=MovingAverage(network, config.ema) if config.ema else None,
        batch_norm_statistics=None
        if freeze or has_frozen_statistics
        else RunningStatistics(network),
        has_frozen_statistics=has_frozen_statistics,
        has_frozen_backbone=freeze,
        image_sizes=image_sizes,
        totals=torch.zeros(2, dtype=compute.accumulator_dtype, device=compute.device),
        num_parts=1 if config.accumulate_steps == AUTO_TEXT else int(config.accumulate_steps),
        valid_batch_size=_VALID_BATCH_FACTOR * config.batch_size,
    )


def wrap_module(
    module: nn.Module, config: TrainConfig, compute: ComputeConfig, ranks: Ranks
) -> nn.Module:
    """Return the module as a step calls it: wrapped for several ranks, and compiled."""
    if ranks.world_size > 1:
        on_cuda = compute.device.type == "cuda"
        module = DistributedDataParallel(module, [compute.device] if on_cuda else None)
    if config.compile:
        compiled: nn.Module = torch.compile(module)  # type: ignore[assignment]
        return compiled
    return module
