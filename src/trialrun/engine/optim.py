"""Optimizer, learning rate schedule, loss and MixUp of a run, built from its settings."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from trialrun.config import TrainConfig

_MOMENTUM = 0.9  # as in Azure ML designer, with Nesterov's correction
_POLYNOMIAL_POWER = 2  # as in Azure ML designer


def make_optimizer(network: nn.Module, config: TrainConfig, world_size: int = 1) -> Optimizer:
    """Make the optimizer of the parameters that require gradients."""
    learning_rate = config.learning_rate * (world_size if config.scale_learning_rate else 1)
    groups = _make_parameter_groups(network, config)
    if config.optimizer == "adamw":
        return AdamW(groups, lr=learning_rate, weight_decay=config.weight_decay, fused=True)
    return SGD(
        groups,
        lr=learning_rate,
        momentum=_MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _make_parameter_groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters; without `decay_norms`, vectors get no weight decay.

    Vectors are biases and the parameters of normalization layers.
    """
    trainable = [p for p in network.parameters() if p.requires_grad]
    if config.decay_norms:
        return [{"params": trainable}]
    return [
        {"params": [p for p in trainable if p.ndim > 1]},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def make_scheduler(
    optimizer: Optimizer, config: TrainConfig, warm_up_steps: int, num_steps: int
) -> LambdaLR:
    """Make the per-step schedule: a linear warm-up, then `config.schedule` up to `num_steps`."""
    return LambdaLR(optimizer, make_schedule(config.schedule, warm_up_steps, num_steps))


def make_schedule(schedule: str, warm_up_steps: int, num_steps: int) -> Callable[[int], float]:
    """Return a function from step (from 0) to share of the peak learning rate, in [0, 1]."""

    def compute_factor(step: int) -> float:
        if step < warm_up_steps:
            return (step + 1) / (warm_up_steps + 1)
        progress = min((step - warm_up_steps) / max(num_steps - warm_up_steps, 1), 1.0)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        if schedule == "polynomial":
            return float((1 - progress) ** _POLYNOMIAL_POWER)
        return 1.0

    return compute_factor


def make_loss(config: TrainConfig, labels: Tensor, num_classes: int) -> nn.CrossEntropyLoss:
    """Make the training loss; `labels`, (N,) int64, are those of the training set."""
    weight = None
    if config.class_weights == "balanced":
        counts = torch.bincount(labels, minlength=num_classes).clamp_(min=1)
        weight = len(labels) / (num_classes * counts.to(torch.float32))
    return nn.CrossEntropyLoss(weight=weight, label_smoothing=config.label_smoothing)


def make_mixer(config: TrainConfig, num_classes: int) -> v2.Transform | None:
    """Make MixUp, CutMix or a random choice of the two; None if both are off."""
    mixers: list[v2.Transform] = []
    if config.mixup > 0:
        mixers.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
    if config.cutmix > 0:
        mixers.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
    if len(mixers) < 2:
        return mixers[0] if mixers else None
    return v2.RandomChoice(mixers)


def freeze_backbone(network: nn.Module, head_prefix: str) -> None:
    """Require gradients for the last layer only."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name.startswith(head_prefix))
