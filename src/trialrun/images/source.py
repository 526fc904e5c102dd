"""DATA: whatever the user names as a source of images, opened as an image set."""

from pathlib import Path

from trialrun.errors import InvalidDatasetError
from trialrun.images import sample
from trialrun.images.dataset import ImageSet
from trialrun.images.readers import READERS


def open_data(source: str, cache_folder: Path) -> ImageSet:
    """Names and labels of the images in `source`; no image is opened.

    Raises:
        InvalidParameterError: A sample that does not exist.
        InvalidDatasetError: There is no such folder, or it holds no image.
    """
    if source.startswith(sample.PREFIX):
        folder = sample.materialised(source, cache_folder)
    else:
        folder = Path(source).expanduser()
    if not folder.exists():
        raise InvalidDatasetError(
            f"there is no {source} (looked in {Path.cwd()})",
            "Give a folder of images; an absolute path is safest with `mlflow run`.",
        )
    for reader in READERS:
        if reader.reads(folder):
            images = reader.read(folder, source)
            break
    else:
        raise InvalidDatasetError(
            f"{source} is no folder of images", "Give a folder with one sub-folder a class."
        )
    if not images.items and not images.declared_classes:
        raise InvalidDatasetError(f"{source} holds no images", "Give a folder with images in it.")
    return images
