"""The images that networks and their initial weights expect, and where those weights come from."""

import json
import socket
from pathlib import Path, PurePosixPath

import pytest
import torch
import torchvision
from torch import Tensor

from tests.conftest import write_classes
from tests.tuning.conftest import settings as search_settings
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.models.initial import describe_default_weights, describe_initial_weights
from trialrun.models.names import ARCHITECTURES
from trialrun.models.open import create_network
from trialrun.models.weights import serialize_state
from trialrun.models.zoo import build_network, check_image_size
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.init_model import init_model
from trialrun.runs.training.data import prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run
from trialrun.tuning.callbacks import NoOpSearchCallback
from trialrun.tuning.plan import plan_search, plan_trial
from trialrun.tuning.workers.trial_runner import TrialRunner

HALF = (0.5, 0.5, 0.5)
SMALL = "shufflenet_v2_x0_5"


class Notes(NoOpCallback):
    """Keeps what a run notes."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        """Keep it."""
        self.texts.append(text)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, on a machine without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def put_weights(hub: Path, name: str) -> dict[str, Tensor]:
    """Weights for 1,000 classes under the name of torchvision's file."""
    torch.manual_seed(7)
    state = build_network(name, 1000, image_size=None).state_dict()
    torch.save(state, hub / file_name(name))
    return state


def file_name(name: str) -> str:
    """What torchvision calls the file of its default weights."""
    return PurePosixPath(torchvision.models.get_model_weights(name).DEFAULT.url).name


def azure_untrained(folder: Path, *, pretrained: bool, **more: object) -> Path:
    """An UntrainedModelDirectory of Azure's without its weights file."""
    folder.mkdir()
    init_params = {"model_name": "resnet18", "pretrained": pretrained, "zero_init_residual": False}
    spec = {
        "flavor": {"name": "pytorch", "serialization_method": "state_dict"},
        "model_file": "model",
        "flavor_extras": {"class": "ResNet", "init_params": init_params},
    }
    (folder / "model_spec.yaml").write_text(json.dumps(spec | more))
    return folder


def first_layer(model: Path, weights: str | None = None) -> Tensor:
    """The first layer of the ResNet that training would start from."""
    _, network = create_network(str(model), 3, image_size=32, weights=weights)
    return network.get_parameter("conv1.weight")


def test_pretrained_azure_directory_starts_from_torchvisions_weights(
    tmp_path: Path, hub: Path
) -> None:
    """`pretrained: true` without a file means what it means in Azure, not random weights."""
    state = put_weights(hub, "resnet18")
    model = azure_untrained(tmp_path / "untrained", pretrained=True)
    assert torch.equal(first_layer(model), state["conv1.weight"])
    assert not describe_initial_weights(str(model), None).are_random


def test_pretrained_azure_directory_without_weights_is_refused(tmp_path: Path, hub: Path) -> None:
    """The error names the directory's own setting, the file that is missing and what to do."""
    model = azure_untrained(tmp_path / "untrained", pretrained=True)
    with pytest.raises(InvalidParameterError) as raised:
        first_layer(model)
    text = str(raised.value)
    assert "model_spec.yaml, pretrained: true: " in text
    assert f"{file_name('resnet18')}: cannot be downloaded" in text
    assert str(hub / file_name("resnet18")) in raised.value.hint
    assert "weights=FILE" in raised.value.hint


@pytest.mark.usefixtures("hub")
def test_azure_directory_that_is_not_pretrained_starts_from_random_weights(tmp_path: Path) -> None:
    """`pretrained: false` without a file needs no network."""
    model = azure_untrained(tmp_path / "untrained", pretrained=False)
    torch.manual_seed(1)
    expected = first_layer(model)
    torch.manual_seed(2)
    assert not torch.equal(first_layer(model), expected)
    assert describe_initial_weights(str(model), None).are_random


@pytest.mark.usefixtures("hub")
def test_weights_override_an_azure_directorys_pretrained(tmp_path: Path) -> None:
    """A file given as `weights` is used, and torchvision's weights are not looked for."""
    state = build_network("resnet18", 5, image_size=None).state_dict()
    (tmp_path / "own.safetensors").write_bytes(serialize_state(state))
    model = azure_untrained(tmp_path / "untrained", pretrained=True)
    layer = first_layer(model, weights=str(tmp_path / "own.safetensors"))
    assert torch.equal(layer, state["conv1.weight"])


