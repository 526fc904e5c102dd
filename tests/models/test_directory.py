"""The zoo and model directories: ours and Azure's, whole, damaged and malicious."""

import csv
import io
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from trialrun.errors import InvalidModelDirectoryError, InvalidParameterError
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models import ARCHITECTURES, directory
from trialrun.models.classifier import ImageClassifier
from trialrun.models.directory import ModelDescription
from trialrun.models.names import check_model_name
from trialrun.models.open import create_network, open_classifier
from trialrun.models.weights import serialize_state
from trialrun.models.zoo import build_network, find_head_prefix
from trialrun.runs.evaluation.score import build_score_table
from trialrun.runs.init_model import init_model
from trialrun.scoring import score_images

SMALL = "shufflenet_v2_x0_5"


def test_zoo_is_torchvisions() -> None:
    """The list of names is that of the installed torchvision."""
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
def test_head_is_what_depends_on_the_number_of_classes(name: str) -> None:
    """The last layer alone differs between networks for three and for four classes."""
    three = build_network(name, 3, image_size=224)
    four = build_network(name, 4, image_size=224).state_dict()
    differing = [k for k, v in three.state_dict().items() if v.shape != four[k].shape]
    assert differing
    assert all(key.startswith(find_head_prefix(three)) for key in differing)


def test_misspelt_network_is_refused_with_the_nearest() -> None:
    """A typing error is answered with what was meant."""
    with pytest.raises(InvalidModelDirectoryError) as raised:
        check_model_name("resnet-18")
    assert "resnet18" in raised.value.hint


def test_image_size_that_does_not_fit_is_told() -> None:
    """A network that cannot take 8 pixels says so before training."""
    with pytest.raises(InvalidParameterError, match="8 pixels"):
        create_network("alexnet", 2, image_size=8, weights=None)


def test_untrained_directory_is_what_model_takes(tmp_path: Path) -> None:
    """`model init` writes a directory from which a network is built, switches and all."""
    folder = init_model(
        "densenet121",
        str(tmp_path / "out"),
        weights="none",
        switches={"memory_efficient": True, "zero_init_residual": False},
    )
    description, network = create_network(str(folder), 3, image_size=32, weights=None)
    assert description.arguments == {"memory_efficient": True}
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Nothing is written that no training could start from."""
    source = build_network("resnet18", 5, image_size=None)
    (tmp_path / "weights.safetensors").write_bytes(serialize_state(source.state_dict()))
    weights, out = str(tmp_path / "weights.safetensors"), tmp_path / "out"
    with pytest.raises(InvalidModelDirectoryError, match="tensors are missing"):
        init_model(SMALL, str(out), weights=weights, switches={})
    assert not out.exists()
    init_model("resnet18", str(out), weights=weights, switches={})
    assert out.is_dir()


def test_switch_of_another_family_is_refused(tmp_path: Path) -> None:
    """DenseNet's switch does nothing for a ResNet, and is not taken silently."""
    with pytest.raises(InvalidParameterError, match="memory_efficient"):
        init_model(
            "resnet18", str(tmp_path / "o"), weights="none", switches={"memory_efficient": True}
        )


def test_initial_weights_come_from_a_file_but_for_the_head(tmp_path: Path) -> None:
    """Weights for 1,000 classes start a network of three; its last layer stays its own."""
    torch.manual_seed(3)
    source = build_network(SMALL, 1000, image_size=64)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(serialize_state(source.state_dict()))
    _, network = create_network(SMALL, 3, image_size=64, weights=str(path))
    assert torch.equal(
        network.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"]
    )
    assert network.state_dict()["fc.weight"].shape[0] == 3


@pytest.mark.parametrize(
    "name", ["densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5", "squeezenet1_1", "swin_t"]
)
def test_weights_of_every_family_survive_the_disk(name: str, tmp_path: Path) -> None:
    """Stored and read again, each tensor is what it was."""
    network = build_network(name, 2, image_size=224)
    description = ModelDescription(name, {}, ("cat", "dog"), Preprocessing(224))
    directory.write_model_directory(
        tmp_path / "model", description, serialize_state(network.state_dict())
    )
    read = open_classifier(tmp_path / "model").network.state_dict()
    assert all(torch.equal(read[key], value) for key, value in network.state_dict().items())


def test_weights_under_the_names_of_old_start_a_network(tmp_path: Path) -> None:
    """Torchvision's published DenseNet weights say `norm.1`, and count no batches."""
    source = build_network("densenet121", 5, image_size=32)
    published = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): tensor
        for name, tensor in source.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(published, tmp_path / "densenet121.pth")
    weights = str(tmp_path / "densenet121.pth")
    _, network = create_network("densenet121", 3, image_size=32, weights=weights)
    name = "features.denseblock1.denselayer2.conv1.weight"
    assert name not in published
    assert torch.equal(network.state_dict()[name], source.state_dict()[name])


