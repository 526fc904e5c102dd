"""Registers a model directory that no run of this store has trained, such as Azure's."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import InvalidModelDirectoryError
from trialrun.files import scratch_directory
from trialrun.mlflow_client import connect_client
from trialrun.models.directory import (
    ModelDescription,
    copy_data_files,
    read_description,
    write_model_directory,
)
from trialrun.models.open import open_classifier, read_trained_model
from trialrun.models.weights.serialization import hash_weights, serialize_state
from trialrun.models.zoo.names import DESCRIPTION_FILE
from trialrun.registry.pins import SHA256_TAG, find_pinned_folder
from trialrun.report.model_card import ModelCard, format_card
from trialrun.runs.training.outcome.model_upload import CARD_ADDRESS, ModelRecord, send_model
from trialrun.scoring.network import TorchNetwork
from trialrun.scoring.parity import (
    Parity,
    compare_forms,
    compute_all,
    prepare_images,
)
from trialrun.tracking import RunTarget, open_run
from trialrun.tracking.replay import now_ms

_MAX_DIFFERENCE = 1e-5  # of probabilities, between the model as given and as registered
_CPU = torch.device("cpu")
_STEP = 0
_SHOWN_CLASSES = 20


@dataclass(frozen=True, slots=True)
class Registration:
    """A registered version, and the largest difference of its probabilities to the given model."""

    run_id: str
    model_uri: str
    model_name: str
    model_version: str
    weights_sha256: str
    max_difference: float


@isolate_torch_state()
def register_model(
    model: str,
    name: str,
    *,
    sha256: str | None = None,
    experiment: str | None = None,
    on_run: Callable[[str, str], None] | None = None,
) -> Registration:
    """Store a trained model directory of trialrun or Azure in a run; register it as `name`.

    Azure's last two layers become one. `on_run` is called with the run's name and id.

    Raises:
        InvalidModelDirectoryError: The directory is damaged or not trained, has other weights than
            `sha256`, or computes other probabilities after its conversion.
        TrackingError: The store or the registry fails.
    """
    source = find_pinned_folder(model, sha256)
    client = connect_client()
    tags = {"trialrun.kind": "registration", "trialrun.model": model}
    with scratch_directory() as scratch:
        folder = scratch / "model"
        folder.mkdir()
        weights_sha256 = convert_model(source, folder)
        parity = compare_models(source, folder)
        if parity.max_difference > _MAX_DIFFERENCE:
            raise InvalidModelDirectoryError(
                f"{model} changes by its conversion: {parity.describe_largest()}",
                "Report this, with the model's description, as a bug of trialrun.",
            )
        with open_run(client, experiment=experiment, name=None, tags=tags) as run:
            if on_run is not None:
                on_run(run.name, run.run_id)
            card = _format_card(model, folder, weights_sha256)
            record = ModelRecord(
                params={"model": model},
                tags={SHA256_TAG: weights_sha256} | parity.make_tags(),
                step=_STEP,
                timestamp_ms=now_ms(),
                register_as=name,
                card=card,
            )
            run.set_tags({SHA256_TAG: weights_sha256})
            sent = send_model(RunTarget(client, run.run_id), record.to_json(), folder)
    return Registration(
        run.run_id,
        f"models:/{sent['model_id']}",
        name,
        sent["version"],
        weights_sha256,
        parity.max_difference,
    )


def _format_card(model: str, folder: Path, weights_sha256: str) -> str:
    description, _ = read_description(folder)
    classes = description.classes or ()
    return format_card(
        ModelCard(
            title=f"{description.architecture} from {model}",
            summary="Registered from a model directory; no run of this store has trained it.",
            address=CARD_ADDRESS,
            facts=[
                ("source", model),
                ("classes", f"{len(classes)}: {', '.join(classes[:_SHOWN_CLASSES])}"),
                ("weights", f"sha256 {weights_sha256}"),
            ],
        )
    )


def convert_model(source: Path, folder: Path) -> str:
    """Write a trained model as data files of a model directory; return its weights' sha256.

    Raises:
        InvalidModelDirectoryError: `source` is damaged, or not trained.
        StorageError: `folder` cannot be written.
    """
    stored = read_trained_model(source)
    if (source / DESCRIPTION_FILE).is_file():
        copy_data_files(source, folder)
        assert stored.weights_sha256 is not None
        return stored.weights_sha256
    assert stored.state is not None
    content = serialize_state(stored.state)
    old = stored.description
    description = ModelDescription(old.architecture, old.arguments, old.classes, old.preprocessing)
    write_model_directory(folder, description, content)
    return hash_weights(content)


def compare_models(first: Path, second: Path) -> Parity:
    """Compare the probabilities of two model directories on drawn images of odd sizes."""
    reference, other = (TorchNetwork(open_classifier(path), _CPU) for path in (first, second))
    images = prepare_images(reference.preprocessing, [])
    expected = compute_all(reference, images)
    return compare_forms(expected, {"the registered model": compute_all(other, images)})
