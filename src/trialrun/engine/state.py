"""All that training changes, and how it begins."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks
from trialrun.engine.batch_norm import RunningStatistics
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.ema import MovingAverage
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.features import use_features
from trialrun.engine.optim import freeze_backbone, make_optimizer, make_scheduler
from trialrun.engine.steps import count_steps_per_epoch, count_warm_up_steps


@dataclass(slots=True)
class TrainState:
    """A network and what trains it.

    What learns is `core`: `network` itself, or its last layer alone where the backbone is frozen
    and `task` holds the backbone's features. `learner` is the core as a step runs it, compiled or
    wrapped for several ranks.
    """

    network: nn.Module
    trainable: nn.Module
    train_module: nn.Module
    task: TrainingData
    compute: ComputeConfig
    optimizer: Optimizer
    scheduler: LambdaLR
    warm_up_steps: int
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    statistics: RunningStatistics | None  # None where the backbone is frozen
    frozen: bool
    epoch: int = 0  # epochs done

    def inference_model(self) -> nn.Module:
        """The network that is kept: the moving average where there is one."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    def eval_module(self) -> nn.Module:
        """What takes the task's inputs and computes as `deployed` does."""
        return self.inference_model() if self.trainable is self.network else self.trainable

    def set_training(self) -> None:
        """Training mode; a frozen backbone keeps its batch-norm statistics."""
        self.train_module.train(not self.frozen)


def init_train_state(
    network: nn.Module,
    head_prefix: str,
    task: TrainingData,
    config: TrainConfig,
    compute: ComputeConfig,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainState:
    """The state before the first epoch, `network` moved to the device."""
    compute = compute.with_best_memory_format(network, task.preprocessing.image_size)
    if ranks.world_size > 1 and compute.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # CUDA has it, CPUs do not
    network.to(compute.device).to(memory_format=compute.memory_format)
    frozen = config.freeze == "backbone"
    trainable, learned = network, task
    if frozen:
        freeze_backbone(network, head_prefix)
        trainable, learned = use_features(network, head_prefix, task, config, compute)
    optimizer = make_optimizer(trainable, config, ranks.world_size)
    warm_up = count_warm_up_steps(config, len(task.train), ranks.world_size)
    num_steps = config.epochs * count_steps_per_epoch(config, len(task.train), ranks.world_size)
    return TrainState(
        network=network,
        trainable=trainable,
        train_module=_wrap_ddp(trainable, config, compute, ranks),
        task=learned,
        compute=compute,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, warm_up, num_steps),
        warm_up_steps=warm_up,
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.precision == "fp16"),
        average=MovingAverage(network, config.ema) if config.ema else None,
        statistics=None if frozen else RunningStatistics(network),
        frozen=frozen,
    )


def _wrap_ddp(
    train_module: nn.Module, config: TrainConfig, compute: ComputeConfig, ranks: Ranks
) -> nn.Module:
    if ranks.world_size > 1:
        on_cuda = compute.device.type == "cuda"
        train_module = DistributedDataParallel(train_module, [compute.device] if on_cuda else None)
    if config.compile:
        compiled: nn.Module = torch.compile(train_module)  # type: ignore[assignment]
        return compiled
    return train_module
