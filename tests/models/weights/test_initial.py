"""Initial weights: their source, and the image size and normalisation that they expect."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.conftest import find_file_name, write_classes, write_weights
from tests.tuning.conftest import settings as search_settings
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from trialrun.models import directory
from trialrun.models.directory import ModelDescription
from trialrun.models.open import create_network
from trialrun.models.weights.initial import describe_initial_weights
from trialrun.models.weights.published import describe_default_weights
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.names import ARCHITECTURES
from trialrun.models.zoo.networks import build_network, check_image_size
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.init_model import write_untrained_model
from trialrun.runs.training.inputs.data import prepare_data
from trialrun.runs.training.plan import plan_training
from trialrun.runs.training.run import train_run
from trialrun.tuning.callbacks import NoOpSearchCallback
from trialrun.tuning.plan import plan_search, plan_trial
from trialrun.tuning.workers.trial_runner import TrialRunner

HALF = (0.5, 0.5, 0.5)
SMALL = "shufflenet_v2_x0_5"


class Notes(NoOpCallback):
    """Records the notes of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        """Append the note."""
        self.texts.append(text)


def write_azure_untrained(folder: Path, *, pretrained: bool, **more: object) -> Path:
    """Write an untrained model directory of Azure ML designer, without its weights file."""
    folder.mkdir()
    init_params = {"model_name": "resnet18", "pretrained": pretrained, "zero_init_residual": False}
    spec = {
        "flavor": {"name": "pytorch", "serialization_method": "state_dict"},
        "model_file": "model",
        "flavor_extras": {"class": "ResNet", "init_params": init_params},
    }
    (folder / "model_spec.yaml").write_text(json.dumps(spec | more))
    return folder


def create_first_layer(model: Path, weights: str | None = None) -> Tensor:
    """Return the first layer of the ResNet that training would start from."""
    network = create_network(str(model), 3, image_size=32, weights=weights).network
    return network.get_parameter("conv1.weight")


def test_pretrained_azure_directory_starts_from_torchvisions_weights(
    tmp_path: Path, hub: Path
) -> None:
    """`pretrained: true` without a file means torchvision's weights, not random weights."""
    state = write_weights(hub, "resnet18")
    model = write_azure_untrained(tmp_path / "untrained", pretrained=True)
    assert torch.equal(create_first_layer(model), state["conv1.weight"])
    assert not describe_initial_weights(str(model), None).are_random


def test_pretrained_azure_directory_without_download_is_refused(tmp_path: Path, hub: Path) -> None:
    """The error names the directory's setting and the missing file; the hint says what to do."""
    model = write_azure_untrained(tmp_path / "untrained", pretrained=True)
    with pytest.raises(InvalidParameterError) as raised:
        create_first_layer(model)
    text = str(raised.value)
    assert "model_spec.yaml, pretrained: true: " in text
    assert f"{find_file_name('resnet18')}: cannot be downloaded" in text
    assert str(hub / find_file_name("resnet18")) in raised.value.hint
    assert "weights=FILE" in raised.value.hint


@pytest.mark.usefixtures("hub")
def test_azure_directory_that_is_not_pretrained_starts_from_random_weights(tmp_path: Path) -> None:
    """`pretrained: false` without a file needs no network."""
    model = write_azure_untrained(tmp_path / "untrained", pretrained=False)
    torch.manual_seed(1)
    expected = create_first_layer(model)
    torch.manual_seed(2)
    assert not torch.equal(create_first_layer(model), expected)
    assert describe_initial_weights(str(model), None).are_random


@pytest.mark.usefixtures("hub")
def test_weights_override_an_azure_directorys_pretrained(tmp_path: Path) -> None:
    """A file given as `weights` is used, and torchvision's weights are not downloaded."""
    state = build_network("resnet18", 5, image_size=None).state_dict()
    (tmp_path / "own.safetensors").write_bytes(serialize_state(state))
    model = write_azure_untrained(tmp_path / "untrained", pretrained=True)
    layer = create_first_layer(model, weights=str(tmp_path / "own.safetensors"))
    assert torch.equal(layer, state["conv1.weight"])


@pytest.mark.usefixtures("hub")
def test_trained_azure_directory_without_its_file_is_refused(tmp_path: Path) -> None:
    """A label map means that the model is trained: other weights do not replace its file."""
    labels = {"label_map_file": "index_to_label.csv"}
    model = write_azure_untrained(tmp_path / "trained", pretrained=True, **labels)
    with pytest.raises(InvalidModelDirectoryError, match="model cannot be read"):
        create_first_layer(model)


