"""The smoke test of a training: its whole path on few images, to find mistakes before a long run.

The run is tagged and registers nothing. Afterwards its model is loaded from the store, and scores
images as `trialrun score` does.
"""

import os
import time
from dataclasses import asdict, dataclass, replace
from functools import partial

from trialrun.config import TrainConfig
from trialrun.distributed import read_ranks
from trialrun.errors import TrackingError
from trialrun.mlflow_client import connect_client, translate_tracking_errors
from trialrun.runs.training.outcome.result import TrainResult
from trialrun.runs.training.plan import TrainPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeTest:
    """What a passed smoke test tried; `num_scored` is 0 if there was no store to load from."""

    seconds: float
    num_train_images: int
    num_valid_images: int
    num_scored: int
    registry: str | None  # the registered model that a real run would add a version to


def check_registry(config: TrainConfig) -> None:
    """Look up the registered model that a real run would add a version to.

    Raises:
        TrackingError: The registry does not answer, or refuses the name.
    """
    if config.register_as is None or config.offline:
        return
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode

    client = connect_client()
    with translate_tracking_errors(f"the registered model {config.register_as} cannot be read"):
        try:
            client.get_registered_model(config.register_as)
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise


def complete_smoke_test(plan: TrainPlan, result: TrainResult, started: float) -> TrainResult:
    """Load the model from the store and score validation images; return the result with the test.

    `started` is the value of `time.monotonic` at the start.

    Raises:
        TrackingError: The model is not in the store, or cannot be loaded from it.
        InvalidModelDirectoryError: The stored model cannot be read.
    """
    if read_ranks(os.environ).rank:
        return result
    num_scored = 0 if plan.config.offline else _score_images(plan, result)
    test = SmokeTest(
        seconds=time.monotonic() - started,
        num_train_images=len(plan.train),
        num_valid_images=len(plan.valid),
        num_scored=num_scored,
        registry=plan.config.register_as,
    )
    return replace(result, smoke_test=asdict(test))


def _score_images(plan: TrainPlan, result: TrainResult) -> int:
    """Score a batch of validation images with the stored model; return their number."""
    from trialrun.engine.compute.device import find_device
    from trialrun.images.decoding.file_io import hold_items
    from trialrun.registry.pins import find_pinned_folder
    from trialrun.runs.scoring.images import decode_file, list_rows
    from trialrun.scoring.batching import plan_batches
    from trialrun.scoring.open import open_network
    from trialrun.scoring.pipeline import score_batches

    if result.model_uri is None:
        raise TrackingError(
            "the model of the smoke test did not reach the store",
            "Check the store with `trialrun doctor`; --offline trains without it.",
        )
    network = open_network(
        find_pinned_folder(result.model_uri, None), find_device(plan.config.device), _ignore
    )
    images = plan.valid.subset(range(min(plan.config.batch_size, len(plan.valid))))
    decode = partial(decode_file, images, network.preprocessing)
    batches = plan_batches(network, plan.config.batch_size)
    scores = score_batches(network, hold_items(images, list_rows(images)), decode, batches)
    return sum(map(len, scores))


def _ignore(_note: str) -> None:
    """Ignore a note that the training has made already."""