@pytest.mark.parametrize(
    "content", [bytes(50), b"\x89PNG\r\n\x1a\n" + bytes(40), pickle.dumps({1: 2}, protocol=2)]
)
def test_file_that_holds_no_weights_is_not_accused(content: bytes, tmp_path: Path) -> None:
    """Damage is told as damage, and torch's advice to run the file is not passed on."""
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InvalidModelDirectoryError, match=r"damaged|no state dict") as raised:
        create_network(SMALL, 3, image_size=32, weights=str(tmp_path / "weights.pth"))
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize("values", [{"std": [0, 1, 1]}, {"mean": [float("nan"), 0, 0]}], ids=str)
def test_preprocessing_that_gives_no_numbers_is_refused(values: dict[str, object]) -> None:
    """A deviation of 0 would make every answer NaN."""
    with pytest.raises(ValueError, match=r"numbers|above 0"):
        Preprocessing.from_json({"image_size": 32, "mean": [0, 0, 0], "std": [1, 1, 1]} | values)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A small ModelDirectory of two classes."""
    torch.manual_seed(1)
    folder = tmp_path / "model"
    network = build_network(SMALL, 2, image_size=32)
    description = ModelDescription(SMALL, {}, ("cat", "dog"), Preprocessing(32))
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))
    return folder


def test_model_directory_survives_the_disk(trained: Path) -> None:
    """What is loaded computes, in eval mode, what was stored."""
    classifier = open_classifier(trained)
    torch.manual_seed(1)
    network = build_network(SMALL, 2, image_size=32).eval()
    images = torch.rand(2, 3, 32, 32)
    assert not classifier.training
    assert classifier.classes == ("cat", "dog")
    torch.testing.assert_close(classifier(images), network(images), rtol=0, atol=0)


def flip_a_weight_bit(folder: Path) -> None:
    """One bit in the middle of the weights."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove_the_weights(folder: Path) -> None:
    """A file the manifest names is gone."""
    (folder / "model.safetensors").unlink()


def remove_the_manifest(folder: Path) -> None:
    """Nothing says what the files should be."""
    (folder / "manifest.json").unlink()


def add_a_file(folder: Path) -> None:
    """A file that nobody listed."""
    (folder / "extra.py").write_text("print('hello')")


def ask_for_another_loader(folder: Path) -> None:
    """MLmodel names a module to import."""
    (folder / "MLmodel").write_text("flavors: {python_function: {loader_module: os.path}}")


def put_nan_into_the_weights(folder: Path) -> None:
    """A weight that is no number, under a fitting manifest."""
    network = build_network(SMALL, 2, image_size=32)
    with torch.no_grad():
        network.get_parameter("fc.bias")[0] = torch.nan
    write_again(folder, ("cat", "dog"), network)


def list_three_classes_for_two_outputs(folder: Path) -> None:
    """The label list and the network disagree."""
    write_again(folder, ("cat", "dog", "emu"), build_network(SMALL, 2, image_size=32))


def name_an_unknown_architecture(folder: Path) -> None:
    """model.json names something that is not in the zoo."""
    network = build_network(SMALL, 2, image_size=32)
    description = ModelDescription("os.system", {}, ("a", "b"), Preprocessing(32))
    shutil.rmtree(folder)
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))


def lead_the_manifest_out(folder: Path) -> None:
    """A path with .. in the manifest."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../secret"] = {"sha256": "0" * 64, "bytes": 1}
    path.write_text(json.dumps(manifest))


def make_the_weights_half(folder: Path) -> None:
    """Weights of another type."""
    write_again(folder, ("cat", "dog"), build_network(SMALL, 2, image_size=32).half())


def write_again(folder: Path, classes: tuple[str, ...], network: nn.Module) -> None:
    """Replace a directory, its manifest fitting what it holds."""
    shutil.rmtree(folder)
    description = ModelDescription(SMALL, {}, classes, Preprocessing(32))
    directory.write_model_directory(folder, description, serialize_state(network.state_dict()))


@pytest.mark.parametrize(
    "harm",
    [
        flip_a_weight_bit,
        remove_the_weights,
        remove_the_manifest,
        add_a_file,
        ask_for_another_loader,
        put_nan_into_the_weights,
        list_three_classes_for_two_outputs,
        name_an_unknown_architecture,
        lead_the_manifest_out,
        make_the_weights_half,
    ],
)
def test_harmed_model_is_refused(trained: Path, harm: Callable[[Path], None]) -> None:
    """Faults 35 to 41: each is told, none is loaded."""
    harm(trained)
    with pytest.raises(InvalidModelDirectoryError) as raised:
        open_classifier(trained)
    assert raised.value.hint


def test_flipped_bit_is_told_as_a_checksum(trained: Path) -> None:
    """Fault 35 names its cause."""
    flip_a_weight_bit(trained)
    with pytest.raises(InvalidModelDirectoryError, match="checksum mismatch"):
        open_classifier(trained)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """Fault 42: not a model directory at all."""
    with pytest.raises(InvalidModelDirectoryError, match="no model directory"):
        open_classifier(tmp_path)


class _Payload:
    """Unpickled, it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.target,)


