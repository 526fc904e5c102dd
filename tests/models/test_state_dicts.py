"""Files of weights as other programs write them: read, converted, or refused with the cause."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import network_of, started_from
from trialrun.errors import InvalidModelDirectoryError
from trialrun.models.weights import serialize_state

State = dict[str, Any]


class Call:
    """Unpickled, it would call a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def as_it_is(state: State) -> State:
    """No wrapping."""
    return state


def beside_epoch_and_optimizer(state: State) -> State:
    """A training checkpoint as most tutorials write it."""
    optimizer = torch.optim.SGD(network_of().parameters(), lr=0.1, momentum=0.9)
    return {"epoch": 3, "model_state_dict": state, "optimizer": optimizer.state_dict(), "loss": 0.5}


def under_state_dict(state: State) -> State:
    """As Lightning and many published weights have it."""
    return {"state_dict": state, "epoch": 90, "arch": "shufflenet"}


def under_model(state: State) -> State:
    """As torchvision's reference scripts have it."""
    return {"model": state, "lr_scheduler": {"last_epoch": 9}}


def of_data_parallel(state: State) -> State:
    """Saved from DistributedDataParallel."""
    return {f"module.{name}": tensor for name, tensor in state.items()}


def of_compile(state: State) -> State:
    """Saved from torch.compile."""
    return {f"_orig_mod.{name}": tensor for name, tensor in state.items()}


def of_both_in_a_checkpoint(state: State) -> State:
    """Saved from both, within a checkpoint."""
    return {"state_dict": {f"module._orig_mod.{name}": t for name, t in state.items()}}


@pytest.mark.parametrize(
    "wrap",
    [
        as_it_is,
        beside_epoch_and_optimizer,
        under_state_dict,
        under_model,
        of_data_parallel,
        of_compile,
        of_both_in_a_checkpoint,
    ],
)
def test_common_checkpoints_start_a_network(wrap: Callable[[State], State], tmp_path: Path) -> None:
    """Every tensor of the state dict within arrives, the last layer's too."""
    source = network_of().state_dict()
    torch.save(wrap(dict(source)), tmp_path / "checkpoint.pt")
    found = started_from(tmp_path / "checkpoint.pt")
    assert all(torch.equal(found[name], tensor) for name, tensor in source.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_precisions_are_converted(dtype: torch.dtype, suffix: str, tmp_path: Path) -> None:
    """A network keeps its own type, whatever the file's; counts of batches stay integers."""
    source = {name: tensor.to(dtype) for name, tensor in network_of().state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(source, path)
    else:
        path.write_bytes(serialize_state(source))
    found = started_from(path)
    assert found["fc.weight"].dtype == torch.float32
    assert torch.equal(found["fc.weight"], source["fc.weight"].float())
    assert found["conv1.1.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "tensor", "told"),
    [
        ("fc.weight", torch.eye(3).to_sparse(), "sparse_coo"),
        ("conv1.0.weight", torch.empty(24, 3, 3, 3, device="meta"), "meta tensor"),
    ],
)
def test_tensors_without_plain_values_are_refused(
    name: str, tensor: torch.Tensor, told: str, tmp_path: Path
) -> None:
    """The tensor is named with what it is, and with what to save."""
    torch.save({**network_of().state_dict(), name: tensor}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=f"{name} is .*{told}") as raised:
        started_from(tmp_path / "weights.pt")
    assert "Save" in raised.value.hint


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("kind", ["pickle", "archive", "legacy"])
def test_file_that_calls_a_function_is_refused_by_its_name(
    protocol: int, kind: str, tmp_path: Path
) -> None:
    """os.system is not run; the error names it, and the hint says what to save instead."""
    sentinel = tmp_path / "sentinel"
    content: dict[str, Any] = {"fc.weight": Call(os.system, f"touch {sentinel}")}
    path = tmp_path / "weights.pt"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    else:
        zipped = kind == "archive"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidModelDirectoryError, match=r"asks to run code .*\.system") as raised:
        started_from(path)
    assert "model.state_dict()" in raised.value.hint
    assert "another copy" not in raised.value.hint
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (nn.Linear(2, 2), r"asks to run code .*torch\.nn\.modules\.linear\.Linear"),
        ({"epoch": 3, "net": {"a": 1}}, "no state dict: its entries are epoch, net"),
        ([1, 2], "no state dict, but a list"),
        ({}, "it is empty"),
    ],
    ids=["whole network", "other names", "a list", "nothing"],
)
def test_file_without_a_state_dict_is_refused_with_what_it_holds(
    content: object, told: str, tmp_path: Path
) -> None:
    """Damage is not claimed where the file is whole."""
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=told) as raised:
        started_from(tmp_path / "weights.pt")
    assert "safetensors" in raised.value.hint


def test_newer_pickle_protocol_is_told_as_such(tmp_path: Path) -> None:
    """A state dict that torch's restricted loader cannot read is not called damaged."""
    torch.save(network_of().state_dict(), tmp_path / "weights.pt", pickle_protocol=4)
    with pytest.raises(InvalidModelDirectoryError, match="protocol 4"):
        started_from(tmp_path / "weights.pt")


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_archive_is_refused_as_code(tmp_path: Path) -> None:
    """A scripted network is a program, and torch's advice to run it is not passed on."""
    scripted = torch.jit.script(nn.Linear(2, 2))
    torch.jit.save(scripted, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match="TorchScript") as raised:
        started_from(tmp_path / "weights.pt")
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "told"),
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
def test_weights_that_do_not_fit_name_the_tensor(
    change: Callable[[State], Any], told: str, tmp_path: Path
) -> None:
    """The first tensor that is amiss is in the error."""
    state = dict(network_of().state_dict())
    change(state)
    torch.save({"module": 1, "state_dict": state}, tmp_path / "weights.pt")
    with pytest.raises(InvalidModelDirectoryError, match=told):
        started_from(tmp_path / "weights.pt")
