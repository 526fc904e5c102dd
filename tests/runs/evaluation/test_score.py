"""Where images are scored: the setting `device`, TF32, and networks that do not fit in memory."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

import trialrun
from tests.conftest import write_classes
from trialrun.cli import run_cli
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_errors import translate_scoring_errors
from trialrun.engine.compute.torch_state import isolate_torch_state, use_full_fp32
from trialrun.errors import InvalidParameterError, OutOfMemoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.zoo import build_network
from trialrun.scoring import score_images

GPU = torch.device("cuda", 0)
backends: Any = torch.backends  # torch does not declare all that is below it
TOO_MANY_BYTES = 1 << 50


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A ModelDirectory that nothing was trained for: classes `blue` and `red`."""
    network = build_network("squeezenet1_1", 2, image_size=32)
    preprocessing = Preprocessing(32)
    description = ModelDescription("squeezenet1_1", {}, ("blue", "red"), preprocessing)
    directory.write_model_directory(tmp_path / "model", description, to_bytes(network.state_dict()))
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Four labelled images."""
    return str(write_classes(tmp_path / "data", {"blue": 2, "red": 2}))


def encoded(size: int = 32) -> bytes:
    """A PNG file's bytes."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (200, 30, 30)).save(file, "PNG")
    return file.getvalue()


COMMANDS = (
    ("score", "models:/nobody/1", "DATA", "--output", "scored.csv"),
    ("evaluate", "models:/nobody/1", "DATA"),
    ("promote", "nobody", "--version", "1", "--data", "DATA"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("device", "found"),
    [("cuda:999", "device=cuda:999 is not on this machine"), ("gpu", "device=gpu is not")],
)
def test_device_that_is_not_there_is_refused(
    store: str,
    data: str,
    command: tuple[str, ...],
    device: str,
    found: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It exits with 2 before the model is looked for, and opens no run."""
    words = [data if word == "DATA" else word for word in command]
    assert run_cli([*words, "--device", device]) == 2
    errors = capsys.readouterr().err
    assert f"Error: InvalidParameterError: {found}" in errors
    assert "Traceback" not in errors
    client = mlflow.MlflowClient(store)
    experiments = [each.experiment_id for each in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 0


def test_library_scores_on_the_device_that_is_set(model: str, data: str, tmp_path: Path) -> None:
    """`device` is a setting of the call; one that is not there, or another setting, is an error."""
    output = str(tmp_path / "scored.csv")
    assert trialrun.score(model, data, output, device="cpu").num_images == 4
    with pytest.raises(InvalidParameterError, match="not on this machine"):
        trialrun.score(model, data, output, device="cuda:999")
    with pytest.raises(InvalidParameterError, match="no setting batch_size"):
        trialrun.score(model, data, output, batch_size=4)  # type: ignore[call-arg]


def test_scores_are_those_of_the_bare_network(model: str, data: str, tmp_path: Path) -> None:
    """On a CPU they are what the network gives for the same batch, bit for bit."""
    output = tmp_path / "scored.csv"
    trialrun.score(model, data, str(output), device="cpu")
    network = trialrun.load_model(model)
    files = sorted(Path(data).rglob("*.png"))
    with torch.inference_mode():
        batch = torch.cat([trialrun.preprocess(file, network) for file in files])
        expected = network(batch).softmax(dim=1).double()
    columns = [f"Scored Probabilities_{name}" for name in network.classes]
    assert pd.read_csv(output)[columns].to_numpy().tolist() == expected.tolist()


@pytest.mark.usefixtures("store")
def test_evaluation_records_its_device(model: str, data: str) -> None:
    """What was set and what it came to are parameters of the run."""
    result = trialrun.evaluate(model, data, device="cpu", draws=100)
    params = mlflow.MlflowClient().get_run(result.run_id).data.params
    assert (params["device"], params["resolved_device"]) == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, GPU), (False, True, torch.device("mps")), (False, False, torch.device("cpu"))],
)
def test_auto_is_cuda_else_mps_else_the_cpu(
    cuda: bool, mps: bool, expected: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for training."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device("auto") == expected


def test_reasons_and_scores_come_in_the_order_of_the_images() -> None:
    """Also where images of several sizes and unreadable ones are in one batch."""
    network = build_network("squeezenet1_1", 2, image_size=None)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(None)).eval()
    images = [encoded(40), b"no picture", None, encoded(64), encoded(64), encoded(8), encoded(40)]
    scores = list(score_images(classifier, images))
    assert [bool(each.error) for each in scores] == [False, True, True, False, False, True, False]
    alone = [next(score_images(classifier, [image])).probabilities for image in images]
    for together, single in zip(scores, alone, strict=True):
        assert (together.probabilities is None) == (single is None)
        if single is not None:
            assert together.probabilities == pytest.approx(single, abs=1e-6)


def legacy_tf32() -> None:
    """TF32 as most programs allow it."""
    backends.cuda.matmul.allow_tf32 = True
    backends.cudnn.allow_tf32 = True


def no_tf32() -> None:
    """TF32 off already."""
    backends.cuda.matmul.allow_tf32 = False
    backends.cudnn.allow_tf32 = False


def new_tf32() -> None:
    """TF32 by torch's newer settings."""
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "tf32"


def flags() -> list[object]:
    """The settings of TF32 that can be read whichever way they were set."""
    cuda, cudnn = backends.cuda.matmul, backends.cudnn
    mkldnn = backends.mkldnn
    return [each.fp32_precision for each in (cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul)]


@pytest.mark.parametrize("set_up", [legacy_tf32, no_tf32, new_tf32, lambda: None])
def test_gpus_score_without_tf32(set_up: Callable[[], None]) -> None:
    """By torch's older settings as by its newer ones; the process's own return afterwards."""
    with isolate_torch_state():
        set_up()
        before = flags()
        with use_full_fp32(GPU):
            assert flags()[:2] == ["ieee", "ieee"]
            # Kernels ask by the older names, which raise where the newer ones say otherwise.
            assert not backends.cuda.matmul.allow_tf32
            assert not backends.cudnn.allow_tf32
        assert flags() == before
        with use_full_fp32(torch.device("cpu")):
            assert flags() == before


class Huge(nn.Module):
    """A network that needs more memory than there is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, _images: Tensor) -> Tensor:
        """Torch's own error, of a real request."""
        return torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)


@pytest.mark.parametrize("image_size", [32, None])
def test_scoring_that_does_not_fit_in_memory_is_an_error(image_size: int | None) -> None:
    """It ends with 7, and is not taken for an image of a wrong size."""
    classifier = ImageClassifier(Huge(), ("a", "b"), Preprocessing(image_size)).eval()
    with pytest.raises(OutOfMemoryError, match="memory of cpu") as raised:
        list(score_images(classifier, [encoded()]))
    assert raised.value.exit_code == 7
    assert raised.value.hint


def test_gpu_without_memory_is_told_to_use_the_cpu() -> None:
    """Which has more."""
    with pytest.raises(OutOfMemoryError) as raised, translate_scoring_errors(GPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "cuda:0" in str(raised.value)
    assert raised.value.hint == "Set device=cpu."
