"""Several ranks that compute their batches in parts train like one process with whole batches."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from tests.system.test_distributed import (
    CPU,
    SIZE,
    make_imbalanced_noise,
    make_noise,
    run_in_ranks,
)
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks
from trialrun.engine.fit import fit
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import init_train_state
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.runs.training.plan import plan_training


def train_in_parts(ranks: Ranks, batch_size: int, num_parts: int) -> tuple[list[list[float]], int]:
    """Return the metrics of each epoch, and how many times gradients were exchanged."""
    task = TrainingData(make_imbalanced_noise(29), make_noise(7), 3, Preprocessing(SIZE))
    config = TrainConfig(
        epochs=2,
        batch_size=batch_size,
        accumulate_steps=num_parts,
        learning_rate=0.05,
        class_weights="balanced",
        label_smoothing=0.1,
    )
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))
    state = init_train_state(nn.Sequential(*layers), "3.", task, config, CPU, ranks)
    exchanges: list[int] = []

    def count_exchange(
        _group: Any,
        bucket: dist.GradBucket,  # type: ignore[name-defined] # torch checks this annotation
    ) -> Future[Tensor]:
        exchanges.append(1)
        return allreduce_hook(None, bucket)  # type: ignore[arg-type] # the default group

    if isinstance(state.train_module, nn.parallel.DistributedDataParallel):
        state.train_module.register_comm_hook(None, count_exchange)
    metrics = [
        [epoch.train_loss, epoch.train_accuracy, epoch.valid_loss, epoch.learning_rate]
        for epoch in fit(state, config, ranks=ranks)
    ]
    return metrics, len(exchanges)


@pytest.mark.slow
def test_ranks_with_parts_equal_one_process_with_whole_batches() -> None:
    """Metrics agree, also with uneven parts; gradients are exchanged once per step."""
    alone, _ = train_in_parts(SINGLE_PROCESS, 10, 1)
    for output in run_in_ranks(2, "-m", __name__, "3"):
        metrics, num_exchanges = json.loads(output)
        for epoch, expected in zip(metrics, alone, strict=True):
            assert epoch == pytest.approx(expected, abs=1e-4)
        assert num_exchanges == 2 * 3  # three steps in each of two epochs


def test_ranks_need_a_number_of_parts(colors: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that runs out of memory alone would leave the others waiting."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidParameterError, match=r"accumulate_steps=auto .* 2 ranks") as raised:
        plan_training({"train_data": str(colors), "accumulate_steps": "auto"})
    assert "accumulate_steps=2" in raised.value.hint
    plan_training({"train_data": str(colors), "accumulate_steps": "2"})


if __name__ == "__main__":  # what the ranks run
    with join_ranks(torch.device("cpu")) as joined_ranks:
        sys.stdout.write(json.dumps(train_in_parts(joined_ranks, 5, int(sys.argv[1]))))
