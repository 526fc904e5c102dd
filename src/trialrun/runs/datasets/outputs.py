"""Output paths of commands, checked before the work starts."""

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
    except RuntimeError as error:  # ~name of an unknown user
        raise InvalidParameterError(f"cannot expand {out}: {error}", "Give a full path.") from None


def check_outside(out: Path, images: ImageSet) -> None:
    """Raise if `out` is inside the dataset, where its files would be read as images.

    Raises:
        InvalidParameterError: `out` is inside the root of `images`.
    """
    if out.resolve().is_relative_to(images.root.resolve()):
        raise InvalidParameterError(
            f"{out} is inside {images.source}", "Choose a folder outside of it."
        )


def check_output(output: str) -> Path:
    """Return the path of the table to write.

    Raises:
        InvalidParameterError: Its suffix is neither .csv nor .parquet.
    """
    path = Path(output)
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        raise InvalidParameterError(
            f"output={output} is neither .csv nor .parquet",
            "Name the file scored.csv, for example.",
        )
    return path
