"""Paths that commands write to, checked before the work begins."""

from pathlib import Path

from trialrun.errors import InvalidParameterError
from trialrun.images import ImageSet

_TABLE_SUFFIXES = (".csv", ".parquet")


def output_folder(out: str) -> Path:
    """Return the folder `out` with `~` expanded.

    Raises:
        InvalidParameterError: `out` names a user who does not exist.
    """
    try:
        return Path(out).expanduser()
    except RuntimeError as error:  # ~name, and there is no such user
        raise InvalidParameterError(f"there is no {out}: {error}", "Give a full path.") from None


def check_outside(out: Path, images: ImageSet) -> None:
    """What is written among the images would be read as more of them."""
    if out.resolve().is_relative_to(images.root.resolve()):
        raise InvalidParameterError(
            f"{out} lies in {images.source} itself", "Choose a folder outside of it."
        )


def check_output(output: str) -> Path:
    """The file to write, known by its ending.

    Raises:
        InvalidParameterError: It ends in neither .csv nor .parquet.
    """
    path = Path(output)
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        raise InvalidParameterError(
            f"output={output} is neither .csv nor .parquet", "Name the file scored.csv, say."
        )
    return path
