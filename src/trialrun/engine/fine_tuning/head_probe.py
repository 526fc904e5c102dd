"""The start of a new last layer: logistic regression on the features of pretrained layers.

Fine-tuning from a random last layer first distorts the pretrained features (Kumar et al. 2022,
arXiv:2202.10054). The regression costs one forward pass over the training images.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from trialrun.config import TrainConfig
from trialrun.distributed import Ranks
from trialrun.engine.compute.threads import limit_threads
from trialrun.engine.eager_optimizers import EagerLBFGS
from trialrun.engine.inputs.features import compute_features, describe_computation
from trialrun.engine.inputs.order import NATURAL
from trialrun.engine.optim import make_loss
from trialrun.engine.state import TrainState

# Of the squared weights, as in scikit-learn's LogisticRegression with its default C=1.
_PENALTY = 0.5
_MAX_ITERATIONS = 200


def fit_head(state: TrainState, config: TrainConfig, ranks: Ranks) -> bool:
    """Fit the last layer to the features of the training images; return whether this is possible.

    The optimum does not depend on the layer's present weights. All ranks call this and get the
    weights of rank 0.
    """
    head = find_linear_head(state.network, state.head_prefix)
    if head is None:
        return False
    features = _find_features(state, head)
    if features is None:
        return False
    device = state.compute.device
    labels = torch.from_numpy(state.image_data.train.labels).to(device)
    if config.class_sampling != NATURAL:  # all images are used here, so weights balance them
        config = replace(config, class_weights="balanced")
    loss = make_loss(config, labels.cpu(), state.image_data.num_classes).to(device)

    def fit() -> tuple[Tensor, Tensor]:
        with limit_threads(len(labels) * head.weight.numel()):
            return _fit_logistic_regression(features.to(device), labels, loss, len(head.bias))

    store = state.image_data.features
    if store is None or state.trainable is not head:
        weight, bias = fit()
    else:  # the trials of a search have the same optimum
        how = describe_computation(state.image_data, config, state.compute)
        how += f" {config.class_weights} {config.label_smoothing}"
        weight, bias = store.load_or_fit(how, fit)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    ranks.broadcast_tensors([head.weight.data, head.bias.data])
    return True


def find_linear_head(network: nn.Module, head_prefix: str) -> nn.Linear | None:
    """Return the last layer if a logistic regression can replace it; None for a convolution.

    The logits of SqueezeNet are averages of its last layer after ReLU, so not linear in features.
    """
    head = network.get_submodule(head_prefix.removesuffix("."))
    return head if isinstance(head, nn.Linear) and head.bias is not None else None


def _find_features(state: TrainState, head: nn.Linear) -> Tensor | None:
    """Return the (N, F) features of the training images, or None if they are too large."""
    if state.trainable is head:  # they are the inputs of the first epochs
        positions = np.arange(len(state.data.train))
        return state.data.train.load_batch(positions, len(positions)).pixels
    return compute_features(state.network, head, state.image_data, state.compute)


def _fit_logistic_regression(
    features: Tensor, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor], num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return (C, F) weights and (C,) biases for (N, F) features and (N,) labels."""
    weight = features.new_zeros(num_classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(num_classes).requires_grad_()
    optimizer = EagerLBFGS(
        [weight, bias],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-4,
        line_search_fn="strong_wolfe",
    )

    def compute_loss() -> Tensor:
        optimizer.zero_grad()
        penalty = _PENALTY * weight.square().sum() / len(labels)
        total = loss(nn.functional.linear(features, weight, bias), labels) + penalty
        total.backward()
        return total

    optimizer.step(compute_loss)
    return weight.detach(), bias.detach()