def azure_spec(**changes: object) -> str:
    """A model_spec.yaml as Azure's modules write it, in JSON, which YAML takes."""
    spec: dict[str, object] = {
        "flavor": {"name": "pytorch", "serialization_method": "state_dict"},
        "model_file": "model",
        "flavor_extras": {
            "module": "azureml.designer.modules.somewhere",
            "class": "ResNet",
            "init_params": {"model_name": "resnet18", "pretrained": False, "num_classes": 2},
        },
        "label_map_file": "index_to_label.csv",
        "inputs": [],
    }
    return json.dumps(spec | changes)


@pytest.fixture
def azure_model(tmp_path: Path) -> Path:
    """A ModelDirectory in Azure's format."""
    folder = tmp_path / "azure_model"
    folder.mkdir()
    (folder / "model_spec.yaml").write_text(azure_spec())
    (folder / "index_to_label.csv").write_text(",label\n0,cat\n1,dog\n")
    network = build_network("resnet18", 2, image_size=None)
    torch.save({f"model.{k}": v for k, v in network.state_dict().items()}, folder / "model")
    return folder


def test_azure_model_is_loaded_by_name(azure_model: Path) -> None:
    """The class it names is mapped, never imported."""
    classifier = open_classifier(azure_model)
    assert classifier.classes == ("cat", "dog")
    assert classifier.preprocessing.image_size is None


def test_pretrained_azure_model_keeps_its_second_layer(azure_model: Path) -> None:
    """Where the ancestor began from 1,000 outputs, a linear layer maps them to the classes."""
    network = build_network("resnet18", 1000, image_size=None).eval()
    output = nn.Linear(1000, 2)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    state |= {f"out_linear_model.{k}": v for k, v in output.state_dict().items()}
    torch.save(state, azure_model / "model")
    images = torch.rand(1, 3, 32, 32)
    expected = output(network(images))
    torch.testing.assert_close(open_classifier(azure_model)(images), expected)


def test_pickle_payload_is_refused_and_not_run(azure_model: Path, tmp_path: Path) -> None:
    """Fault 37: the sentinel is absent."""
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
    """Faults 38, 39 and 42 for Azure's format."""
    (azure_model / "model_spec.yaml").write_text(azure_spec(**changes))
    with pytest.raises(InvalidModelDirectoryError):
        open_classifier(azure_model)


def test_azure_labels_must_fit_the_classes(azure_model: Path) -> None:
    """Fault 41: three labels for two outputs."""
    (azure_model / "index_to_label.csv").write_text(",label\n0,a\n1,b\n2,c\n")
    with pytest.raises(InvalidModelDirectoryError, match="3 labels"):
        open_classifier(azure_model)
    (azure_model / "index_to_label.csv").write_text(",label\n0,a\n1,a\n")
    with pytest.raises(InvalidModelDirectoryError, match="two classes one name"):
        open_classifier(azure_model)


def test_image_too_small_for_the_network_gets_its_reason() -> None:
    """Of images that are taken as they are, the others are scored all the same."""
    network = build_network("squeezenet1_1", 2, image_size=None)
    classifier = ImageClassifier(network, ("a", "b"), Preprocessing(None)).eval()
    pictures = []
    for size in (64, 8, 64):
        file = io.BytesIO()
        Image.new("RGB", (size, size), (200, 30, 30)).save(file, "PNG")
        pictures.append(file.getvalue())
    first, small, last = score_images(classifier, pictures)
    assert small.probabilities is None
    assert "8 by 8 pixels" in small.error
    assert first.probabilities is not None
    assert last.probabilities == pytest.approx(first.probabilities)


def test_azure_untrained_directory_becomes_a_network(azure: Path) -> None:
    """The ancestor's untrained DenseNet is taken, without its weights file."""
    description, _ = create_network(
        str(azure / "untrained_densenet121"), 10, image_size=32, weights=None
    )
    assert description.architecture == "densenet121"


def test_azure_model_scores_as_the_ancestor_did(azure: Path, cache_folder: Path) -> None:
    """Every probability of the ancestor's own table is met within 1e-5."""
    images = open_data(str(azure / "image_directory_valid"), cache_folder)
    table = build_score_table(open_classifier(azure / "model_directory"), images)
    with (azure / "scored_valid.csv").open(newline="") as file:
        golden = list(csv.DictReader(file))
    assert table["id"].tolist() == [int(row["id"]) for row in golden]
    assert table["category"].tolist() == [row["category"] for row in golden]
    assert table["Scored Labels"].tolist() == [row["Scored Labels"] for row in golden]
    for column in (name for name in golden[0] if name.startswith("Scored Probabilities_")):
        expected = [float(row[column]) for row in golden]
        assert table[column].tolist() == pytest.approx(expected, abs=1e-5)
