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
        InvalidParameterError: Its suffix is neither .csv nor .parquet, or it is a folder.
    """
    path = Path(output)
    if path.suffix.lower() not in _TABLE_SUFFIXES:
        raise InvalidParameterError(
            f"output={output} is neither .csv nor .parquet",
            "Name the file scored.csv, for example.",
        )
    return _check_no_folder("output", path)


def check_embeddings(embeddings: str, output: Path) -> Path:
    """Return the path of the embeddings to write beside the table `output`.

    Raises:
        InvalidParameterError: Its suffix is not .parquet, or it is the table's path.
    """
    path = Path(embeddings)
    if path.suffix.lower() != ".parquet":
        raise InvalidParameterError(
            f"embeddings={embeddings} is not .parquet",
            "Name the file embeddings.parquet, for example.",
        )
    if path.resolve() == output.resolve():
        raise InvalidParameterError(
            f"embeddings={embeddings} is the output too", "Name another file."
        )
    return _check_no_folder("embeddings", path)


def _check_no_folder(setting: str, path: Path) -> Path:
    if path.is_dir():
        raise InvalidParameterError(f"{setting}={path} is a folder", "Name a file.")
    return path
