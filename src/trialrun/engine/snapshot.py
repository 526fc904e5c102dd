"""Capture and restoration of the training state, so that a resumed training is bit-identical.

The tensors keep their memory layout when they are restored: kernels may sum in another order for
another layout.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trialrun.engine.state import TrainState

_CPU_GENERATOR, _DEVICE_GENERATOR = "generator.cpu", "generator.device"
_TOTALS = "totals"


def capture_tensors(state: TrainState) -> dict[str, Tensor]:
    """Return the tensors of `state` except the network's, and torch's generators.

    The tensors of `state` are not copied.
    """
    tensors: dict[str, Tensor] = {}
    for index, values in enumerate(_list_optimizer_states(state)):
        tensors |= {
            f"optimizer.{index}.{name}": value
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
    if state.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in state.ema.module.state_dict().items()}
    if state.batch_norm_statistics is not None:
        averages = state.batch_norm_statistics.list_averages()
        tensors |= {f"batch_norm.{index}": value for index, value in enumerate(averages)}
    return tensors | {_TOTALS: state.totals} | capture_generators(state.compute.device)


def capture_generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of torch's generators on the CPU and on `device`, (N,) uint8 each."""
    states = {_CPU_GENERATOR: torch.get_rng_state()}
    if device.type == "cuda":
        states[_DEVICE_GENERATOR] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states[_DEVICE_GENERATOR] = torch.mps.get_rng_state()
    return states


def capture_values(state: TrainState) -> dict[str, Any]:
    """Return the plain values of `state`, for JSON."""
    statistics, ema = state.batch_norm_statistics, state.ema
    return {
        "epoch": state.epoch,
        "step": state.step,
        "learning_rate": state.learning_rate,
        "train_seconds": state.train_seconds,
        "num_images": state.num_images,
        "num_parts": state.num_parts,
        "scheduler_step": state.scheduler.last_epoch,
        "base_learning_rates": list(state.scheduler.base_lrs),
        "group_learning_rates": [group["lr"] for group in state.optimizer.param_groups],
        "grad_scaler": state.grad_scaler.state_dict(),
        "ema_updates": None if ema is None else int(ema.n_averaged),
        "ema_first_buffer_update": None if ema is None else ema.first_buffer_update,
        "batch_norm_step": None if statistics is None else statistics.step,
        "batch_norm_first_step": None if statistics is None else statistics.first_step,
    }


@torch.no_grad()
def restore_state(
    state: TrainState,
    network: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Restore what `capture_tensors` and `capture_values` returned, generators excepted.

    `network` is the network's state dict.

    Raises:
        KeyError: A tensor is missing.
        RuntimeError: A tensor has another shape: the state is of another network.
    """
    for name, value in state.network.state_dict().items():
        value.copy_(network[name])
    _restore_optimizer(state, tensors)
    if state.ema is not None:
        for name, value in state.ema.module.state_dict().items():
            value.copy_(tensors[f"ema.{name}"])
        state.ema.n_averaged.fill_(values["ema_updates"])
        # Checkpoints before version 0.3 have neither this nor the first step of batch norm.
        state.ema.first_buffer_update = values.get("ema_first_buffer_update", 0)
    if state.batch_norm_statistics is not None:
        state.batch_norm_statistics.step = values["batch_norm_step"]
        state.batch_norm_statistics.first_step = values.get("batch_norm_first_step", 0)
        for index, average in enumerate(state.batch_norm_statistics.list_averages()):
            average.copy_(tensors[f"batch_norm.{index}"])
    state.totals.copy_(tensors[_TOTALS])
    state.epoch, state.step = values["epoch"], values["step"]
    state.num_parts = values["num_parts"]
    state.learning_rate, state.train_seconds = values["learning_rate"], values["train_seconds"]
    state.num_images = values.get("num_images")  # earlier checkpoints have none
    _restore_schedule(state, values)
    state.grad_scaler.load_state_dict(dict(values["grad_scaler"]))


def restore_generators(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Restore what `capture_generators` returned; call it last, right before training."""
    torch.set_rng_state(tensors[_CPU_GENERATOR])
    if device.type == "cuda" and _DEVICE_GENERATOR in tensors:
        torch.cuda.set_rng_state(tensors[_DEVICE_GENERATOR], device)
    elif device.type == "mps" and _DEVICE_GENERATOR in tensors:
        torch.mps.set_rng_state(tensors[_DEVICE_GENERATOR])


def _list_optimizer_states(state: TrainState) -> list[dict[str, Any]]:
    """Return the optimizer's state of each parameter, in the order of the groups."""
    return [
        state.optimizer.state.get(parameter, {})
        for group in state.optimizer.param_groups
        for parameter in group["params"]
    ]


def _restore_optimizer(state: TrainState, tensors: Mapping[str, Tensor]) -> None:
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    for key, stored in tensors.items():
        kind, _, rest = key.partition(".")
        if kind != "optimizer":
            continue
        index, _, name = rest.partition(".")
        parameter = parameters[int(index)]
        if stored.shape == parameter.shape:
            value = torch.empty_like(parameter, dtype=stored.dtype).copy_(stored)
        else:  # AdamW's step, a scalar on the parameter's device where the optimizer is fused
            value = stored.to(parameter.device)
        state.optimizer.state[parameter][name] = value


def _restore_schedule(state: TrainState, values: Mapping[str, Any]) -> None:
    scheduler, rates = state.scheduler, list(values["group_learning_rates"])
    scheduler.last_epoch = values["scheduler_step"]
    scheduler._step_count = values["scheduler_step"] + 1
    scheduler._last_lr = rates
    scheduler.base_lrs = list(values["base_learning_rates"])
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