def test_trained_azure_directory_gives_its_normalisation(azure: Path) -> None:
    """Training from Azure's trained weights normalises images as Azure ML designer did."""
    expected = describe_initial_weights(str(azure / "model_directory"), None).expected_input
    assert (expected.mean, expected.std) == (HALF, HALF)
    untrained = describe_initial_weights(str(azure / "untrained_densenet121"), None)
    assert untrained.expected_input.mean == IMAGENET_MEAN


def test_damaged_file_of_torchvisions_weights_is_named(hub: Path) -> None:
    """An incomplete file in torch's cache is an error that names its path."""
    (hub / find_file_name(SMALL)).write_bytes(b"half")
    with pytest.raises(InvalidParameterError, match="is damaged") as raised:
        create_network(SMALL, 3, image_size=32, weights="default")
    assert str(hub) in raised.value.hint


@pytest.mark.parametrize(
    ("name", "mean", "std", "size", "required_size"),
    [
        ("efficientnet_v2_l", HALF, HALF, 480, None),
        ("efficientnet_b3", IMAGENET_MEAN, IMAGENET_STD, 300, None),
        ("vit_h_14", IMAGENET_MEAN, IMAGENET_STD, 518, 518),
        ("vit_b_16", IMAGENET_MEAN, IMAGENET_STD, 224, 224),
        # Their networks convert ImageNet's normalisation: see `build_network`.
        ("googlenet", IMAGENET_MEAN, IMAGENET_STD, 224, None),
        ("inception_v3", IMAGENET_MEAN, IMAGENET_STD, 299, None),
    ],
)
def test_default_weights_have_their_own_normalisation_and_size(
    name: str, mean: tuple[float, ...], std: tuple[float, ...], size: int, required_size: int | None
) -> None:
    """Mean, standard deviation and size are those in torchvision's metadata."""
    expected = describe_initial_weights(name, "default").expected_input
    assert (expected.mean, expected.std) == (mean, std)
    assert (expected.weights_size, expected.required_size) == (size, required_size)


def test_random_weights_of_every_network_expect_imagenets_normalisation() -> None:
    """Without weights, ImageNet's normalisation and at most 224 pixels are assumed."""
    for name in ARCHITECTURES:
        expected = describe_initial_weights(name, None).expected_input
        assert (expected.mean, expected.std) == (IMAGENET_MEAN, IMAGENET_STD)
        assert expected.choose_size(512) == 224


@pytest.mark.parametrize(
    ("photo_size", "model", "weights", "size"),
    [
        (90, "efficientnet_v2_l", "default", 96),
        (90, "efficientnet_b3", None, 96),
        (90, "vit_h_14", "default", 518),
        (90, "vit_h_14", None, 98),
        (90, "maxvit_t", "default", 224),
        (400, "efficientnet_b3", "default", 300),
        (400, "resnet18", "default", 224),
        (400, "resnet18", None, 224),
    ],
)
@pytest.mark.usefixtures("hub")
def test_auto_image_size_follows_weights_and_images(
    tmp_path: Path, photo_size: int, model: str, weights: str | None, size: int
) -> None:
    """`auto` is the size that the weights require, else the images', at most the weights'.

    Nothing is downloaded to find it.
    """
    photos = write_classes(tmp_path / "photos", {"cat": 3, "dog": 3}, size=photo_size)
    plan = plan_training(
        {"train_data": str(photos), "model": model, "weights": weights or "none", "batch_size": 2}
    )
    prepared = prepare_data(plan, NoOpCallback()).preprocessing
    assert prepared.image_size == size
    assert prepared.mean == (HALF if model == "efficientnet_v2_l" else IMAGENET_MEAN)


@pytest.mark.usefixtures("hub")
def test_size_that_the_weights_do_not_support_is_refused_before_the_download(colors: Path) -> None:
    """The hint names the size to set; no weights are needed to know it."""
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


MIN_SIZES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vit_h_14": 42}


