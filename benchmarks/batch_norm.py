"""Validation accuracy of short runs with different rules for running batch-norm statistics.

    python -m benchmarks.batch_norm [--models resnet18,mnasnet0_5] [--epochs 5] [--stride 1]

The digits, batch 16, learning rate 0.01, fp32. Statistics do not affect training, so one training
is enough for all rules: each rule has its own running statistics of the same batches, and the
network is validated with all of them after each epoch. `own` is torchvision's momentum. `0.1` is at
least that momentum for every network. `warm c` is the larger of its own and c / (n + c) at step n;
`engine.batch_norm` uses c = 20. `exact` is the mean over 512 training images after the epoch, which
costs about a tenth of an epoch here. `--stride 4` trains on every fourth image.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.table import format_table, make_heading
from trialrun.distributed import SINGLE_PROCESS
from trialrun.engine.evaluate import evaluate_network
from trialrun.engine.inputs.batches import sequential_batches, training_batches
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep
from trialrun.models.zoo.networks import build_network
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.inputs.data import PreparedData, prepare_data
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

MODELS = "resnet18,mobilenet_v2,efficientnet_b0,mobilenet_v3_small,mobilenet_v3_large,"
MODELS += "mnasnet0_5,mnasnet0_75,mnasnet1_0,mnasnet1_3,efficientnet_b5,efficientnet_b6,"
MODELS += "efficientnet_b7,maxvit_t"
EXACT_IMAGES = 512


def make_warm_up(window: int) -> Callable[[int, float], float]:
    """Return a function from a step and a layer's own momentum to the warmed-up momentum."""
    return lambda step, own: max(own, window / (step + window))


RULES: dict[str, Callable[[int, float], float]] = {
    "own": lambda _step, own: own,
    "0.1": lambda _step, own: max(own, 0.1),
    "warm 4": make_warm_up(4),
    "warm 9": make_warm_up(9),
    "warm 20": make_warm_up(20),
    "warm 50": make_warm_up(50),
}


class Averages:
    """Running statistics per rule, of the batches of a network with momentum 1."""

    def __init__(self, norms: list[_BatchNorm], own: list[float]) -> None:
        self._norms, self._own, self._step = norms, own, 0
        self._averages = {rule: [_init_averages(norm) for norm in norms] for rule in RULES}

    @torch.no_grad()
    def update(self) -> None:
        """Add the last batch to every rule's averages."""
        for rule, momentum in RULES.items():
            for norm, own, (mean, var) in zip(
                self._norms, self._own, self._averages[rule], strict=True
            ):
                mean.lerp_(_get_mean(norm), momentum(self._step, own))
                var.lerp_(_get_variance(norm), momentum(self._step, own))
        self._step += 1

    @torch.no_grad()
    def store(self, rule: str) -> None:
        """Write the averages of one rule into the network."""
        for norm, (mean, var) in zip(self._norms, self._averages[rule], strict=True):
            _get_mean(norm).copy_(mean)
            _get_variance(norm).copy_(var)


def _get_mean(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def _get_variance(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.running_var


def _init_averages(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(_get_mean(norm)), torch.ones_like(_get_variance(norm))


def measure_accuracy(state: TrainState, network: nn.Module) -> float:
    """Return the validation accuracy, 0 to 1."""
    batches = sequential_batches(state.data.valid, 64)
    preprocessing, num_images = state.data.preprocessing, len(state.data.valid)
    return evaluate_network(
        network, batches, preprocessing, state.compute, num_images=num_images
    ).accuracy


@torch.no_grad()
def compute_exact(state: TrainState, norms: list[_BatchNorm], epoch: int) -> None:
    """Set the statistics to their mean over `EXACT_IMAGES` training images."""
    state.network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
        norm.train()
    num_images = 0
    for batch in training_batches(state.data.train, epoch=-epoch, batch_size=16, random_seed=1):
        state.network(state.data.preprocessing.normalised(batch.pixels))
        if (num_images := num_images + len(batch)) >= EXACT_IMAGES:
            break
    for norm in norms:
        norm.momentum = 1.0


def find_norms(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch-norm layers of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def subsample(stride: int, data: PreparedData) -> PreparedData:
    """Keep every `stride`-th training image."""
    dataset = data.train.dataset
    subset = replace(dataset, rows=dataset.rows[::stride], labels=dataset.labels[::stride])
    return replace(data, train=replace(data.train, dataset=subset))


def find_own_momentum(model: str) -> float:
    """Return torchvision's momentum of a network's batch norms."""
    momentum = find_norms(build_network(model, 2, image_size=224))[0].momentum
    assert momentum is not None
    return momentum


def train(model: str, plan: TrainPlan, state: TrainState) -> list[list[object]]:
    """Return one row per epoch: training accuracy, then validation accuracy per rule."""
    norms, own, rows = find_norms(state.network), find_own_momentum(model), []
    state.batch_norm_statistics = None  # replaced by the rules compared here
    for norm in norms:
        norm.momentum = 1.0
    averages = Averages(norms, [own] * len(norms))
    for epoch in range(1, plan.config.epochs + 1):
        torch.manual_seed(epoch)
        state.set_training()
        step = TrainingStep(state, plan.config, SINGLE_PROCESS, epoch)
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in training_batches(state.data.train, epoch=epoch, batch_size=16, random_seed=1):
            totals += step(batch)
            averages.update()
        accuracies = []
        for rule in RULES:
            averages.store(rule)
            accuracies.append(measure_accuracy(state, state.network))
        compute_exact(state, norms, epoch)
        accuracies.append(measure_accuracy(state, state.network))
        rows.append([model, own, epoch, float(totals[1]) / len(state.data.train), *accuracies])
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--stride", type=int, default=1)
    arguments = parser.parse_args()
    rows = []
    for model in arguments.models.split(","):
        settings = {"model": model, "learning_rate": 0.01, "precision": "fp32"}
        if model == "maxvit_t":
            settings["image_size"] = 224  # the minimum
        plan = plan_training(settings | {"epochs": arguments.epochs, "patience": arguments.epochs})
        data = subsample(arguments.stride, prepare_data(plan, NoOpCallback()))
        rows += train(
            model, plan, start_session(plan, data, resolve_rank_compute(plan), SINGLE_PROCESS).state
        )
    columns = ("model", "own", "epoch", "train", *RULES, f"exact, {EXACT_IMAGES} images")
    sys.stdout.write(make_heading("Validation accuracy by batch-norm statistics") + "\n")
    sys.stdout.write(format_table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
