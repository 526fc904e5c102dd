"""Scoring: the setting `device`, TF32, and networks that do not fit in memory."""

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
from trialrun.errors import InvalidDatasetError, InvalidParameterError, OutOfMemoryError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.zoo.networks import build_network
from trialrun.scoring.network import prepare_network
from trialrun.scoring.pipeline import score_images

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
backends: Any = torch.backends  # torch does not declare all that is below it
TOO_MANY_BYTES = 1 << 50


@pytest.fixture
def model(tmp_path: Path) -> str:
    """Write a model directory of an untrained network with classes `blue` and `red`."""
    network = build_network("squeezenet1_1", 2, image_size=32)
    preprocessing = Preprocessing(32)
    description = ModelDescription("squeezenet1_1", {}, ("blue", "red"), preprocessing)
    directory.write_model_directory(tmp_path / "model", description, to_bytes(network.state_dict()))
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Write four labelled images."""
    return str(write_classes(tmp_path / "data", {"blue": 2, "red": 2}))


def encode_image(size: int = 32) -> bytes:
    """Return the bytes of a PNG file."""
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
    ("device", "message"),
    [("cuda:999", "device=cuda:999 is not on this machine"), ("gpu", "device=gpu is not")],
)
def test_missing_device_is_refused(
    store: str,
    data: str,
    command: tuple[str, ...],
    device: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is 2, the model is not looked up, and no run is opened."""
    words = [data if word == "DATA" else word for word in command]
    assert run_cli([*words, "--device", device]) == 2
    errors = capsys.readouterr().err
    assert f"Error: InvalidParameterError: {message}" in errors
    assert "Traceback" not in errors
    client = mlflow.MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert len(client.search_runs(experiments)) == 0


def test_library_scores_on_the_device_that_is_set(model: str, data: str, tmp_path: Path) -> None:
    """`device` is a setting; a missing device or another setting is an error."""
    output = str(tmp_path / "scored.csv")
    assert trialrun.score(model, data, output, device="cpu").num_images == 4
    with pytest.raises(InvalidParameterError, match="not on this machine"):
        trialrun.score(model, data, output, device="cuda:999")
    with pytest.raises(InvalidParameterError, match="no setting threads"):
        trialrun.score(model, data, output, threads=4)  # type: ignore[call-arg]


def test_scores_equal_those_of_the_bare_network(model: str, data: str, tmp_path: Path) -> None:
    """On a CPU they equal the network's outputs up to the rounding of folded batch norms."""
    output = tmp_path / "scored.csv"
    trialrun.score(model, data, str(output), device="cpu")
    network = trialrun.load_model(model)
    files = sorted(Path(data).rglob("*.png"))
    with torch.inference_mode():
        batch = torch.cat([trialrun.preprocess(file, network) for file in files])
        expected = network(batch).softmax(dim=1).double()
    columns = [f"Scored Probabilities_{name}" for name in network.classes]
    scored = pd.read_csv(output)[columns].to_numpy()
    assert scored == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.usefixtures("store")
def test_evaluation_records_its_device(model: str, data: str) -> None:
    """The setting and the resolved device are parameters of the run."""
    result = trialrun.evaluate(model, data, device="cpu")
    params = mlflow.MlflowClient().get_run(result.run_id).data.params
    assert (params["device"], params["resolved_device"]) == ("cpu", "cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, GPU), (False, True, torch.device("mps")), (False, False, torch.device("cpu"))],
)
def test_auto_is_cuda_else_mps_else_the_cpu(
    cuda: bool, mps: bool, expected: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of preference is that of training."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert find_device("auto") == expected


def test_errors_and_scores_are_in_the_order_of_the_images() -> None:
    """A batch mixes images of several sizes with unreadable ones."""
    module = build_network("squeezenet1_1", 2, image_size=None)
    classifier = ImageClassifier(module, ("a", "b"), Preprocessing(None)).eval()
    images = [
        encode_image(40),
        b"no picture",
        None,
        encode_image(64),
        encode_image(64),
        encode_image(8),
        encode_image(40),
    ]
    network = prepare_network(classifier, CPU)
    scores = list(score_images(network, images))
    assert [bool(score.error) for score in scores] == [False, True, True, False, False, True, False]
    singles = [next(score_images(network, [image])).probabilities for image in images]
    for together, single in zip(scores, singles, strict=True):
        assert (together.probabilities is None) == (single is None)
        if single is not None:
            assert together.probabilities == pytest.approx(single, abs=1e-6)


def allow_tf32() -> None:
    """Allow TF32 by torch's older read_precisions."""
    backends.cuda.matmul.allow_tf32 = True
    backends.cudnn.allow_tf32 = True


def forbid_tf32() -> None:
    """Forbid TF32 by torch's older read_precisions."""
    backends.cuda.matmul.allow_tf32 = False
    backends.cudnn.allow_tf32 = False


def allow_tf32_by_precision() -> None:
    """Allow TF32 by torch's newer settings."""
    backends.cuda.matmul.fp32_precision = "tf32"
    backends.cudnn.conv.fp32_precision = "tf32"


def read_precisions() -> list[object]:
    """Return the TF32 settings that are readable after either kind of change."""
    cuda, cudnn = backends.cuda.matmul, backends.cudnn
    mkldnn = backends.mkldnn
    return [settings.fp32_precision for settings in (cuda, cudnn.conv, cudnn.rnn, mkldnn.matmul)]


@pytest.mark.parametrize("set_up", [allow_tf32, forbid_tf32, allow_tf32_by_precision, lambda: None])
def test_gpus_score_without_tf32(set_up: Callable[[], None]) -> None:
    """The older and the newer settings are both overridden, and restored afterwards."""
    with isolate_torch_state():
        set_up()
        before = read_precisions()
        with use_full_fp32(GPU):
            assert read_precisions()[:2] == ["ieee", "ieee"]
            # Kernels ask by the older names, which raise where the newer ones say otherwise.
            assert not backends.cuda.matmul.allow_tf32
            assert not backends.cudnn.allow_tf32
        assert read_precisions() == before
        with use_full_fp32(torch.device("cpu")):
            assert read_precisions() == before


class HugeNetwork(nn.Module):
    """A network that requests more memory than exists."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, _images: Tensor) -> Tensor:
        """Raise torch's error by a real allocation."""
        return torch.empty(TOO_MANY_BYTES, dtype=torch.uint8)


@pytest.mark.parametrize("image_size", [32, None])
def test_scoring_that_does_not_fit_in_memory_is_an_error(image_size: int | None) -> None:
    """The exit code is 7; the error is not mistaken for an unsuitable image size."""
    classifier = ImageClassifier(HugeNetwork(), ("a", "b"), Preprocessing(image_size)).eval()
    with pytest.raises(OutOfMemoryError, match="memory of cpu") as raised:
        list(score_images(prepare_network(classifier, CPU), [encode_image()]))
    assert raised.value.exit_code == 7
    assert raised.value.hint


def test_hint_for_a_full_gpu_is_the_cpu() -> None:
    """The hint is to set device=cpu, which has more memory."""
    with pytest.raises(OutOfMemoryError) as raised, translate_scoring_errors(GPU):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert "cuda:0" in str(raised.value)
    assert raised.value.hint == "Set device=cpu."


def test_scoring_an_empty_dataset_is_refused(tmp_path: Path) -> None:
    """Class folders without images are reported before a model is opened."""
    (tmp_path / "data" / "cat").mkdir(parents=True)
    with pytest.raises(InvalidDatasetError, match="contains no images"):
        trialrun.score("no model", str(tmp_path / "data"), str(tmp_path / "scored.csv"))
