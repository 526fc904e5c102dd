"""Model directories that try to run code: every command refuses them, and nothing is run."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

import trialrun
from tests.azure_models import save_with_torch, write_azure_model
from tests.conftest import SMALL, write_classes, write_model
from trialrun.cli import run_cli
from trialrun.errors import InvalidModelDirectoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.directory import read_description
from trialrun.models.zoo.networks import build_network
from trialrun.serving.package import add_serving_files

CLASSES = ("cat", "dog")


class Call:
    """An object that runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """The file that every payload creates if it is run."""
    return tmp_path / "sentinel"


def save_azure_weights() -> bytes:
    """Return valid weights of Azure's format."""
    network = build_network("resnet18", 2, image_size=None)
    return save_with_torch({f"model.{k}": v for k, v in network.state_dict().items()})


def write_pickle(folder: Path, command: str) -> None:
    """A bare pickle as Azure's weights."""
    write_azure_model(folder, pickle.dumps(Call(command)))


def write_torch_file(folder: Path, command: str) -> None:
    """A `torch.save` file that unpickles a call beside the weights."""
    write_azure_model(folder, save_with_torch({"model.x": Call(command)}))


def name_a_system_call(folder: Path, command: str) -> None:
    """Azure's metadata name a function to import and its argument."""
    extras = {"module": "os", "class": "system", "init_params": {"command": command}}
    write_azure_model(folder, save_azure_weights(), flavor_extras=extras)


def name_a_file_outside(folder: Path, command: str) -> None:
    """Azure's metadata name weights outside of the folder, a pickle."""
    write_azure_model(folder, b"", model_file="../outside")
    (folder.parent / "outside").write_bytes(pickle.dumps(Call(command)))


def write_trialrun_model(folder: Path) -> None:
    """Write a valid model directory of trialrun."""
    folder.mkdir()
    write_model(folder, SMALL, CLASSES, Preprocessing(32))


def name_a_loader(folder: Path, command: str) -> None:
    """MLmodel names a module that `code/` contains."""
    write_trialrun_model(folder)
    (folder / "code").mkdir()
    (folder / "code" / "evil.py").write_text(f"import os; os.system({command!r})")
    flavors = {"python_function": {"loader_module": "evil", "code": "code"}}
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors}))


def list_a_file_outside(folder: Path, command: str) -> None:
    """The manifest lists a file outside of the folder."""
    write_trialrun_model(folder)
    outside = folder.parent / "outside"
    outside.write_bytes(pickle.dumps(Call(command)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["../outside"] = {"sha256": "0" * 64, "bytes": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flip_a_bit(folder: Path, _command: str) -> None:
    """One bit of the weights differs from the manifest."""
    write_trialrun_model(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


def write_servable_model(folder: Path) -> Path:
    """Write a model directory as MLflow stores it; return the folder of its code."""
    write_trialrun_model(folder)
    description, _ = read_description(folder)
    add_serving_files(folder, description, model_id="", run_id="")
    (package,) = (folder / "code").iterdir()
    return package


def flip_a_bit_of_code(folder: Path, _command: str) -> None:
    """One bit of a module in `code/` differs from the manifest."""
    path = write_servable_model(folder) / "errors.py"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def add_code(folder: Path, command: str) -> None:
    """`code/` contains a module that the manifest does not list."""
    package = write_servable_model(folder)
    (package.parent / "torch.py").write_text(f"import os; os.system({command!r})")


def remove_code(folder: Path, _command: str) -> None:
    """`code/` lacks a module that the manifest lists."""
    (write_servable_model(folder) / "errors.py").unlink()


@pytest.mark.parametrize(
    "write",
    [
        write_pickle,
        write_torch_file,
        name_a_system_call,
        name_a_file_outside,
        name_a_loader,
        list_a_file_outside,
        flip_a_bit,
        flip_a_bit_of_code,
        add_code,
        remove_code,
    ],
)
def test_hostile_model_is_refused_and_leaves_no_trace(
    write: Callable[[Path, str], None],
    store: str,
    tmp_path: Path,
    sentinel: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Scoring, evaluation, export, registration and training exit with 4 and two lines."""
    images = write_classes(tmp_path / "images", {"cat": 3, "dog": 3})
    folder = tmp_path / "model"
    write(folder, f"touch {sentinel}")
    for command in (
        ["score", str(folder), str(images), "--output", str(tmp_path / "scored.csv")],
        ["evaluate", str(folder), str(images)],
        ["export", str(folder), str(tmp_path / "model.pt2")],
        ["model", "register", str(folder), "pets"],
        ["train", "--model", str(folder), "--train-data", str(images), "--batch-size", "4"],
    ):
        assert run_cli(command) == 4
        lines = capsys.readouterr().err.splitlines()
        error = next(number for number, line in enumerate(lines) if line.startswith("Error"))
        assert lines[error].startswith("Error: InvalidModelDirectoryError: ")
        assert lines[error + 1].startswith("Hint: ")
    assert not sentinel.exists()
    assert not (tmp_path / "scored.csv").exists()
    assert not (tmp_path / "model.pt2").exists()


def test_bytecode_that_python_wrote_is_accepted(tmp_path: Path) -> None:
    """MLflow compiles the modules in place; a file of another name there is refused."""
    package = write_servable_model(tmp_path / "model")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "errors.cpython-311.pyc").write_bytes(b"compiled")
    assert trialrun.load_model(str(tmp_path / "model")).classes == CLASSES
    (package / "__pycache__" / "other.cpython-311.pyc").write_bytes(b"compiled")
    with pytest.raises(InvalidModelDirectoryError, match="is not in the manifest"):
        trialrun.load_model(str(tmp_path / "model"))


def test_weights_file_that_unpickles_a_call_is_refused(
    store: str, tmp_path: Path, sentinel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A `.pt` given as initial weights is not run either."""
    images = write_classes(tmp_path / "images", {"cat": 3, "dog": 3})
    path = tmp_path / "weights.pt"
    path.write_bytes(save_with_torch({"fc.weight": Call(f"touch {sentinel}")}))
    command = ["train", "--model", SMALL, "--train-data", str(images), "--weights", str(path)]
    assert run_cli([*command, "--batch-size", "4"]) == 4
    assert "Error: InvalidModelDirectoryError: " in capsys.readouterr().err
    assert not sentinel.exists()