@pytest.mark.parametrize(
    "name",
    [
        *MIN_SIZES,
        "densenet121",
        "googlenet",
        "mnasnet0_5",
        "squeezenet1_0",
        "swin_t",
        "vgg11",
        "vit_b_16",
    ],
)
def test_smallest_size_is_chosen_for_small_images(name: str) -> None:
    """The network takes the size chosen for images of 32 pixels."""
    size = describe_initial_weights(name, None).expected_input.choose_size(32)
    assert size == MIN_SIZES.get(name, 32)
    with torch.device("meta"):
        check_image_size(build_network(name, 3, image_size=size), name, size)


@pytest.mark.parametrize(("name", "size"), [("alexnet", 62), ("inception_v3", 74)])
def test_size_below_the_smallest_is_refused(name: str, size: int) -> None:
    """An explicit `image_size` that the network does not take is an error."""
    with pytest.raises(InvalidParameterError, match=f"{size} pixels"):
        create_network(name, 3, image_size=size, weights=None)


def test_small_images_are_prepared_at_the_smallest_size(colors: Path) -> None:
    """Images of 32 pixels are enlarged for AlexNet."""
    plan = plan_training({"train_data": str(colors), "model": "alexnet"})
    assert prepare_data(plan, NoOpCallback()).preprocessing.image_size == 63


def test_trials_of_one_search_get_the_size_of_their_network(colors: Path) -> None:
    """Images prepared for one network are not reused for another that needs a larger size."""
    plan = plan_search(search_settings(colors, model=f"alexnet,{SMALL}"))
    runner = TrialRunner(plan, "", "", NoOpSearchCallback())
    sizes = [
        runner.load_data(plan_trial(plan.base, {"model": name}, 1)).preprocessing.image_size
        for name in (SMALL, "alexnet", SMALL)
    ]
    assert sizes == [32, 63, 32]


def test_untrained_directory_keeps_the_normalisation_of_default_weights(
    tmp_path: Path, hub: Path
) -> None:
    """`model init --weights default` records the normalisation of torchvision's weights."""
    write_weights(hub, SMALL)
    folder = write_untrained_model(SMALL, str(tmp_path / "out"), weights="default", switches={})
    stored = directory.read_model_directory(folder)
    assert stored.description.preprocessing == describe_default_weights(SMALL)
    assert not describe_initial_weights(str(folder), None).are_random
    with pytest.raises(InvalidModelDirectoryError, match="is not trained"):
        stored.build_classifier()


@pytest.fixture
def half_normalised(tmp_path: Path) -> Path:
    """An untrained model directory with mean and standard deviation 0.5."""
    folder = tmp_path / "half"
    state = build_network(SMALL, 5, image_size=None).state_dict()
    description = ModelDescription(SMALL, {}, (), Preprocessing(224, HALF, HALF))
    directory.write_model_directory(folder, description, serialize_state(state))
    return folder


@pytest.mark.usefixtures("store")
def test_model_records_the_normalisation_that_training_used(
    half_normalised: Path, colors: Path
) -> None:
    """The trained model's preprocessing has the normalisation of its initial weights."""
    from mlflow.artifacts import download_artifacts

    settings = {"model": str(half_normalised), "epochs": 1, "precision": "fp32", "device": "cpu"}
    result = train_run(plan_training({"train_data": str(colors), **settings}))
    assert result.model_uri is not None
    folder = Path(download_artifacts(result.model_uri))
    trained = json.loads((folder / "model.json").read_text("utf-8"))
    assert trained["preprocessing"] == {"image_size": 32, "mean": [0.5] * 3, "std": [0.5] * 3}


def collect_notes(colors: Path, **settings: object) -> str:
    """Return the notes of preparing images for a training with `settings`."""
    notes = Notes()
    prepare_data(plan_training({"train_data": str(colors), "model": SMALL, **settings}), notes)
    return "\n".join(notes.texts)


def test_frozen_random_weights_are_noted(colors: Path, half_normalised: Path) -> None:
    """Freezing random weights is likely a mistake; freezing given weights is not."""
    assert "random weights" in collect_notes(colors, freeze="backbone")
    assert "random weights" not in collect_notes(colors)
    weights = half_normalised / "model.safetensors"
    assert "random weights" not in collect_notes(colors, freeze="backbone", weights=str(weights))
    assert "random weights" not in collect_notes(
        colors, freeze="backbone", model=str(half_normalised)
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_train_accuracy_of_mixed_images_is_noted(colors: Path, name: str) -> None:
    """It cannot be compared with the training accuracy of a run without mixing."""
    assert f"mixed images ({name})" in collect_notes(colors, **{name: 0.2})
    assert "train_accuracy" not in collect_notes(colors)
