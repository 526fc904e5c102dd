"""The three sets of images, written as class folders with the split of a seed."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.fetched import fetch_mobilenet_weights, fetch_stamps, read_fashion
from benchmarks.finetune import PHOTOS, write_stamps

TRAIN, VALID = "train", "val"
_FASHION_TRAIN, _FASHION_VALID = 10_000, 2_000
_VALID_SHARE = 0.2
_GRAY_STEP = 255 / 16  # the digits' gray values are 0 to 16


@dataclass(frozen=True, slots=True)
class ImageSet:
    """A set, the network that is trained on it, and the validation accuracy to reach."""

    name: str
    title: str
    accuracy: float
    network: str
    num_classes: int
    image_size: int
    is_pretrained: bool = False

    @property
    def weights(self) -> Path | None:
        """The file of torchvision's weights to start from; None for random weights."""
        return fetch_mobilenet_weights() if self.is_pretrained else None


# Accuracies that the trainers reached in pilots with few epochs. Chance is 0.1 or 0.17. A standard
# error is 0.008 of Fashion-MNIST's 2,000 validation images and 0.008 of the 359 digits, so that a
# higher accuracy would measure luck. The 40 photos have steps of 0.025: 0.80 is the highest that
# every trainer reached with every seed that was tried, trialrun and its peers with 0.85 did not.
SETS = {
    found.name: found
    for found in (
        ImageSet("fashion", "Fashion-MNIST, 10,000 images, ResNet-18", 0.86, "resnet18", 10, 32),
        ImageSet("digits", "Digits, 1,437 images, ResNet-18", 0.97, "resnet18", 10, 32),
        ImageSet(
            "photos",
            "Photos, 160 images, MobileNetV2, pretrained",
            0.80,
            "mobilenet_v2",
            len(PHOTOS),
            224,
            is_pretrained=True,
        ),
    )
}


def write_set(name: str, seed: int, folder: Path) -> Path:
    """Write the set's training and validation images to `folder/train` and `folder/val`."""
    if name == "photos":
        _split_photos(folder, seed)
        return folder
    random = np.random.default_rng(seed)
    if name == "fashion":
        pixels, labels = read_fashion(TRAIN)
        rows = random.permutation(len(labels))[: _FASHION_TRAIN + _FASHION_VALID]
        num_train = _FASHION_TRAIN
    else:
        pixels, labels = _read_digits()
        rows = random.permutation(len(labels))
        num_train = round(len(labels) * (1 - _VALID_SHARE))
    for part, part_rows in ((TRAIN, rows[:num_train]), (VALID, rows[num_train:])):
        _write_images(folder / part, pixels, labels, part_rows, SETS[name].image_size)
    return folder


def _write_images(
    folder: Path, pixels: np.ndarray, labels: np.ndarray, rows: np.ndarray, size: int
) -> None:
    """Write rows as PNG files of `size` pixels, so that no trainer needs to resize them."""
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True)
    for row in rows:
        image = Image.fromarray(pixels[row]).resize((size, size), Image.Resampling.BILINEAR)
        image.save(folder / str(labels[row]) / f"{row:05}.png")


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits, those of `sample:digits`."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return (digits.images * _GRAY_STEP).round().astype(np.uint8), digits.target


def _split_photos(folder: Path, seed: int) -> None:
    """Copy Tux Paint's pictures; a fifth of each kind is for validation."""
    fetch_stamps()
    draft = write_stamps(folder / "all", PHOTOS)
    random = np.random.default_rng(seed)
    for kind in sorted(draft.iterdir()):
        files = sorted(kind.iterdir())
        order = [files[row] for row in random.permutation(len(files))]
        num_valid = round(len(files) * _VALID_SHARE)
        for part, chosen in ((VALID, order[:num_valid]), (TRAIN, order[num_valid:])):
            _flatten(chosen, folder / part / kind.name)
    shutil.rmtree(draft)


def _flatten(files: Sequence[Path], folder: Path) -> None:
    """Write pictures on white: the trainers' decoders treat transparency differently."""
    folder.mkdir(parents=True)
    for file in files:
        picture = Image.open(file).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        Image.alpha_composite(white, picture).convert("RGB").save(folder / file.name)


def remove_caches(folder: Path) -> None:
    """Remove files that a trainer left beside the class folders, which would help the next one."""
    for path in _list_files(folder):
        path.unlink()


def _list_files(folder: Path) -> Iterator[Path]:
    for part in (folder, folder / TRAIN, folder / VALID):
        yield from (path for path in part.iterdir() if path.is_file())
