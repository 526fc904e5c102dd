"""Shared fixtures: small images and networks, and an MLflow store created once and copied."""

import os
import shutil
import socket
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor, nn

    from trialrun.images.decoding.preprocessing import Preprocessing

settings.register_profile("untimed", deadline=None)  # other programs may delay a test
settings.load_profile("untimed")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run at once, on few cores

SMALL = "shufflenet_v2_x0_5"  # the smallest network of the zoo
# Python before 3.11.4 cannot filter the entries of an archive.
SAFE_EXTRACTION: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
SHARED = Path(__file__).resolve().parents[2] / "shared"


def write_image(path: Path, color: tuple[int, int, int], *, size: int = 32, seed: int = 0) -> None:
    """Write a noisy image of one colour; the noise depends on `seed`."""
    noise = np.random.default_rng(seed).integers(0, 40, (size, size, 3))
    pixels = np.clip(np.asarray(color) + noise - 20, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_classes(root: Path, classes: dict[str, int], *, size: int = 32, seed: int = 0) -> Path:
    """Write a folder with the given number of images per class; each class has a colour."""
    colors = [(220, 40, 40), (40, 220, 40), (40, 40, 220), (220, 220, 40), (40, 220, 220)]
    for place, (name, num_images) in enumerate(sorted(classes.items())):
        for number in range(num_images):
            color = colors[place % len(colors)]
            path = root / name / f"{number:03}.png"
            write_image(path, color, size=size, seed=seed + 1000 * place + number)
    return root


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Use an empty cache folder and an empty state folder for the session."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIALRUN_CACHE", str(folder))
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield folder


@pytest.fixture(autouse=True)
def report_marked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw reports only in tests with the marker `report`: each takes about a second."""
    if request.node.get_closest_marker("report") is None:
        for name in (
            "training.execution.log_training_report",
            "training.execution.log_epoch_images",
            "evaluation.evaluate._log_report",
        ):
            monkeypatch.setattr(f"trialrun.runs.{name}", lambda *_: None)


@pytest.fixture(autouse=True)
def mlflow_settings_restored() -> Iterator[None]:
    """Restore MLflow's variables and active experiment: `set_experiment` changes both."""
    before = {name: text for name, text in os.environ.items() if name.startswith("MLFLOW_")}
    yield
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        if name not in before:
            del os.environ[name]
    os.environ.update(before)
    if fluent := sys.modules.get("mlflow.tracking.fluent"):
        fluent._active_experiment_id = None  # type: ignore[attr-defined]


def _remember_latest_revision() -> None:
    """Let MLflow find the latest version of its tables once, not for every store that is opened.

    It is the same for all stores, and MLflow loads its 68 scripts of migrations to find it.
    """
    from mlflow.store.db import utils

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)


@pytest.fixture(scope="session")
def initialised_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create an empty MLflow database once; creating its tables takes seconds."""
    import mlflow

    _remember_latest_revision()
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(initialised_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make a copy of the empty store the tracking store; return its URI."""
    import mlflow

    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(initialised_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    client = mlflow.MlflowClient(uri)
    client.create_experiment("tests", artifact_location=str(folder / "artifacts"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "tests")
    return uri


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL database for one module."""
    from tests.postgres import find_programs, run_cluster
    from tests.system.conftest import skip_unless_ci

    if find_programs() is None:
        skip_unless_ci("PostgreSQL is not installed (Debian: apt install postgresql)")
    with run_cluster() as url:
        yield url


@pytest.fixture
def colors(tmp_path: Path) -> Path:
    """A folder of three classes that differ by colour, 12 images of 32 by 32 pixels each."""
    return write_classes(tmp_path / "colors", {"blue": 12, "green": 12, "red": 12})


@pytest.fixture
def azure() -> Path:
    """The folder of files that Azure ML designer wrote, if it is beside the checkout."""
    folder = SHARED / "azure"
    if not folder.is_dir():
        # The files belong to Azure and are not committed, so a bare checkout does not have them.
        pytest.skip("the files of Azure ML designer are not beside this checkout")
    return folder


@pytest.fixture
def wait_until_stable(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that waits until the times of files are reliable, which takes 0.2 s here.

    The caches do not keep what they know about a file that has just changed.
    """
    from trialrun.images.decoding import file_io

    monkeypatch.setattr(file_io, "_STABLE_SECONDS", 0.1)
    return lambda: time.sleep(0.2)


def make_network(name: str = SMALL, num_classes: int = 3, *, seed: int = 7) -> "nn.Module":
    """A network with weights drawn from `seed`."""
    import torch

    from trialrun.models.zoo.networks import build_network

    torch.manual_seed(seed)
    return build_network(name, num_classes, image_size=32)


def load_start_state(path: Path, name: str = SMALL) -> "dict[str, Tensor]":
    """The state dict that a network of three classes starts from with `weights=path`."""
    from trialrun.models.open import create_network

    return create_network(name, 3, image_size=32, weights=str(path)).network.state_dict()


def write_model(
    folder: Path, name: str, classes: tuple[str, ...], preprocessing: "Preprocessing | None" = None
) -> "nn.Module":
    """Write a trained ModelDirectory; return the network in it."""
    from trialrun.images.decoding.preprocessing import Preprocessing
    from trialrun.models.directory import ModelDescription, write_model_directory
    from trialrun.models.weights.serialization import serialize_state

    network = make_network(name, len(classes))
    described = ModelDescription(name, {}, classes, preprocessing or Preprocessing(32))
    write_model_directory(folder, described, serialize_state(network.state_dict()))
    return network


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch.hub, on a machine without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def write_weights(hub: Path, name: str, *, seed: int = 7) -> "dict[str, Tensor]":
    """Write weights for 1,000 classes to torchvision's file name."""
    import torch

    from trialrun.models.zoo.networks import build_network

    torch.manual_seed(seed)
    state = build_network(name, 1000, image_size=None).state_dict()
    torch.save(state, hub / find_file_name(name))
    return state


def find_file_name(name: str) -> str:
    """Return the file name of torchvision's default weights."""
    from trialrun.models.weights.published import find_default_file

    return find_default_file(name).name
