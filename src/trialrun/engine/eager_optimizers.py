"""torch's optimizers for training without `torch.compile` of their steps.

torch wraps their methods with calls of its compiler, which takes 0.9 s to load (torch 2.15,
benchmarks/lifetime.py). These classes have the methods without the wrappers.
"""

from collections.abc import Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, SGD, AdamW, Optimizer

_SGD_SETTINGS = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")
_NUM_AXES = 4  # of the weights of a convolution


def _drop_gradients(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


class _EagerMethods:
    """Methods of `Optimizer` without their wrappers."""

    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    zero_grad: Any = _drop_gradients

    def _patch_step_function(self) -> None:
        """Leave `step` without torch's wrapper, which tells profilers of each call."""


class EagerSGD(_EagerMethods, SGD):
    """`torch.optim.SGD` with the fused kernel, step by step."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Apply the gradients."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            momenta = [self._find_momentum(parameter) for parameter in parameters]
            torch._fused_sgd_(
                order_by_memory(parameters, parameters),
                order_gradients([p.grad for p in parameters], parameters),
                order_by_memory(momenta, parameters),
                is_first_step=False,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                **{name: group[name] for name in _SGD_SETTINGS},
            )

    def _find_momentum(self, parameter: Tensor) -> Tensor:
        """Return the momentum; one that is missing starts at 0.

        This gives the same bits as torch's first step. torch leaves it uninitialized if the device
        skips that step for a loss that is not finite.
        """
        state: dict[str, Tensor] = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


class EagerAdamW(_EagerMethods, AdamW):
    """`torch.optim.AdamW`, step by step."""

    step = torch.no_grad()(unwrap(AdamW.step))

    def _init_group(self, group: dict[str, Any], *lists: list[Any]) -> bool:
        has_complex: bool = super()._init_group(group, *lists)  # type: ignore[no-untyped-call]
        parameters, gradients, *states = lists
        gradients[:] = order_gradients(gradients, parameters)
        for tensors in states:
            tensors[:] = order_by_memory(tensors, parameters)
        parameters[:] = order_by_memory(parameters, parameters)
        return has_complex


class EagerLBFGS(_EagerMethods, LBFGS):
    """`torch.optim.LBFGS`, step by step."""

    step = torch.no_grad()(unwrap(LBFGS.step))


def order_by_memory(tensors: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return views (N, H, W, C) of the tensors of channels-last parameters (N, C, H, W).

    On a CPU, torch's fused kernels take twice as long for tensors with channels last: SGD's step of
    ResNet-18's weights 7.0 instead of 3.3 ms (two cores). Numbers of steps stay as they are.
    """
    return [
        tensor.permute(0, 2, 3, 1)
        if tensor.ndim == _NUM_AXES and _is_channels_last(parameter)
        else tensor
        for tensor, parameter in zip(tensors, parameters, strict=False)
    ]


def order_gradients(gradients: Sequence[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return `order_by_memory` of the gradients; those with another layout are copied.

    torch's fused kernels on a CPU mix up values if the layouts of a parameter and its gradient
    differ (torch 2.15).
    """
    return [
        gradient.contiguous() if ordered.is_contiguous() else gradient
        for gradient, ordered in zip(
            order_by_memory(gradients, parameters),
            order_by_memory(parameters, parameters),
            strict=True,
        )
    ]


def _is_channels_last(parameter: Tensor) -> bool:
    return (
        parameter.device.type == "cpu"
        and parameter.ndim == _NUM_AXES
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
    )
