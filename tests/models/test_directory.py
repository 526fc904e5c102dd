"""Networks and model directories, trialrun's and Azure ML designer's: valid, damaged, malicious."""

import csv
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import trialrun
from tests.azure_models import format_azure_spec, save_with_torch, write_azure_model
from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import ARCHITECTURES, directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.open import create_network, open_classifier
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.zoo.names import check_model_name
from trialrun.models.zoo.networks import build_network, find_head_prefix
from trialrun.runs.init_model import write_untrained_model
from trialrun.scoring.network import prepare_network
from trialrun.scoring.pipeline import score_images

CPU = torch.device("cpu")
SMALL = "shufflenet_v2_x0_5"


def test_networks_are_torchvision_s() -> None:
    """The list of names equals that of the installed torchvision."""
    names = torchvision.models.list_models(module=torchvision.models)
    assert sorted(ARCHITECTURES) == sorted(names)


@pytest.mark.parametrize(
    "name",
    [
        "densenet121",
        "efficientnet_b0",
        "googlenet",
        "inception_v3",
        "maxvit_t",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "resnet18",
        "squeezenet1_1",
        "swin_t",
    ],
)
def test_only_the_head_depends_on_the_number_of_classes(name: str) -> None:
    """Only the last layer differs between networks for three and for four classes."""
    three = build_network(name, 3, image_size=224)
    four = build_network(name, 4, image_size=224).state_dict()
    differing = [k for k, v in three.state_dict().items() if v.shape != four[k].shape]
    assert differing
    assert all(key.startswith(find_head_prefix(three)) for key in differing)


def test_misspelt_network_is_refused_with_a_suggestion() -> None:
    """The hint suggests the nearest name."""
    with pytest.raises(InvalidModelDirectoryError) as raised:
        check_model_name("resnet-18")
    assert "resnet18" in raised.value.hint


def test_image_size_that_the_network_does_not_take_is_refused() -> None:
    """A network that cannot take 8 pixels is an error before training."""
    with pytest.raises(InvalidParameterError, match="8 pixels"):
        create_network("alexnet", 2, image_size=8, weights=None)


def test_untrained_directory_is_a_valid_model(tmp_path: Path) -> None:
    """`model init` writes a directory from which a network with its switches is built."""
    folder = write_untrained_model(
        "densenet121",
        str(tmp_path / "out"),
        weights="none",
        switches={"memory_efficient": True, "zero_init_residual": False},
    )
    created = create_network(str(folder), 3, image_size=32, weights=None)
    assert created.description.arguments == {"memory_efficient": True}
    assert created.network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """`model init` writes no directory that training could not start from."""
    source = build_network("resnet18", 5, image_size=None)
    (tmp_path / "weights.safetensors").write_bytes(serialize_state(source.state_dict()))
    weights, out = str(tmp_path / "weights.safetensors"), tmp_path / "out"
    with pytest.raises(InvalidModelDirectoryError, match="weights of another network"):
        write_untrained_model(SMALL, str(out), weights=weights, switches={})
    assert not out.exists()
    write_untrained_model("resnet18", str(out), weights=weights, switches={})
    assert out.is_dir()


def test_switch_of_another_family_is_refused(tmp_path: Path) -> None:
    """DenseNet's switch is an error for a ResNet."""
    with pytest.raises(InvalidParameterError, match="memory_efficient"):
        write_untrained_model(
            "resnet18", str(tmp_path / "o"), weights="none", switches={"memory_efficient": True}
        )


