"""torch's optimizers for training without `torch.compile` of their steps.

torch wraps their methods with calls of its compiler, which takes 0.9 s to load (torch 2.15,
benchmarks/lifetime.py). These classes have the methods without the wrappers.
"""

from inspect import unwrap

import torch
from torch.optim import LBFGS, SGD, AdamW, Optimizer


class _EagerMethods:
    """Methods of `Optimizer` without their wrappers."""

    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    zero_grad = unwrap(Optimizer.zero_grad)


class EagerSGD(_EagerMethods, SGD):
    """`torch.optim.SGD`, step by step."""

    step = torch.no_grad()(unwrap(SGD.step))


class EagerAdamW(_EagerMethods, AdamW):
    """`torch.optim.AdamW`, step by step."""

    step = torch.no_grad()(unwrap(AdamW.step))


class EagerLBFGS(_EagerMethods, LBFGS):
    """`torch.optim.LBFGS`, step by step."""

    step = torch.no_grad()(unwrap(LBFGS.step))
