"""Splits labelled datasets into two ImageDirectories."""

from pathlib import Path

from trialrun.config.data import LabelConfig
from trialrun.errors import InvalidParameterError, merge_errors
from trialrun.files import create_directory
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images import ImageSet, check_trainable
from trialrun.images.formats.image_directory_writer import WriteResult
from trialrun.images.split import split_stratified
from trialrun.runs.callbacks import NoOpCallback, RunCallback
from trialrun.runs.datasets.check import check_set
from trialrun.runs.datasets.convert import write_set
from trialrun.runs.datasets.outputs import check_outside, output_folder
from trialrun.runs.datasets.sources import open_source

_DEFAULT_CONFIG = LabelConfig()


def split_dataset(
    data: str,
    out: str,
    *,
    fraction: float,
    random_seed: int,
    group_column: str | None = None,
    group_pattern: str | None = None,
    config: LabelConfig = _DEFAULT_CONFIG,
    callback: RunCallback | None = None,
) -> tuple[WriteResult, WriteResult]:
    """Write `out/train` with about `fraction` of each class, and `out/valid` with the rest.

    Raises:
        InvalidParameterError: `fraction` is not between 0 and 1.
        TrialrunError: `data` cannot be opened or split, or `out` exists or cannot be written.
    """
    if not 0 < fraction < 1:
        raise InvalidParameterError(
            f"fraction={fraction:g} is not between 0 and 1", "Set it to 0.9, for example."
        )
    callback = callback or NoOpCallback()
    images = open_source(
        data, group_column=group_column, group_pattern=group_pattern, config=config
    )
    enforce_cache_limit()
    if problems := check_trainable(images, case_sensitive=config.case_sensitive_labels):
        raise merge_errors(problems)
    parts = split_stratified(
        images.drop_unlabelled(), second_fraction=1 - fraction, random_seed=random_seed
    )
    folder = output_folder(out)
    check_outside(folder, images)
    return _write_parts(
        parts, folder, config, callback, has_group_pattern=group_pattern is not None
    )


def _write_parts(
    parts: tuple[ImageSet, ImageSet],
    folder: Path,
    config: LabelConfig,
    callback: RunCallback,
    *,
    has_group_pattern: bool,
) -> tuple[WriteResult, WriteResult]:
    with create_directory(folder) as draft:
        train, valid = (
            write_set(
                check_set(part, callback),
                draft / name,
                callback,
                named=folder / name,
                config=config,
                has_group_pattern=has_group_pattern,
            )
            for part, name in zip(parts, ("train", "valid"), strict=True)
        )
    return train, valid