def test_initial_weights_come_from_a_file_except_for_the_head(tmp_path: Path) -> None:
    """Weights for 1,000 classes initialise a network for three, except its last layer."""
    torch.manual_seed(3)
    source = build_network(SMALL, 1000, image_size=64)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(serialize_state(source.state_dict()))
    network = create_network(SMALL, 3, image_size=64, weights=str(path)).network
    assert torch.equal(
        network.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"]
    )
    assert network.state_dict()["fc.weight"].shape[0] == 3


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "squeezenet1_1", "swin_t"]
)
def test_weights_of_every_family_survive_the_disk(name: str, tmp_path: Path) -> None:
    """Every tensor is the same after writing and reading."""
    network = build_network(name, 2, image_size=224)
    description = ModelDescription(name, {}, ("cat", "dog"), Preprocessing(224))
    directory.write_model_directory(
        tmp_path / "model", description, serialize_state(network.state_dict())
    )
    stored = open_classifier(tmp_path / "model").network.state_dict()
    assert all(torch.equal(stored[key], value) for key, value in network.state_dict().items())


def test_weights_with_old_names_initialise_a_network(tmp_path: Path) -> None:
    """Torchvision's published DenseNet weights have `norm.1` and no batch counts."""
    source = build_network("densenet121", 5, image_size=32)
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in source.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(published, tmp_path / "densenet121.pth")
    weights = str(tmp_path / "densenet121.pth")
    network = create_network("densenet121", 3, image_size=32, weights=weights).network
    name = "features.denseblock1.denselayer2.conv1.weight"
    assert name not in published
    assert torch.equal(network.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize(
    "content", [bytes(50), b"\x89PNG\r\n\x1a\n" + bytes(40), pickle.dumps({1: 2}, protocol=2)]
)
def test_file_without_weights_is_refused_as_damaged(content: bytes, tmp_path: Path) -> None:
    """The error reports damage and does not repeat torch's advice to run the file."""
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InvalidModelDirectoryError, match=r"damaged|no state dict") as raised:
        create_network(SMALL, 3, image_size=32, weights=str(tmp_path / "weights.pth"))
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("values", [{"std": [0, 1, 1]}, {"mean": [float("nan"), 0, 0]}], ids=str)
def test_preprocessing_without_finite_results_is_refused(values: dict[str, object]) -> None:
    """A standard deviation of 0 would make every score NaN."""
    with pytest.raises(ValueError, match=r"numbers|above 0"):
        Preprocessing.from_json({"image_size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]} | values)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A small model directory with two classes."""
    torch.manual_seed(1)
    folder = tmp_path / "model"
    network = build_network(SMALL, 2, image_size=32)
    description = ModelDescription(SMALL, {}, ("cat", "dog"), Preprocessing(32))
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))
    return folder


def test_model_directory_survives_the_disk(trained: Path) -> None:
    """The loaded network is in eval mode and computes the same as the stored one."""
    classifier = open_classifier(trained)
    torch.manual_seed(1)
    network = build_network(SMALL, 2, image_size=32).eval()
    images = torch.rand(2, 3, 32, 32)
    assert not classifier.training
    assert classifier.classes == ("cat", "dog")
    torch.testing.assert_close(classifier(images), network(images), rtol=0, atol=0)


def flip_a_weight_bit(folder: Path) -> None:
    """Flip one bit in the middle of the weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_the_weights(folder: Path) -> None:
    """Delete a file that the manifest lists."""
    (folder / "model.safetensors").unlink()


def remove_the_manifest(folder: Path) -> None:
    """Delete the manifest."""
    (folder / "manifest.json").unlink()


def add_a_file(folder: Path) -> None:
    """Add a file that does not belong in a model directory."""
    (folder / "extra.py").write_text("print('hello')")


def ask_for_another_loader(folder: Path) -> None:
    """Write an MLmodel that names a module to import."""
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: os.path}}")


def put_nan_into_the_weights(folder: Path) -> None:
    """Set a weight to NaN, with a correct manifest."""
    network = build_network(SMALL, 2, image_size=32)
    with torch.no_grad():
        network.get_parameter("fc.bias")[0] = torch.nan
    rewrite(folder, ("cat", "dog"), network)


def list_three_classes_for_two_outputs(folder: Path) -> None:
    """Write more classes than the network has outputs."""
    rewrite(folder, ("cat", "dog", "emu"), build_network(SMALL, 2, image_size=32))


def name_an_unknown_architecture(folder: Path) -> None:
    """Write a model.json with an unknown architecture."""
    network = build_network(SMALL, 2, image_size=32)
    description = ModelDescription("os.system", {}, ("a", "b"), Preprocessing(32))
    shutil.rmtree(folder)
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))


def list_a_file_outside(folder: Path) -> None:
    """Add a path with .. to the manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../secret"] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(manifest))


