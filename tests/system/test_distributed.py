"""Several ranks train like one process with the larger batch, and log one run."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tests.conftest import SMALL, write_classes, write_weights
from tests.processes import ForkedProgram
from trialrun.config import TrainConfig
from trialrun.distributed import SINGLE_PROCESS, Ranks, join_ranks, read_ranks
from trialrun.engine.compute.precision import ComputeConfig
from trialrun.engine.fit import fit
from trialrun.engine.inputs.batches import ImageDataset, sequential_batches, training_batches
from trialrun.engine.inputs.data import TrainingData
from trialrun.engine.state import init_train_state
from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing

SIZE = 16
CPU = ComputeConfig(torch.device("cpu"), "fp32")


class Noise:
    """Random images that are the same in every process."""

    def __init__(self, num_images: int) -> None:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (num_images, 3, SIZE, SIZE)).astype(np.uint8)
        self._pixels = torch.from_numpy(pixels)

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (N, 3, S, S) uint8."""
        return self._pixels[torch.from_numpy(rows)]


def make_noise(num_images: int) -> ImageDataset:
    """Return `num_images` images of three classes."""
    return ImageDataset(Noise(num_images), np.arange(num_images), np.arange(num_images) % 3)


def make_imbalanced_noise(num_images: int) -> ImageDataset:
    """Return `num_images` images, most of them of the first class."""
    data = make_noise(num_images)
    return replace(data, labels=np.maximum(np.arange(num_images) % 9 - 6, 0))


def train_without_batch_norm(
    ranks: Ranks, batch_size: int, class_weights: str
) -> list[dict[str, float]]:
    """Return the metrics of each epoch; ranks do not share batch norm statistics."""
    task = TrainingData(make_imbalanced_noise(29), make_noise(7), 3, Preprocessing(SIZE))
    config = TrainConfig(
        epochs=3,
        batch_size=batch_size,
        learning_rate=0.05,
        augment="flip",
        class_weights=class_weights,
    )
    torch.manual_seed(1)
    layers = (nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))
    state = init_train_state(nn.Sequential(*layers), "3.", task, config, CPU, ranks)
    wanted = ("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "learning_rate")
    return [
        {name: result.metrics()[name] for name in wanted}
        for result in fit(state, config, ranks=ranks)
    ]


def find_free_port() -> int:
    """Return an unused port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_in_ranks(
    world_size: int,
    *command: str,
    of_rank: Sequence[Mapping[str, str]] = (),
    **variables: str,
) -> list[ForkedProgram]:
    """Start a command once per rank, as torchrun does; `of_rank` are variables of one rank each."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
        "WORLD_SIZE": str(world_size),
        **variables,
    }
    return [
        ForkedProgram(
            [sys.executable, *command],
            env={
                **os.environ,
                **shared,
                **(of_rank[rank] if of_rank else {}),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        for rank in range(world_size)
    ]


def run_in_ranks(
    world_size: int,
    *command: str,
    of_rank: Sequence[Mapping[str, str]] = (),
    **variables: str,
) -> list[str]:
    """Run a command once per rank to its end; return the standard outputs, which are short."""
    processes = start_in_ranks(world_size, *command, of_rank=of_rank, **variables)
    try:
        for process in processes:  # ranks that disagree wait for each other
            process.wait(timeout=120)
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * world_size
    return outputs


@pytest.mark.slow
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_two_ranks_equal_one_rank_with_twice_the_batch(class_weights: str) -> None:
    """All metrics agree within 1e-4, also with uneven last batches and classes."""
    alone = train_without_batch_norm(SINGLE_PROCESS, 8, class_weights)
    for output in run_in_ranks(2, "-m", __name__, class_weights):
        ranked = json.loads(output)
        for one, other in zip(alone, ranked, strict=True):
            assert other == pytest.approx(one, abs=1e-4)


@pytest.mark.parametrize("num_images", [8, 9, 13, 31])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_use_every_image_once(num_images: int, world_size: int) -> None:
    """No image is trained on or counted twice, and no rank has a batch of one image."""
    data = make_noise(num_images)
    ranks = [Ranks(rank, world_size, rank) for rank in range(world_size)]
    learned = [
        [b.positions for b in training_batches(data, epoch=1, batch_size=2, random_seed=1, ranks=r)]
        for r in ranks
    ]
    assert sorted(np.concatenate([b for batches in learned for b in batches]).tolist()) == list(
        range(num_images)
    )
    assert len({len(batches) for batches in learned}) == 1
    assert min(len(batch) for batches in learned for batch in batches) > 1
    counted = [b.positions for r in ranks for b in sequential_batches(data, 4, r)]
    assert sorted(np.concatenate(counted).tolist()) == list(range(num_images))


@pytest.mark.slow
def test_a_rank_with_other_images_fails(store: str, tmp_path: Path) -> None:
    """Another copy of the data on a second machine would change the result or deadlock."""
    variables = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(find_free_port()),
        "WORLD_SIZE": "2",
    }
    command = [sys.executable, "-m", "trialrun", "train", "--train-data", "set", "--epochs", "1"]
    ranks = []
    for rank in range(2):
        folder = tmp_path / f"machine{rank}"
        write_classes(folder / "set", {"a": 8, "b": 8}, seed=rank)
        ranks.append(
            ForkedProgram(
                [*command, "--model", "shufflenet_v2_x0_5", "--batch-size", "4"],
                env=os.environ | variables | {"RANK": str(rank), "LOCAL_RANK": "0"},
                stderr=subprocess.PIPE,
                cwd=folder,
            )
        )
    try:
        _, stderr = ranks[1].communicate(timeout=120)
    finally:
        for process in ranks:  # as torchrun does when one has failed
            process.terminate()
            process.communicate()
    assert ranks[1].returncode == 3
    assert "rank 1: this rank's images differ from rank 0's" in stderr


@pytest.mark.slow
def test_training_in_ranks_logs_one_run(store: str, colors: Path) -> None:
    """`torchrun -m trialrun train` creates one run, and one rank prints."""
    arguments = ["-m", "trialrun", "train", "--train-data", str(colors), "--json"]
    arguments += ["--model", "shufflenet_v2_x0_5", "--epochs", "2", "--batch-size", "4"]
    outputs = run_in_ranks(2, *arguments, MLFLOW_TRACKING_URI=store)
    result = json.loads(outputs[0])
    assert outputs[1] == ""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_id, run.info.status) == (result["run_id"], "FINISHED")


