"""Training from model directories and registered models: last layer, preprocessing, digests."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trialrun
from tests.conftest import SMALL, load_start_state, make_network, write_classes, write_model
from tests.tuning.conftest import nested_runs, settings
from trialrun.config.reproduce import ReproduceConfig
from trialrun.errors import InvalidModelDirectoryError, TrackingError, TrialrunError
from trialrun.images.decoding.preprocessing import IMAGENET_MEAN, Preprocessing
from trialrun.mlflow_client import connect_client
from trialrun.models.open import create_network, open_classifier
from trialrun.models.weights.serialization import serialize_state
from trialrun.models.weights.state_hash import hash_state
from trialrun.models.zoo.constant_values import NoRandomValues
from trialrun.models.zoo.networks import build_network, find_head_prefix
from trialrun.runs.callbacks import NoOpCallback
from trialrun.runs.init_model import write_untrained_model
from trialrun.runs.inspection.compare import compare_runs
from trialrun.runs.inspection.reproduce import reproduce_run
from trialrun.runs.inspection.run_reader import read_run
from trialrun.runs.training.inputs.data import prepare_data
from trialrun.runs.training.plan import plan_training

SQUEEZE = "squeezenet1_1"  # whose last layer is a convolution
TINY: dict[str, Any] = {"model": SMALL, "epochs": 1, "batch_size": 8, "precision": "fp32"}


def read_run_ids() -> list[str]:
    """Return the ids of all runs of the experiment `tests`."""
    experiment = connect_client().get_experiment_by_name("tests")
    assert experiment is not None
    runs = connect_client().search_runs([experiment.experiment_id])
    return [run.info.run_id for run in runs]


class Notes(NoOpCallback):
    """Collects the notes of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_note(self, text: str) -> None:
        """Append the note."""
        self.texts.append(text)


def test_model_directory_of_another_network_is_refused(tmp_path: Path) -> None:
    """The hint names the network of the trained model."""
    write_model(tmp_path / "model", SQUEEZE, ("a", "b"))
    with pytest.raises(InvalidModelDirectoryError, match=f"weights of {SQUEEZE}, not") as raised:
        load_start_state(tmp_path / "model")
    assert f"model={SQUEEZE}" in raised.value.hint


@pytest.mark.parametrize("setting", ["model", "weights"])
@pytest.mark.parametrize("name", [SMALL, SQUEEZE])
def test_rows_of_the_last_layer_move_with_their_class(
    name: str, setting: str, tmp_path: Path
) -> None:
    """A known class keeps its row in any order, a new class gets a new row, others are dropped."""
    trained = write_model(tmp_path / "model", name, ("ant", "bee", "cat"))
    values = {"model": str(tmp_path / "model"), "weights": None}
    if setting == "weights":
        values = {"model": name, "weights": str(tmp_path / "model")}
    notes: list[str] = []
    torch.manual_seed(3)
    network = create_network(
        str(values["model"]),
        3,
        image_size=32,
        weights=values["weights"],
        classes=("bee", "dog", "ant"),
        note=notes.append,
    ).network
    torch.manual_seed(3)
    with NoRandomValues(num_random_rows=3):
        fresh = build_network(name, 3, image_size=32)
    prefix = find_head_prefix(network)
    for part in ("weight", "bias"):
        new, old, drawn = (
            source.get_parameter(prefix + part) for source in (network, trained, fresh)
        )
        assert torch.equal(new[0], old[1])
        assert torch.equal(new[1], drawn[1])
        assert torch.equal(new[2], old[0])
    (note,) = notes
    assert "2 of 3 classes keep their rows" in note
    assert "1 are new; 1 of its classes are dropped" in note


def test_same_classes_start_from_all_weights_of_the_model(tmp_path: Path) -> None:
    """Training starts from exactly the stored network."""
    trained = write_model(tmp_path / "model", SMALL, ("ant", "bee"))
    network = create_network(
        str(tmp_path / "model"), 2, image_size=32, weights=None, classes=("ant", "bee")
    ).network
    assert hash_state(network.state_dict()) == hash_state(trained.state_dict())