def convert_the_weights_to_half(folder: Path) -> None:
    """Write weights of another dtype."""
    rewrite(folder, ("cat", "dog"), build_network(SMALL, 2, image_size=32).half())


def rewrite(folder: Path, classes: tuple[str, ...], network: nn.Module) -> None:
    """Replace a directory by one with a correct manifest."""
    shutil.rmtree(folder)
    description = ModelDescription(SMALL, {}, classes, Preprocessing(32))
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))


@pytest.mark.parametrize(
    "damage",
    [
        flip_a_weight_bit,
        remove_the_weights,
        remove_the_manifest,
        add_a_file,
        ask_for_another_loader,
        put_nan_into_the_weights,
        list_three_classes_for_two_outputs,
        name_an_unknown_architecture,
        list_a_file_outside,
        convert_the_weights_to_half,
    ],
)
def test_damaged_model_is_refused(trained: Path, damage: Callable[[Path], None]) -> None:
    """Faults 35 to 41: each is an error with a hint."""
    damage(trained)
    with pytest.raises(InvalidModelDirectoryError) as raised:
        open_classifier(trained)
    assert raised.value.hint


def test_flipped_bit_is_reported_as_a_checksum_mismatch(trained: Path) -> None:
    """Fault 35: the error names the cause."""
    flip_a_weight_bit(trained)
    with pytest.raises(InvalidModelDirectoryError, match="checksum mismatch"):
        open_classifier(trained)


@pytest.mark.parametrize(
    "damage", [flip_a_weight_bit, remove_the_weights, remove_the_manifest, add_a_file]
)
def test_damage_is_found_without_parsing(trained: Path, damage: Callable[[Path], None]) -> None:
    """An upload is verified against its manifest alone."""
    directory.verify_model_directory(trained)
    damage(trained)
    with pytest.raises(InvalidModelDirectoryError):
        directory.verify_model_directory(trained)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """Fault 42: not a model directory at all."""
    with pytest.raises(InvalidModelDirectoryError, match="is not a model directory"):
        open_classifier(tmp_path)


class _Payload:
    """An object that writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


@pytest.fixture
def azure_model(tmp_path: Path) -> Path:
    """A model directory in Azure ML designer's format."""
    folder = tmp_path / "azure_model"
    network = build_network("resnet18", 2, image_size=None)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    write_azure_model(folder, save_with_torch(state))
    return folder


def test_azure_model_is_loaded_by_name(azure_model: Path) -> None:
    """The class in its specification is mapped to a network, not imported."""
    classifier = open_classifier(azure_model)
    assert classifier.classes == ("cat", "dog")
    assert classifier.preprocessing.image_size is None


def test_pretrained_azure_model_has_its_output_layer(azure_model: Path) -> None:
    """After pretraining, a linear layer maps 1,000 outputs to the classes."""
    network = build_network("resnet18", 1000, image_size=None).eval()
    output = nn.Linear(1000, 2)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    state |= {f"out_linear_model.{k}": v for k, v in output.state_dict().items()}
    torch.save(state, azure_model / "model")
    images = torch.rand(1, 3, 32, 32)
    expected = output(network(images))
    torch.testing.assert_close(open_classifier(azure_model)(images), expected)


