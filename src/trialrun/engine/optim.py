"""Optimizer, learning rate schedule, loss and MixUp of a run, built from its settings."""

import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms import v2

from trialrun.config import AUTO_TEXT, TrainConfig
from trialrun.engine.eager_optimizers import EagerAdamW, EagerSGD
from trialrun.engine.steps import ONE_CYCLE

_MOMENTUM = 0.9  # as in Azure ML designer, with Nesterov's correction
_ONE_CYCLE_START, _ONE_CYCLE_END = 1 / 25, 1e-4  # relative to the peak, and to the start
_POLYNOMIAL_POWER = 2  # as in Azure ML designer
_SCALE = "layer_scale"  # of the learning rate of a parameter group
# The name of a parameter up to its first number: `features.3`, `encoder.layers.encoder_layer_0`.
_NUMBERED = re.compile(r"(?:[^.\d]+\.)*[^.]*\d[^.]*")


def make_optimizer(
    network: nn.Module, config: TrainConfig, world_size: int = 1, head_prefix: str = ""
) -> Optimizer:
    """Make the optimizer of the parameters that require gradients.

    `head_prefix` is that of a last layer which trains alone at first: it gets a group of its own,
    because torch's fused SGD needs the momentum of all parameters of a group, or of none.
    learning_rate=auto is replaced before the first epoch, with `set_peak_learning_rate`.
    """
    peak = 0.0 if config.learning_rate == AUTO_TEXT else float(config.learning_rate)
    learning_rate = peak * (world_size if config.scale_learning_rate else 1)
    groups = _make_parameter_groups(network, config, head_prefix)
    for group in groups:
        group["lr"] = learning_rate * group[_SCALE]
    if config.optimizer == "adamw":
        return EagerAdamW(groups, lr=learning_rate, weight_decay=config.weight_decay, fused=True)
    return EagerSGD(
        groups,
        lr=learning_rate,
        momentum=_MOMENTUM,
        nesterov=True,
        weight_decay=config.weight_decay,
        fused=True,
    )


def _make_parameter_groups(
    network: nn.Module, config: TrainConfig, head_prefix: str
) -> list[dict[str, Any]]:
    """Group the trainable parameters by layer, and without `decay_norms` by weight decay.

    The first group is that of the last layer, with the full learning rate. Vectors are biases and
    the parameters of normalization layers.
    """
    trainable = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    head = [p for name, p in trainable if head_prefix and name.startswith(head_prefix)]
    backbone = [(name, p) for name, p in trainable if not any(p is other for other in head)]
    decay = float(config.layer_decay)
    layers = [[p for _, p in backbone]] if decay == 1 else group_by_layer(backbone)[::-1]
    groups: list[dict[str, Any]] = []
    for depth, parameters in enumerate([head, *layers] if head else layers):
        scale = {_SCALE: decay**depth}
        if config.decay_norms:
            groups.append({"params": parameters, **scale})
            continue
        tensors = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        groups.append({"params": tensors, **scale})
        groups.append({"params": vectors, "weight_decay": 0.0, **scale})
    return groups


def group_by_layer(named: Sequence[tuple[str, nn.Parameter]]) -> list[list[nn.Parameter]]:
    """Group parameters by the blocks of the network, from the input to the last layer.

    A block is a numbered part of the network, `layer1` or `features.3`, or a layer. Parameters
    without a matrix, such as those of a normalization layer, belong to the block before.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    for name, parameter in named:
        match = _NUMBERED.match(name)
        block = match[0] if match else name.rpartition(".")[0] or name
        blocks.setdefault(block, []).append(parameter)
    groups: list[list[nn.Parameter]] = []
    for parameters in blocks.values():
        if groups and all(p.ndim <= 1 for p in parameters):
            groups[-1].extend(parameters)
        else:
            groups.append(parameters)
    return groups


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the next step; layers have their share of it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group[_SCALE]


def set_peak_learning_rate(scheduler: LambdaLR, learning_rate: float) -> None:
    """Set the rate that the schedule's shares refer to, before the first step."""
    groups = scheduler.optimizer.param_groups
    scheduler.base_lrs = [learning_rate * group[_SCALE] for group in groups]
    shares = [make_share(scheduler.last_epoch) for make_share in scheduler.lr_lambdas]
    for group, base, share in zip(groups, scheduler.base_lrs, shares, strict=True):
        group["initial_lr"], group["lr"] = base, base * share
    scheduler._last_lr = [group["lr"] for group in groups]


def make_scheduler(
    optimizer: Optimizer,
    config: TrainConfig,
    warm_up_steps: int,
    num_steps: int,
    num_small_steps: int = 0,
) -> LambdaLR:
    """Make the schedule of a run whose first `num_small_steps` have smaller images."""
    return LambdaLR(
        optimizer, make_schedule(config.schedule, warm_up_steps, num_steps, num_small_steps)
    )


def make_schedule(
    schedule: str, warm_up_steps: int, num_steps: int, num_peak_steps: int = 0
) -> Callable[[int], float]:
    """Return a function from step (from 0) to share of the peak learning rate, in [0, 1].

    The rate rises over the warm-up and stays at its peak up to step `num_peak_steps`. Then it falls
    as `schedule` says, up to `num_steps`.
    """
    fall_start = max(warm_up_steps, num_peak_steps)
    if schedule == ONE_CYCLE:
        return partial(_compute_one_cycle, warm_up_steps, fall_start, num_steps)

    def compute_factor(step: int) -> float:
        if step < warm_up_steps:
            return (step + 1) / (warm_up_steps + 1)
        progress = min(max(step - fall_start, 0) / max(num_steps - fall_start, 1), 1.0)
        if schedule == "cosine":
            return _interpolate(1.0, 0.0, progress)
        if schedule == "polynomial":
            return float((1 - progress) ** _POLYNOMIAL_POWER)
        return 1.0

    return compute_factor


def _compute_one_cycle(warm_up_steps: int, fall_start: int, num_steps: int, step: int) -> float:
    """Return the share of the peak: two halves of a cosine, up to the peak and down.

    Source:
        Smith and Topin 2018, arXiv:1708.07120, with the numbers of torch's OneCycleLR. The momentum
        stays as it is.
    """
    if step < warm_up_steps:
        return _interpolate(_ONE_CYCLE_START, 1.0, step / warm_up_steps)
    progress = max(step - fall_start, 0) / max(num_steps - 1 - fall_start, 1)
    return _interpolate(1.0, _ONE_CYCLE_START * _ONE_CYCLE_END, min(progress, 1.0))


def _interpolate(first: float, last: float, progress: float) -> float:
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


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