def write_azure_model(folder: Path, *, with_output_layer: bool) -> nn.Module:
    """Write a ResNet trained with Azure ML, of classes cat and dog; return its network."""
    folder.mkdir()
    parameters = {"model_name": "resnet18", "pretrained": with_output_layer, "num_classes": 2}
    spec = {
        "flavor": {"name": "pytorch"},
        "model_file": "model",
        "flavor_extras": {"class": "ResNet", "init_params": parameters},
        "label_map_file": "index_to_label.csv",
    }
    (folder / "model_spec.yaml").write_text(json.dumps(spec))
    (folder / "index_to_label.csv").write_text(",label\n0,cat\n1,dog\n")
    network = make_network("resnet18", 1000 if with_output_layer else 2)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    if with_output_layer:
        output = nn.Linear(1000, 2)
        state |= {f"out_linear_model.{name}": t for name, t in output.state_dict().items()}
    torch.save(state, folder / "model")
    return network


@pytest.mark.parametrize("with_output_layer", [False, True])
def test_azure_model_keeps_its_rows_by_class(with_output_layer: bool, tmp_path: Path) -> None:
    """A trained ResNet of Azure ML gives the same outputs after its classes are reordered."""
    write_azure_model(tmp_path / "model", with_output_layer=with_output_layer)
    network = create_network(
        str(tmp_path / "model"), 2, image_size=32, weights=None, classes=("dog", "cat")
    ).network
    images = torch.rand(2, 3, 32, 32)
    expected = open_classifier(tmp_path / "model")(images)[:, [1, 0]]
    torch.testing.assert_close(network.eval()(images), expected, rtol=1e-4, atol=1e-4)


def test_untrained_directory_from_a_trained_one_has_no_last_layer(tmp_path: Path) -> None:
    """`model init --weights MODEL` drops the rows, which belong to other classes."""
    trained = write_model(tmp_path / "model", SMALL, ("ant", "bee", "cat"))
    folder = write_untrained_model(
        SMALL, str(tmp_path / "out"), weights=str(tmp_path / "model"), switches={}
    )
    torch.manual_seed(3)
    network = create_network(str(folder), 3, image_size=32, weights=None).network
    torch.manual_seed(3)
    with NoRandomValues(num_random_rows=3):
        fresh = build_network(SMALL, 3, image_size=32)
    assert torch.equal(network.get_parameter("fc.weight"), fresh.get_parameter("fc.weight"))
    first = "conv1.0.weight"
    assert torch.equal(network.get_parameter(first), trained.get_parameter(first))


def test_trained_directory_provides_its_preprocessing(colors: Path, tmp_path: Path) -> None:
    """Mean and deviation come with the weights, and the size unless it is set."""
    write_model(tmp_path / "m", SMALL, ("blue",), Preprocessing(48, (0.5,) * 3, (0.25,) * 3))
    data = {"train_data": str(colors)}
    of_model = {**data, "model": str(tmp_path / "m")}
    of_weights = {**data, "model": SMALL, "weights": str(tmp_path / "m")}
    for values in (of_model, of_weights):
        preprocessing = prepare_data(plan_training(values), NoOpCallback()).preprocessing
        assert (preprocessing.image_size, preprocessing.mean, preprocessing.std) == (
            48,
            (0.5,) * 3,
            (0.25,) * 3,
        )
    assert prepare_data(
        plan_training({**of_model, "image_size": 40}), NoOpCallback()
    ).preprocessing == (Preprocessing(40, (0.5,) * 3, (0.25,) * 3))
    torch.save(make_network().state_dict(), tmp_path / "weights.pt")
    from_file = {**of_model, "weights": str(tmp_path / "weights.pt")}
    assert (
        prepare_data(plan_training(from_file), NoOpCallback()).preprocessing.mean == IMAGENET_MEAN
    )


