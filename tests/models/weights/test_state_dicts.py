"""Files of weights from other programs: read, converted, or refused with a reason."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import load_start_state, make_network
from trialrun.errors import InvalidModelDirectoryError
from trialrun.models.weights.serialization import serialize_state

State = dict[str, Any]


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def unchanged(state: State) -> State:
    """The state dict itself."""
    return state


def beside_epoch_and_optimizer(state: State) -> State:
    """A training checkpoint as in most tutorials."""
    optimizer = torch.optim.SGD(make_network().parameters(), lr=0.1, momentum=0.9)
    return {"epoch": 3, "model_state_dict": state, "optimizer": optimizer.state_dict(), "loss": 0.5}


def under_state_dict(state: State) -> State:
    """A checkpoint as in Lightning and many published weights."""
    return {"state_dict": state, "epoch": 90, "arch": "shufflenet"}


def under_model(state: State) -> State:
    """A checkpoint as in torchvision's reference scripts."""
    return {"model": state, "lr_scheduler": {"last_epoch": 9}}


def of_data_parallel(state: State) -> State:
    """Saved from DistributedDataParallel."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def of_compile(state: State) -> State:
    """Saved from torch.compile."""
    return {f"_orig_mod.{name}": tensor for name, tensor in state.items()}


def of_both_in_a_checkpoint(state: State) -> State:
    """Saved from both, inside a checkpoint."""
    return {"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}}


@pytest.mark.parametrize(
    "wrap",
    [
        unchanged,
        beside_epoch_and_optimizer,
        under_state_dict,
        under_model,
        of_data_parallel,
        of_compile,
        of_both_in_a_checkpoint,
    ],
)
def test_common_checkpoints_start_a_network(wrap: Callable[[State], State], tmp_path: Path) -> None:
    """Every tensor of the state dict is loaded, including the last layer's."""
    source = make_network().state_dict()
    torch.save(wrap(dict(source)), tmp_path / "checkpoint.pt")
    state = load_start_state(tmp_path / "checkpoint.pt")
    assert all(torch.equal(state[name], tensor) for name, tensor in source.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_are_converted(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    """Weights are converted to the network's dtype; batch counts stay integers."""
    source = {name: tensor.to(dtype) for name, tensor in make_network().state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(source, path)
    else:
        path.write_bytes(serialize_state(source))
    state = load_start_state(path)
    assert state["fc.weight"].dtype == torch.float32
    assert torch.equal(state["fc.weight"], source["fc.weight"].float())
    assert state["conv1.1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("fc.weight", torch.eye(3).to_sparse(), "sparse_coo"),
        ("conv1.0.weight", torch.empty(24, 3, 3, 3, device="meta"), "meta tensor"),
    ],
)
def test_tensors_without_plain_values_are_refused(
    name: str, tensor: torch.Tensor, reason: str, tmp_path: Path
) -> None:
    """The error names the tensor and its kind; the hint says what to save."""
    torch.save({**make_network().state_dict(), name: tensor}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=f"{name} is .*{reason}") as raised:
        load_start_state(tmp_path / "weights.pt")
    assert "Save" in raised.value.hint


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["pickle", "archive", "legacy"])
def test_file_that_calls_a_function_is_refused_by_its_name(
    protocol: int, kind: str, tmp_path: Path
) -> None:
    """os.system is not run; the error names it, and the hint says what to save."""
    sentinel = tmp_path / "sentinel"
    content: dict[str, Any] = {"fc.weight": Call(os.system, f"touch {sentinel}")}
    path = tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        zipped = kind == "archive"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidModelDirectoryError, match=r"asks to run code .*\.system") as raised:
        load_start_state(path)
    assert "model.state_dict()" in raised.value.hint
    assert "another copy" not in raised.value.hint
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (nn.Linear(2, 2), r"asks to run code .*torch\.nn\.modules\.linear\.Linear"),
        ({"epoch": 3, "net": {"a": 1}}, "no state dict: its entries are epoch, net"),
        ([1, 2], "no state dict, but a list"),
        ({}, "it is empty"),
    ],
    ids=["whole network", "other names", "a list", "nothing"],
)
def test_file_without_a_state_dict_is_refused_with_its_contents(
    content: object, reason: str, tmp_path: Path
) -> None:
    """The error describes the contents instead of reporting damage."""
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=reason) as raised:
        load_start_state(tmp_path / "weights.pt")
    assert "safetensors" in raised.value.hint


def test_newer_pickle_protocol_is_reported(tmp_path: Path) -> None:
    """A protocol that torch's restricted loader cannot read is not reported as damage."""
    torch.save(make_network().state_dict(), tmp_path / "weights.pt", pickle_protocol=4)
    with pytest.raises(InvalidModelDirectoryError, match="protocol 4"):
        load_start_state(tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_archive_is_refused_as_code(tmp_path: Path) -> None:
    """A scripted network is code, and the error does not repeat torch's advice to run it."""
    scripted = torch.jit.script(nn.Linear(2, 2))
    torch.jit.save(scripted, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match="TorchScript") as raised:
        load_start_state(tmp_path / "weights.pt")
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.pop("conv1.0.weight"), r"1 tensor is missing \(conv1\.0\.weight\)"),
        (
            lambda state: state.update(extra=torch.zeros(1)),
            r"1 tensor is unknown to the network \(extra\)",
        ),
        (
            lambda state: state.update({"conv1.0.weight": torch.zeros(2, 2)}),
            r"conv1\.0\.weight has shape \(2, 2\), not \(24, 3, 3, 3\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_mismatched_weights_are_refused_with_the_tensor(
    change: Callable[[State], Any], reason: str, tmp_path: Path
) -> None:
    """The error names the first tensor that does not match."""
    state = dict(make_network().state_dict())
    change(state)
    torch.save({"module": 1, "state_dict": state}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=reason):
        load_start_state(tmp_path / "weights.pt")
