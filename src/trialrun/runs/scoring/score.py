"""Scores all images of a source into a table of class probabilities, as CSV or Parquet.

Images, scores and rows are a stream: memory does not grow with their number, except for the list of
names. An interrupted process is continued by the next one with the same arguments.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from trialrun.config import build_config
from trialrun.config.score import ScoreConfig
from trialrun.engine.compute.device import find_device
from trialrun.engine.compute.torch_state import isolate_torch_state
from trialrun.errors import (
    InvalidDatasetError,
    OutOfMemoryError,
    RunInterruptedError,
)
from trialrun.files import format_json
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images import ImageSet
from trialrun.images.checks.classes import hint_at_links
from trialrun.images.decoding.file_io import hold_items
from trialrun.mlflow_client import URI_SCHEMES
from trialrun.models.open import open_classifier, read_directory_digests
from trialrun.registry.pins import find_pinned_folder
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.datasets.outputs import check_embeddings, check_output
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.scoring.columns import ScoredItem
from trialrun.runs.scoring.draft import Draft, Progress, open_draft
from trialrun.runs.scoring.images import decode_file, list_rows
from trialrun.runs.scoring.job import ScoreResult, ScoringJob, build_result, write_rows
from trialrun.scoring.batching import find_torch_device, plan_batches
from trialrun.scoring.features import FeatureNetwork
from trialrun.scoring.network import ScoringNetwork
from trialrun.scoring.open import open_network
from trialrun.scoring.pipeline import score_batches


def score_data(
    model: str,
    data: str,
    output: str,
    values: Mapping[str, Any],
    callback: RunCallback | None = None,
) -> ScoreResult:
    """Score every image of `data` with `model` and write the table to `output`.

    Raises:
        TrialrunError: Settings, model or data cannot be used (see its subclasses). An unreadable
            image raises nothing: its row contains the reason.
    """
    config = build_config(ScoreConfig, values)
    path = check_output(output)
    if config.embeddings is not None:
        check_embeddings(config.embeddings, path)
    if config.spark is None:
        find_device(config.device)  # raises before the data is read
    images = open_source(data, config=config)
    if not images.items:
        raise InvalidDatasetError(
            "; ".join([f"{data} contains no images", *images.notes]),
            hint_at_links(images, "Give a folder with images."),
        )
    enforce_cache_limit()
    job = ScoringJob(
        images, list_rows(images), find_pinned_folder(model, config.sha256), config, path
    )
    with isolate_torch_state():
        if config.spark is None:
            return _score_locally(job, find_device(config.device), callback or NoOpCallback())
        from trialrun.runs.scoring.spark import score_with_spark

        return score_with_spark(job, config.spark)


def _score_locally(job: ScoringJob, device: torch.device, callback: RunCallback) -> ScoreResult:
    notes: list[str] = []
    network: ScoringNetwork
    if job.config.embeddings is None:
        network = open_network(job.folder, device, notes.append)
    else:
        network = FeatureNetwork(open_classifier(job.folder), device)
    outputs = job.list_outputs(job.build_columns(network.classes))
    with open_draft(outputs) as draft:
        progress = _continue_draft(draft, job, network)
        callback.on_scan_start("Images scored", len(job.rows) - progress.num_rows)
        with _add_hints(progress.batch_size):
            write_rows(draft, outputs, _score_rows(network, job, progress, callback))
        draft.finish()
        return build_result(job, network.classes, draft, progress.num_rows, notes)


@contextmanager
def _add_hints(batch_size: int) -> Iterator[None]:
    """Add what to do after an interruption, or if a batch does not fit in memory."""
    try:
        yield
    except RunInterruptedError as error:
        error.hint = "The same command continues where this one stopped."
        raise
    except OutOfMemoryError as error:
        if batch_size == 1:
            raise
        hint = f"Set batch_size={batch_size // 2} or less. {error.hint}"
        raise OutOfMemoryError(str(error), hint) from error


def _continue_draft(draft: Draft, job: ScoringJob, network: ScoringNetwork) -> Progress:
    """Begin the draft, with the rows of an interrupted process if it did the same work."""
    identity = compute_identity(job, network)
    progress = draft.read_progress(identity)
    if progress is None:
        batch_size = plan_batches(network, job.config.batch_size).batch_size
        progress = Progress(identity, batch_size)
    draft.begin(progress)
    return progress


def compute_identity(job: ScoringJob, network: ScoringNetwork) -> str:
    """Return a digest of all that decides the rows: model, settings, names, software."""
    device = find_torch_device(network)
    described = {
        "model": read_directory_digests(job.folder),
        "settings": asdict(replace(job.config, device=str(device))),
        "format": job.output.suffix.lower(),
        "threads": torch.get_num_threads(),
        "versions": [version(name) for name in ("trialrun", "torch", "torchvision")],
        "data": _identify_data(job.images),
    }
    digest = hashlib.sha256(format_json(described).encode("utf-8", "surrogateescape"))
    for item in job.rows:
        row = f"{item.name}\0{item.label}\0{item.id}\n"
        digest.update(row.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _identify_data(images: ImageSet) -> str:
    """Return what identifies the data besides its names: its address, folder or shards."""
    if images.shards is not None:
        return images.shards.key
    return images.source if images.source.startswith(URI_SCHEMES) else str(images.root)


def _score_rows(
    network: ScoringNetwork, job: ScoringJob, progress: Progress, callback: RunCallback
) -> Iterator[list[ScoredItem]]:
    """Yield the rows of each batch, from where `progress` ends."""
    rows = job.rows[progress.num_rows :]
    decode = partial(decode_file, job.images, network.preprocessing)
    plan = plan_batches(network, progress.batch_size)
    remaining = iter(rows)
    for scores in score_batches(network, hold_items(job.images, rows), decode, plan):
        callback.on_scan_progress(len(scores))
        # The scores come first: zip would drop a row of `remaining` after the last score.
        yield [ScoredItem(item, score) for score, item in zip(scores, remaining, strict=False)]