def test_digest_of_a_state_covers_name_type_shape_and_value() -> None:
    """Another name, dtype, shape or value changes the digest; the memory layout does not."""
    state = make_network().state_dict()
    digests = {hash_state(state)}
    weight = state["fc.weight"]
    for name, tensor in (
        ("other", weight),
        ("fc.weight", weight.double()),
        ("fc.weight", weight.reshape(-1, 3)),
        ("fc.weight", weight + 1e-3),
        ("fc.weight", torch.tensor(1.0)),
    ):
        digests.add(hash_state({**state, name: tensor}))
    assert len(digests) == 6
    to_memory_format = make_network().to(memory_format=torch.channels_last).state_dict()
    assert hash_state(to_memory_format) in digests


@pytest.mark.slow
def test_registered_model_is_the_start_of_another(store: str, tmp_path: Path) -> None:
    """A version, an alias and a run are accepted; the result can be `model` again."""
    first = write_classes(tmp_path / "first", {"blue": 12, "red": 12})
    data = write_classes(tmp_path / "second", {"blue": 12, "green": 12, "red": 12})
    parent = trialrun.train(train_data=str(first), register_as="colors", image_size=64, **TINY)
    client = connect_client()
    client.set_registered_model_alias("colors", "best", "1")
    values = {**TINY, "train_data": str(data), "register_as": "colors"}
    second = trialrun.train(**{**values, "model": "models:/colors/1"})
    third = trialrun.train(**{**values, "model": "models:/colors/2"})
    weights = trialrun.train(**values, weights="models:/colors@best")
    of_run = trialrun.train(**{**values, "model": f"runs:/{parent.run_id}/model"})
    runs = [read_run(client, run.run_id) for run in (second, third, weights, of_run)]
    assert [run.params["model"] for run in runs][:2] == ["models:/colors/1", "models:/colors/2"]
    assert {run.params["resolved_image_size"] for run in runs} == {"64"}
    initial = [run.params["initial_weights_sha256"] for run in runs]
    assert initial[0] == initial[2] == initial[3] != initial[1]
    directories = [run.params["model_directory_sha256"] for run in runs]
    assert directories[0] == directories[3]
    assert trialrun.load_model("models:/colors/3").classes == ("blue", "green", "red")


def test_notes_name_the_setting_as_it_was_typed(store: str, colors: Path, tmp_path: Path) -> None:
    """The note on the rows that were kept starts with the setting."""
    from trialrun.runs.training.run import train_run

    write_model(tmp_path / "m", SMALL, ("blue", "red"))
    notes = Notes()
    train_run(
        plan_training({**TINY, "train_data": str(colors), "model": str(tmp_path / "m")}), notes
    )
    matching = [text for text in notes.texts if text.startswith(f"model={tmp_path / 'm'}: ")]
    assert len(matching) == 1
    assert "2 of 3 classes keep their rows" in matching[0]


@pytest.mark.slow
def test_models_of_mlflow_are_searched(store: str, colors: Path) -> None:
    """A search accepts registered models as choices of `model`."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    search_settings = settings(
        colors, trials=2, sampler="grid", learning_rate=0.01, model=f"{SMALL},models:/colors/1"
    )
    search = trialrun.search(**search_settings)
    children = nested_runs(store, search.run_id)
    assert {child.data.params["model"] for child in children} == {SMALL, "models:/colors/1"}


def test_missing_registered_model_is_reported_with_the_settings(store: str, colors: Path) -> None:
    """One error names the invalid setting and the missing model."""
    with pytest.raises(TrialrunError, match=r"epochs=0.*TrackingError: models:/none/1"):
        plan_training({"train_data": str(colors), "epochs": 0, "model": "models:/none/1"})
    with pytest.raises(TrackingError, match="models:/none@x"):
        plan_training({"train_data": str(colors), "weights": "models:/none@x"})


def test_folder_without_a_model_is_refused_as_weights(tmp_path: Path, colors: Path) -> None:
    """Planning raises the error, before torch is loaded."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidModelDirectoryError, match=r"empty holds neither model\.json"):
        plan_training({"train_data": str(colors), "weights": str(tmp_path / "empty")})


