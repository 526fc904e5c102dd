"""Tests of the optimizers without the wrappers for torch's compiler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from trialrun.engine.eager_optimizers import EagerAdamW, EagerLBFGS, EagerSGD

_MOMENTUM = {"momentum": 0.9, "nesterov": True}


def take_steps(make: Callable[..., Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    """Take three steps; return the parameters and the optimizer's state."""
    torch.manual_seed(1)
    network = nn.Linear(4, 3)
    optimizer = make(network.parameters(), lr=0.1, fused=True, **options)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    assert torch.is_grad_enabled()
    reloaded = make(network.parameters(), lr=0.2, **options)
    reloaded.load_state_dict(optimizer.state_dict())
    return {**network.state_dict(), **reloaded.state_dict()}


@pytest.mark.parametrize(
    ("eager", "usual", "options"), [(EagerSGD, SGD, _MOMENTUM), (EagerAdamW, AdamW, {})]
)
def test_steps_and_states_equal_those_of_torch(
    eager: type[Optimizer], usual: type[Optimizer], options: dict[str, Any]
) -> None:
    """Parameters, momenta and settings have the same bits."""
    torch.testing.assert_close(
        take_steps(eager, options), take_steps(usual, options), rtol=0, atol=0
    )


def fit_line(make: type[LBFGS]) -> torch.Tensor:
    """Return the weights of a regression that the optimizer fits."""
    torch.manual_seed(1)
    features, targets = torch.randn(20, 4), torch.randn(20)
    weights = torch.zeros(4, requires_grad=True)
    optimizer = make([weights], line_search_fn="strong_wolfe")

    def compute_loss() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (features @ weights - targets).square().mean()
        loss.backward()
        return loss

    optimizer.step(compute_loss)
    return weights.detach()


def test_lbfgs_equals_that_of_torch() -> None:
    """A fit with line searches has the same bits."""
    assert torch.equal(fit_line(EagerLBFGS), fit_line(LBFGS))