def test_pickle_payload_is_refused_and_not_run(azure_model: Path, tmp_path: Path) -> None:
    """Fault 37: the payload's file is not written."""
    sentinel = tmp_path / "sentinel"
    (azure_model / "model").write_bytes(pickle.dumps(_Payload(sentinel)))
    with pytest.raises(InvalidModelDirectoryError):
        open_classifier(azure_model)
    torch.save({"model.x": _Payload(sentinel)}, azure_model / "model")
    with pytest.raises(InvalidModelDirectoryError, match="run code"):
        open_classifier(azure_model)
    assert not sentinel.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"flavor": {"name": "sklearn"}},
        {"flavor_extras": {"module": "os", "class": "system", "init_params": {}}},
        {"model_file": "../../model"},
        {"label_map_file": "/etc/passwd"},
        {"label_map_file": None},
        {"label_map_file": ".."},
        {"flavor": "pytorch"},
        {"flavor_extras": {"class": "ResNet", "init_params": ["resnet18"]}},
        {"flavor_extras": {"class": ["ResNet"], "init_params": {"model_name": ["resnet18"]}}},
        {"inputs": [{"pre_processor": "ImageNormalizer"}]},
    ],
    ids=[
        "not pytorch",
        "foreign class",
        "path out",
        "absolute path",
        "untrained",
        "folder",
        "flavor is text",
        "arguments are a list",
        "class is a list",
        "pre_processor is text",
    ],
)
def test_foreign_azure_spec_is_refused(azure_model: Path, changes: dict[str, object]) -> None:
    """Faults 38, 39 and 42 in Azure ML designer's format."""
    (azure_model / "model_spec.yaml").write_text(format_azure_spec(**changes))
    with pytest.raises(InvalidModelDirectoryError):
        open_classifier(azure_model)


def test_azure_labels_must_match_the_classes(azure_model: Path) -> None:
    """Fault 41: three labels for two outputs."""
    (azure_model / "index_to_label.csv").write_text(",label\n0,a\n1,b\n2,c\n")
    with pytest.raises(InvalidModelDirectoryError, match="3 labels"):
        open_classifier(azure_model)
    (azure_model / "index_to_label.csv").write_text(",label\n0,a\n1,a\n")
    with pytest.raises(InvalidModelDirectoryError, match="two classes the same name"):
        open_classifier(azure_model)


def test_image_too_small_for_the_network_gets_an_error() -> None:
    """Without a fixed image size, one image's error does not affect the other scores."""
    network = build_network("squeezenet1_1", 2, image_size=None)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(None)).eval()
    contents = []
    for size in (64, 8, 64):
        file = io.BytesIO()
        Image.new("RGB", (size, size), (200, 30, 30)).save(file, "PNG")
        contents.append(file.getvalue())
    first, small, last = score_images(prepare_network(classifier, CPU), contents)
    assert small.probabilities is None
    assert "8 by 8 pixels" in small.error
    assert first.probabilities is not None
    assert last.probabilities == pytest.approx(first.probabilities)


def test_azure_untrained_directory_becomes_a_network(azure: Path) -> None:
    """Azure ML designer's untrained DenseNet is read without its weights file."""
    description = create_network(
        str(azure / "untrained_densenet121"), 10, image_size=32, weights=None
    ).description
    assert description.architecture == "densenet121"


def test_azure_model_scores_as_azure_did(azure: Path, tmp_path: Path) -> None:
    """Every probability equals Azure ML designer's own within 1e-5."""
    model, data = azure / "model_directory", azure / "image_directory_valid"
    trialrun.score(str(model), str(data), str(tmp_path / "scored.parquet"), device="cpu")
    table = pd.read_parquet(tmp_path / "scored.parquet")
    with (azure / "scored_valid.csv").open(newline="") as file:
        golden = list(csv.DictReader(file))
    assert table["id"].tolist() == [int(row["id"]) for row in golden]
    assert table["category"].tolist() == [row["category"] for row in golden]
    assert table["Scored Labels"].tolist() == [row["Scored Labels"] for row in golden]
    for column in (name for name in golden[0] if name.startswith("Scored Probabilities_")):
        expected = [float(row[column]) for row in golden]
        assert table[column].tolist() == pytest.approx(expected, abs=1e-5)