def test_plan_without_a_uri_loads_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    """A missing file of weights and an invalid number are reported without the slow imports."""
    code = (
        "import sys\nfrom trialrun.runs.training.plan import plan_training\n"
        "try:\n    plan_training({'epochs': '0', 'weights': 'no.pt'})\n"
        "except Exception as error: print(error)\n"
        "print(sorted({'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    *errors, loaded = done.stdout.splitlines()
    assert "epochs=0" in errors[0]
    assert "no.pt" in errors[0]
    assert loaded == "[]"


@pytest.mark.slow
def test_run_with_registered_weights_is_reproduced(store: str, colors: Path) -> None:
    """`reproduce` finds the weights again and reports that they are identical."""
    trialrun.train(train_data=str(colors), register_as="colors", **TINY)
    run = trialrun.train(
        train_data=str(colors), weights="models:/colors/1", **{**TINY, "random_seed": 2}
    )
    repetition = reproduce_run(run.run_id)
    assert (repetition.verdict, repetition.initial_weights_identical, repetition.notes) == (
        "identical",
        True,
        (),
    )


@pytest.mark.slow
def test_changed_file_of_weights_is_refused_before_training(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """The error names the file; with `allow_changed_data` it is the cause in the notes."""
    path = tmp_path / "weights.pt"
    torch.save(make_network(seed=1).state_dict(), path)
    run = trialrun.train(train_data=str(colors), weights=str(path), **TINY)
    torch.save(make_network(seed=2).state_dict(), path)
    with pytest.raises(InvalidModelDirectoryError, match=f"weights={path} contains other weights"):
        reproduce_run(run.run_id)
    assert len(read_run_ids()) == 1
    repetition = reproduce_run(run.run_id, ReproduceConfig(allow_changed_data=True))
    compared = [row.name for row in compare_runs([run.run_id, repetition.run_id]).parameters]
    assert {"initial_weights_sha256", "weights_file_sha256"} <= {*compared}
    cause = (
        "the initial weights differ from those of the original: "
        f"weights={path} contains other weights"
    )
    assert (repetition.verdict, repetition.notes) == ("different", (cause,))
    assert repetition.initial_weights_identical is False
    keys = list(repetition.to_json())
    assert keys.index("notes") < keys.index("verdict")


def test_changed_model_directory_is_refused_before_training(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """The same for `model=DIR`."""
    folder = tmp_path / "untrained"
    source = tmp_path / "weights.safetensors"
    for seed in (1, 2):
        source.write_bytes(serialize_state(make_network(seed=seed).state_dict()))
        shutil.rmtree(folder, ignore_errors=True)
        write_untrained_model(SMALL, str(folder), weights=str(source), switches={})
        if seed == 1:
            run = trialrun.train(train_data=str(colors), **{**TINY, "model": str(folder)})
    with pytest.raises(InvalidModelDirectoryError, match=f"model={folder} contains other weights"):
        reproduce_run(run.run_id)


@pytest.mark.slow
def test_run_without_a_digest_is_not_compared_by_it(
    store: str, colors: Path, tmp_path: Path
) -> None:
    """No statement is made on the initial weights of a run that an earlier version recorded."""
    import sqlite3
    from contextlib import closing

    run = trialrun.train(train_data=str(colors), **TINY)
    database = store.removeprefix("sqlite:///")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM params WHERE key='initial_weights_sha256'")
    repetition = reproduce_run(run.run_id)
    assert (repetition.verdict, repetition.notes, repetition.initial_weights_identical) == (
        "identical",
        (),
        None,
    )