@pytest.mark.slow
@pytest.mark.parametrize("has_weights", [True, False])
def test_rank_0_decides_on_the_initial_weights(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_weights: bool
) -> None:
    """`weights=auto`: without them on rank 0, no rank takes them, though another has the file."""
    homes = [tmp_path / f"home{rank}" for rank in range(2)]
    monkeypatch.setenv("TORCH_HOME", str(homes[1]))
    (homes[1] / "hub" / "checkpoints").mkdir(parents=True)
    write_weights(homes[1] / "hub" / "checkpoints", SMALL)
    photos = write_classes(tmp_path / "photos", {"cat": 8, "dog": 8}, size=100)
    command = ["-m", "trialrun", "train", "--train-data", str(photos), "--model", SMALL, "--json"]
    variables = {"MLFLOW_TRACKING_URI": store, "https_proxy": "http://127.0.0.1:9"}  # unreachable
    output, _ = run_in_ranks(
        2,
        *[*command, "--epochs", "2", "--batch-size", "4"],
        of_rank=[{"TORCH_HOME": str(homes[1 if has_weights else rank])} for rank in range(2)],
        **variables,
    )
    params = mlflow.MlflowClient(store).get_run(json.loads(output)["run_id"]).data.params
    assert params["resolved_weights"] == ("default" if has_weights else "random")
    assert params["resolved_head_start"] == ("probe" if has_weights else "random")
    assert ("weights_file_sha256" in params) is has_weights


_INTERRUPTED_FIRST = """
import time, torch
from trialrun import distributed
from trialrun.distributed import join_ranks
from trialrun.errors import RunInterruptedError

read_outcome = distributed._read_outcome
distributed._read_outcome = lambda *arguments: (time.sleep(0.5), read_outcome(*arguments))[1]
try:
    with join_ranks(torch.device("cpu")) as ranks:
        print(ranks.any(ranks.rank == 1), ranks.any(False), flush=True)
        if ranks.is_first:
            raise RunInterruptedError("SIGTERM")
        ranks.broadcast_object(None)
except RunInterruptedError as interrupt:
    print(interrupt.signal_name, flush=True)
"""


@pytest.mark.slow
def test_ranks_stop_with_rank_0() -> None:
    """A rank that waits for a result of rank 0 is interrupted if a signal has stopped rank 0.

    Rank 0 hosts the store that the slow rank 1 reads.
    """
    outputs = run_in_ranks(2, "-c", _INTERRUPTED_FIRST)
    assert outputs == ["True False\nSIGTERM\n"] * 2


def test_process_without_torchrun_is_a_single_rank() -> None:
    """WORLD_SIZE decides; incomplete variables raise."""
    assert read_ranks({}) == SINGLE_PROCESS
    assert read_ranks({"RANK": "1", "WORLD_SIZE": "2"}).world_size == 2
    with pytest.raises(InvalidParameterError, match="RANK"):
        read_ranks({"WORLD_SIZE": "2"})
    with pytest.raises(InvalidParameterError, match="not below"):
        read_ranks({"WORLD_SIZE": "2", "RANK": "2"})


if __name__ == "__main__":  # what the ranks run
    with join_ranks(torch.device("cpu")) as joined_ranks:
        sys.stdout.write(json.dumps(train_without_batch_norm(joined_ranks, 4, sys.argv[1])))