@pytest.mark.usefixtures("hub")
def test_trained_azure_directory_without_its_file_is_refused(tmp_path: Path) -> None:
    """A label map says that the model is trained: other weights do not take its file's place."""
    labels = {"label_map_file": "index_to_label.csv"}
    model = azure_untrained(tmp_path / "trained", pretrained=True, **labels)
    with pytest.raises(InvalidModelDirectoryError, match="model cannot be read"):
        first_layer(model)


def test_trained_azure_directory_gives_its_normalisation(azure: Path) -> None:
    """Training that starts from Azure's trained weights scales images as Azure did."""
    expected = describe_initial_weights(str(azure / "model_directory"), None).expected_input
    assert (expected.mean, expected.std) == (HALF, HALF)
    untrained = describe_initial_weights(str(azure / "untrained_densenet121"), None)
    assert untrained.expected_input.mean == IMAGENET_MEAN


def test_damaged_file_of_torchvisions_weights_is_named(hub: Path) -> None:
    """A half copied file in torch's cache is an error with its path, and no traceback."""
    (hub / file_name(SMALL)).write_bytes(b"half")
    with pytest.raises(InvalidParameterError, match="is damaged") as raised:
        create_network(SMALL, 3, image_size=32, weights="default")
    assert str(hub) in raised.value.hint


@pytest.mark.parametrize(
    ("name", "mean", "std", "size", "only_size"),
    [
        ("efficientnet_v2_l", HALF, HALF, 480, None),
        ("efficientnet_b3", IMAGENET_MEAN, IMAGENET_STD, 300, None),
        ("vit_h_14", IMAGENET_MEAN, IMAGENET_STD, 518, 518),
        ("vit_b_16", IMAGENET_MEAN, IMAGENET_STD, 224, 224),
        # Their networks turn ImageNet's normalisation into the weights' own: see zoo.build.
        ("googlenet", IMAGENET_MEAN, IMAGENET_STD, 224, None),
        ("inception_v3", IMAGENET_MEAN, IMAGENET_STD, 299, None),
    ],
)
def test_default_weights_bring_their_own_normalisation_and_size(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], size: int, only_size: int | None
) -> None:
    """Mean, deviation and size are those in torchvision's metadata."""
    expected = describe_initial_weights(name, "default").expected_input
    assert (expected.mean, expected.std) == (mean, std)
    assert (expected.weights_size, expected.only_size) == (size, only_size)


def test_random_weights_of_every_network_expect_imagenets_normalisation() -> None:
    """Without weights nothing but ImageNet's mean, deviation and at most 224 pixels is assumed."""
    for name in ARCHITECTURES:
        expected = describe_initial_weights(name, None).expected_input
        assert (expected.mean, expected.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert expected.choose_size(512) == 224


@pytest.mark.parametrize(
    ("model", "weights", "size"),
    [
        ("efficientnet_v2_l", "default", 96),
        ("efficientnet_b3", None, 96),
        ("vit_h_14", "default", 518),
        ("vit_h_14", None, 98),
        ("maxvit_t", "default", 224),
    ],
)
@pytest.mark.usefixtures("hub")
def test_auto_image_size_asks_the_weights(
    tmp_path: Path, model: str, weights: str | None, size: int
) -> None:
    """`auto` is the one size that weights fit, else the images'; nothing is downloaded for it."""
    photos = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, size=90)
    plan = plan_training(
        {"train_data": str(photos), "model": model, "weights": weights or "none", "batch_size": 2}
    )
    prepared = prepare_data(plan, NoOpCallback()).preprocessing
    assert prepared.image_size == size
    assert prepared.mean == (HALF if model == "efficientnet_v2_l" else IMAGENET_MEAN)


@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [("efficientnet_b3", "default", 300), ("resnet18", "default", 224), ("resnet18", None, 224)],
)
@pytest.mark.usefixtures("hub")
def test_auto_image_size_of_large_images_is_the_weights_size(
    tmp_path: Path, name: str, weights: str | None, size: int
) -> None:
    """Images larger than the weights' are resized to those; without weights to 224 pixels."""
    photos = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, size=400)
    plan = plan_training(
        {"train_data": str(photos), "model": name, "weights": weights or "none", "batch_size": 2}
    )
    assert prepare_data(plan, NoOpCallback()).preprocessing.image_size == size


@pytest.mark.usefixtures("hub")
def test_size_that_the_weights_do_not_fit_is_refused_before_the_download(colors: Path) -> None:
    """The error names the size to set, and the network is not needed to know it."""
    plan = plan_training(
        {
            "train_data": str(colors),
            "model": "vit_h_14",
            "weights": "default",
            "image_size": 224,
        }
    )
    with pytest.raises(InvalidParameterError, match="518 pixels, not 224") as raised:
        prepare_data(plan, NoOpCallback())
    assert "image_size=518" in raised.value.hint


