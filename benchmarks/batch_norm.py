"""Which running batch-norm statistics a short run can be validated with.

    python -m benchmarks.batch_norm [--models resnet18,mnasnet0_5] [--epochs 5] [--stride 1]

The digits, batch 16, learning rate 0.01, fp32. Statistics do not act on training, so one training
serves every rule: each has running statistics of its own, made of the same batches, and the network
is validated with all of them after each epoch. `own` is torchvision's momentum, `0.1` that momentum
for every network, `warm c` the larger of its own and c / (n + c) at step n (20 is the rule of
`engine.batch_norm`), `exact` the mean over a pass through 512 training images after the epoch,
which costs about a tenth of an epoch here. `--stride 4` trains on every fourth image.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.table import heading, table
from trialrun.distributed import ALONE
from trialrun.engine.evaluate import evaluate_network
from trialrun.engine.inputs.batches import sequential_batches, training_batches
from trialrun.engine.state import TrainState
from trialrun.engine.step import TrainingStep
from trialrun.models.zoo import build_network
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.training.data import PreparedData, prepare_data
from trialrun.runs.training.plan import TrainPlan, plan_training
from trialrun.runs.training.session import resolve_rank_compute, start_session

MODELS = "resnet18,mobilenet_v2,efficientnet_b0,mobilenet_v3_small,mobilenet_v3_large,"
MODELS += "mnasnet0_5,mnasnet0_75,mnasnet1_0,mnasnet1_3,efficientnet_b5,efficientnet_b6,"
MODELS += "efficientnet_b7,maxvit_t"
EXACT_IMAGES = 512


def warm(window: int) -> Callable[[int, float], float]:
    """The momentum of a step and a layer's own momentum, warmed up."""
    return lambda step, own: max(own, window / (step + window))


RULES: dict[str, Callable[[int, float], float]] = {
    "own": lambda _step, own: own,
    "0.1": lambda _step, own: max(own, 0.1),
    "warm 4": warm(4),
    "warm 9": warm(9),
    "warm 20": warm(20),
    "warm 50": warm(50),
}


class Averages:
    """Running statistics by rule, of the batches that a network with momentum 1 has seen."""

    def __init__(self, norms: list[_BatchNorm], own: list[float]) -> None:
        self._norms, self._own, self._step = norms, own, 0
        self._kept = {rule: [_initial(norm) for norm in norms] for rule in RULES}

    @torch.no_grad()
    def update(self) -> None:
        """Add the last batch to every rule's averages."""
        for rule, momentum in RULES.items():
            for norm, own, (mean, var) in zip(
                self._norms, self._own, self._kept[rule], strict=True
            ):
                mean.lerp_(_mean_of(norm), momentum(self._step, own))
                var.lerp_(_var_of(norm), momentum(self._step, own))
        self._step += 1

    @torch.no_grad()
    def store(self, rule: str) -> None:
        """Write one rule's averages into the network."""
        for norm, (mean, var) in zip(self._norms, self._kept[rule], strict=True):
            _mean_of(norm).copy_(mean)
            _var_of(norm).copy_(var)


def _mean_of(norm: _BatchNorm) -> Tensor:
    assert norm.running_mean is not None
    return norm.running_mean


def _var_of(norm: _BatchNorm) -> Tensor:
    assert norm.running_var is not None
    return norm.running_var


def _initial(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(_mean_of(norm)), torch.ones_like(_var_of(norm))


def accuracy(state: TrainState, network: nn.Module) -> float:
    """The share of validation images that are classified correctly."""
    batches = sequential_batches(state.task.valid, 64)
    preprocessing, num_images = state.task.preprocessing, len(state.task.valid)
    return evaluate_network(
        network, batches, preprocessing, state.compute, num_images=num_images
    ).accuracy


@torch.no_grad()
def make_exact(state: TrainState, norms: list[_BatchNorm], epoch: int) -> None:
    """Set the statistics to their mean over so many training images."""
    state.network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
        norm.train()
    num_seen = 0
    for batch in training_batches(state.task.train, epoch=-epoch, batch_size=16, random_seed=1):
        state.network(state.task.preprocessing.normalised(batch.pixels))
        if (num_seen := num_seen + len(batch)) >= EXACT_IMAGES:
            break
    for norm in norms:
        norm.momentum = 1.0


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


def every(stride: int, data: PreparedData) -> PreparedData:
    """Every `stride`-th training image."""
    dataset = data.train.dataset
    some = replace(dataset, rows=dataset.rows[::stride], labels=dataset.labels[::stride])
    return replace(data, train=replace(data.train, dataset=some))


def own_momentum(model: str) -> float:
    """Torchvision's momentum of a network's batch norms."""
    momentum = norms_of(build_network(model, 2, image_size=224))[0].momentum
    assert momentum is not None
    return momentum


def train(model: str, plan: TrainPlan, state: TrainState) -> list[list[object]]:
    """A row per epoch: training accuracy, then validation accuracy by rule."""
    norms, own, rows = norms_of(state.network), own_momentum(model), []
    state.statistics = None  # the rules compared here take its place
    for norm in norms:
        norm.momentum = 1.0
    averages = Averages(norms, [own] * len(norms))
    for epoch in range(1, plan.config.epochs + 1):
        torch.manual_seed(epoch)
        state.set_training()
        step = TrainingStep(state, plan.config, ALONE, epoch)
        totals = torch.zeros(2, dtype=torch.float64)
        for batch in training_batches(state.task.train, epoch=epoch, batch_size=16, random_seed=1):
            totals += step(batch)
            averages.update()
        found = []
        for rule in RULES:
            averages.store(rule)
            found.append(accuracy(state, state.network))
        make_exact(state, norms, epoch)
        found.append(accuracy(state, state.network))
        rows.append([model, own, epoch, float(totals[1]) / len(state.task.train), *found])
        print(*rows[-1], file=sys.stderr, flush=True)
    return rows


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--stride", type=int, default=1)
    chosen = parser.parse_args()
    rows = []
    for model in chosen.models.split(","):
        settings = {"model": model, "learning_rate": 0.01, "precision": "fp32"}
        if model == "maxvit_t":
            settings["image_size"] = 224  # the least it takes
        plan = plan_training(settings | {"epochs": chosen.epochs, "patience": chosen.epochs})
        data = every(chosen.stride, prepare_data(plan, NoOpCallback()))
        rows += train(
            model, plan, start_session(plan, data, resolve_rank_compute(plan), ALONE).state
        )
    columns = ("model", "own", "epoch", "train", *RULES, f"exact, {EXACT_IMAGES} images")
    sys.stdout.write(heading("Validation accuracy by batch-norm statistics") + "\n")
    sys.stdout.write(table(columns, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
