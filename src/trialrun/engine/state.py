"""All that training changes, and how it begins."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from trialrun.config import TrainConfig
from trialrun.distributed import ALONE, Ranks
from trialrun.engine.batch_norm import RunningStatistics
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.ema import MovingAverage
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.inputs.features import use_features
from trialrun.engine.optim import freeze_backbone, make_optimizer, make_scheduler
from trialrun.engine.steps import count_warm_up_steps, steps_per_epoch


@dataclass(slots=True)
class TrainState:
    """A network and what trains it.

    What learns is `core`: `network` itself, or its last layer alone where the backbone is frozen
    and `task` holds the backbone's features. `learner` is the core as a step runs it, compiled or
    wrapped for several ranks.
    """

    network: nn.Module
    core: nn.Module
    learner: nn.Module
    task: TrainingData
    math: ComputeConfig
    optimizer: Optimizer
    scheduler: LambdaLR
    warm_up_steps: int
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    statistics: RunningStatistics | None  # None where the backbone is frozen
    frozen: bool
    epoch: int = 0  # epochs done

    def deployed(self) -> nn.Module:
        """The network that is kept: the moving average where there is one."""
        if self.average is None:
            return self.network
        averaged: nn.Module = self.average.module
        return averaged

    def evaluated(self) -> nn.Module:
        """What takes the task's inputs and computes as `deployed` does."""
        return self.deployed() if self.core is self.network else self.core

    def set_training(self) -> None:
        """Training mode; a frozen backbone keeps its batch-norm statistics."""
        self.learner.train(not self.frozen)


def init_train_state(
    network: nn.Module,
    head_prefix: str,
    task: TrainingData,
    config: TrainConfig,
    math: ComputeConfig,
    ranks: Ranks = ALONE,
) -> TrainState:
    """The state before the first epoch, `network` moved to the device."""
    math = math.suited_to(network, task.preprocessing.image_size)
    if ranks.world_size > 1 and math.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # CUDA has it, CPUs do not
    network.to(math.device).to(memory_format=math.memory_format)
    frozen = config.freeze == "backbone"
    core, learned = network, task
    if frozen:
        freeze_backbone(network, head_prefix)
        core, learned = use_features(network, head_prefix, task, config, math)
    optimizer = make_optimizer(core, config, ranks.world_size)
    warm_up = count_warm_up_steps(config, len(task.train), ranks.world_size)
    num_steps = config.epochs * steps_per_epoch(config, len(task.train), ranks.world_size)
    return TrainState(
        network=network,
        core=core,
        learner=_wrap_ddp(core, config, math, ranks),
        task=learned,
        math=math,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, config, warm_up, num_steps),
        warm_up_steps=warm_up,
        scaler=torch.amp.GradScaler(math.device.type, enabled=math.precision == "fp16"),
        average=MovingAverage(network, config.ema) if config.ema else None,
        statistics=None if frozen else RunningStatistics(network),
        frozen=frozen,
    )


def _wrap_ddp(
    learner: nn.Module, config: TrainConfig, math: ComputeConfig, ranks: Ranks
) -> nn.Module:
    if ranks.world_size > 1:
        on_cuda = math.device.type == "cuda"
        learner = DistributedDataParallel(learner, [math.device] if on_cuda else None)
    if config.compile:
        compiled: nn.Module = torch.compile(learner)  # type: ignore[assignment]
        return compiled
    return learner
