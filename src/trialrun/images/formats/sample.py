"""Sample datasets: `sample:digits`, the 1,797 handwritten digits of scikit-learn as PNG files.

Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, 8 by 8 pixels, 17 grays.
"""

from pathlib import Path

from trialrun.errors import InvalidParameterError
from trialrun.files import create_directory, translate_storage_errors

PREFIX = "sample:"
_VERSION = 1  # raise it when the written files would differ
_GRAY_STEP = 255 / 16  # the digits' gray values are 0 to 16


def write_sample(source: str, cache_folder: Path) -> Path:
    """Return the folder of the sample, writing it on first use.

    Raises:
        InvalidParameterError: A sample of that name does not exist.
        StorageError: The cache folder cannot be written.
    """
    name = source.removeprefix(PREFIX)
    if name != "digits":
        raise InvalidParameterError(f"unknown sample {name!r}", "Use sample:digits.")
    folder = cache_folder / "samples" / f"digits-{_VERSION}"
    if not folder.is_dir():
        _write_digits(folder)
    return folder


def _write_digits(folder: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    try:
        with create_directory(folder) as draft, translate_storage_errors(folder):
            for number in range(10):
                (draft / str(number)).mkdir()
            for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
                image = Image.fromarray((pixels * _GRAY_STEP).round().astype("uint8"))
                image.save(draft / str(label) / f"{index:04}.png")
    except Exception:
        if not folder.is_dir():  # otherwise another process has written it
            raise