SMALLEST = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vit_h_14": 42}


@pytest.mark.parametrize(
    "name",
    [
        *SMALLEST,
        "densenet121",
        "googlenet",
        "mnasnet0_5",
        "squeezenet1_0",
        "swin_t",
        "vgg11",
        "vit_b_16",
    ],
)
def test_least_size_is_chosen_for_small_images(name: str) -> None:
    """The network takes the size that is chosen for images of 32 pixels."""
    size = describe_initial_weights(name, None).expected_input.choose_size(32)
    assert size == SMALLEST.get(name, 32)
    with torch.device("meta"):
        check_image_size(build_network(name, 3, image_size=size), name, size)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 62), ("inception_v3", 74)])
def test_size_below_the_least_is_refused(name: str, size: int) -> None:
    """An `image_size` that was set is not changed, and what the network cannot take is an error."""
    with pytest.raises(InvalidParameterError, match=f"{size} pixels"):
        create_network(name, 3, image_size=size, weights=None)


def test_small_images_are_prepared_at_the_least_size(colors: Path) -> None:
    """Training AlexNet on images of 32 pixels does not end in an error about their size."""
    plan = plan_training({"train_data": str(colors), "model": "alexnet"})
    assert prepare_data(plan, NoOpCallback()).preprocessing.image_size == 63


def test_trials_of_one_search_get_the_size_of_their_network(colors: Path) -> None:
    """Images prepared for one network do not serve another that needs them larger."""
    plan = plan_search(search_settings(colors, model=f"alexnet,{SMALL}"))
    bench = TrialRunner(plan, "", "", NoOpSearchCallback())
    sizes = [
        bench.data(plan_trial(plan.base, {"model": name}, 1)).preprocessing.image_size
        for name in (SMALL, "alexnet", SMALL)
    ]
    assert sizes == [32, 63, 32]


def test_untrained_directory_keeps_the_normalisation_of_default_weights(
    tmp_path: Path, hub: Path
) -> None:
    """`model init --weights default` records what a file of weights does not say."""
    put_weights(hub, SMALL)
    folder = init_model(SMALL, str(tmp_path / "out"), weights="default", switches={})
    stored = directory.read_model_directory(folder)
    assert stored.description.preprocessing == describe_default_weights(SMALL)
    assert not describe_initial_weights(str(folder), None).are_random
    with pytest.raises(InvalidModelDirectoryError, match="is not trained"):
        stored.classifier()


@pytest.fixture
def half_normalised(tmp_path: Path) -> Path:
    """An UntrainedModelDirectory whose weights want mean and deviation 0.5."""
    folder = tmp_path / "half"
    state = build_network(SMALL, 5, image_size=None).state_dict()
    description = ModelDescription(SMALL, {}, (), Preprocessing(224, HALF, HALF))
    directory.write_model_directory(folder, description, serialize_state(state))
    return folder


@pytest.mark.usefixtures("store")
def test_model_records_the_normalisation_that_training_used(
    half_normalised: Path, colors: Path
) -> None:
    """The trained model's preprocessing has the mean and deviation of its initial weights."""
    from mlflow.artifacts import download_artifacts

    settings = {"model": str(half_normalised), "epochs": 1, "precision": "fp32", "device": "cpu"}
    result = train_run(plan_training({"train_data": str(colors), **settings}))
    assert result.model_uri is not None
    folder = Path(download_artifacts(result.model_uri))
    trained = json.loads((folder / "model.json").read_text("utf-8"))
    assert trained["preprocessing"] == {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}


def notes_of(colors: Path, **settings: object) -> str:
    """What is noted while images are prepared for a training with `settings`."""
    notes = Notes()
    prepare_data(plan_training({"train_data": str(colors), "model": SMALL, **settings}), notes)
    return "\n".join(notes.texts)


def test_frozen_random_weights_are_noted(colors: Path, half_normalised: Path) -> None:
    """Features of random weights are likely a mistake; features of given weights are not."""
    assert "random weights" in notes_of(colors, freeze="backbone")
    assert "random weights" not in notes_of(colors)
    given = half_normalised / "model.safetensors"
    assert "random weights" not in notes_of(colors, freeze="backbone", weights=str(given))
    assert "random weights" not in notes_of(colors, freeze="backbone", model=str(half_normalised))


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_train_accuracy_of_mixed_images_is_noted(colors: Path, name: str) -> None:
    """Such a figure is not to be compared with the accuracy of a run without mixing."""
    assert f"mixed images ({name})" in notes_of(colors, **{name: 0.2})
    assert "train_accuracy" not in notes_of(colors)
