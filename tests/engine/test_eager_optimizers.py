"""Tests of the optimizers without the wrappers for torch's compiler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import LBFGS, SGD, AdamW, Optimizer

from trialrun.engine.eager_optimizers import EagerAdamW, EagerLBFGS, EagerSGD

_MOMENTUM = {"momentum": 0.9, "nesterov": True}
_FIRST, _LAST = torch.contiguous_format, torch.channels_last


def take_steps(make: Callable[..., Optimizer], options: dict[str, Any]) -> dict[str, Any]:
    """Take three steps; return the parameters and the optimizer's state."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.Flatten(), nn.Linear(12, 3))
    network.to(memory_format=torch.channels_last)
    optimizer = make(network.parameters(), lr=0.1, fused=True, **options)
    for _ in range(3):
        optimizer.zero_grad()
        images = torch.randn(8, 3, 4, 4).contiguous(memory_format=torch.channels_last)
        network(images).square().mean().backward()
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


@pytest.mark.parametrize("layouts", [(_LAST, _FIRST), (_FIRST, _LAST), (_LAST, _LAST)])
@pytest.mark.parametrize(
    ("eager", "usual", "options"), [(EagerSGD, SGD, _MOMENTUM), (EagerAdamW, AdamW, {})]
)
def test_gradients_may_have_another_layout_than_weights(
    eager: type[Optimizer],
    usual: type[Optimizer],
    options: dict[str, Any],
    layouts: tuple[torch.memory_format, torch.memory_format],
) -> None:
    """The steps are those of torch's loop over the weights; its fused kernel mixes up values."""
    results = []
    for make, is_fused in ((eager, True), (usual, False)):
        torch.manual_seed(1)
        weight = nn.Parameter(torch.randn(2, 3, 3, 4).to(memory_format=layouts[0]))
        optimizer = make([weight], lr=0.1, fused=is_fused, foreach=False, **options)  # type: ignore[call-arg]
        for _ in range(3):
            weight.grad = torch.randn(2, 3, 3, 4).to(memory_format=layouts[1])
            optimizer.step()
        states = [value for value in optimizer.state[weight].values() if value.ndim]
        assert states
        results.append([weight, *states])
    torch.testing.assert_close(*results)


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
