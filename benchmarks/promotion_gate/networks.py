"""Answers of small trained networks on images that they were not trained on.

The images are Fashion-MNIST, from Debian's package dataset-fashion-mnist. The answers are kept in a
file, because training takes minutes.
"""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.promotion_gate.answers import Answers, sort_answers

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
NUM_CLASSES = 10

_BATCH_SIZE = 64
_TRAINING_SHARE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained: its kind, the epochs and the seed."""

    kind: str
    epochs: int
    seed: int


RECIPES = {
    "linear": Recipe(kind="linear", epochs=2, seed=1),
    "mlp": Recipe(kind="mlp", epochs=2, seed=1),
    "mlp, 2nd seed": Recipe(kind="mlp", epochs=2, seed=2),
    "cnn": Recipe(kind="cnn", epochs=4, seed=1),
    "cnn, 2nd seed": Recipe(kind="cnn", epochs=4, seed=2),
    "cnn, 1 epoch": Recipe(kind="cnn", epochs=1, seed=1),
}


@dataclass(frozen=True, slots=True)
class _Images:
    """(N, 1, H, W) images from 0 to 1 and (N,) labels."""

    pixels: Tensor
    labels: Tensor

    def take(self, rows: NDArray[np.int64]) -> "_Images":
        """Return some of the images."""
        return _Images(self.pixels[rows], self.labels[rows])


def load_networks(folder: Path, cache: Path) -> dict[str, Answers]:
    """Return the answers of the networks by name, from the file `cache` if it exists."""
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(cache, allow_pickle=False, **_train_networks(_read_images(folder)))
    with np.load(cache) as arrays:
        labels = arrays["labels"].astype(np.int64)
        return {
            name: sort_answers(
                labels,
                arrays[f"{name}.predicted"].astype(np.int64),
                arrays[f"{name}.probability"].astype(np.float64),
                NUM_CLASSES,
            )
            for name in RECIPES
        }


def _read_images(folder: Path) -> _Images:
    pixels, labels = (
        np.concatenate(
            [_read_idx(folder / f"{part}-{name}-ubyte.gz") for part in ("train", "t10k")]
        )
        for name in ("images-idx3", "labels-idx1")
    )
    scaled = torch.from_numpy(pixels).float()[:, None] / 255
    return _Images(scaled, torch.from_numpy(labels.astype(np.int64)))


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in the IDX format: type, dimensions, sizes, values."""
    content = gzip.decompress(path.read_bytes())
    num_dimensions = content[3]
    sizes = np.frombuffer(content, ">u4", num_dimensions, offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * num_dimensions)
    return values.reshape(tuple(sizes)).copy()


def _train_networks(images: _Images) -> dict[str, NDArray[np.generic]]:
    rows = np.random.default_rng(0).permutation(len(images.labels))
    num_training = int(_TRAINING_SHARE * len(rows))
    training, unseen = images.take(rows[:num_training]), images.take(rows[num_training:])
    arrays: dict[str, NDArray[np.generic]] = {"labels": unseen.labels.numpy().astype(np.int16)}
    for name, recipe in RECIPES.items():
        probabilities = _predict(_train(recipe, training), unseen.pixels)
        arrays[f"{name}.predicted"] = probabilities.argmax(1).numpy().astype(np.int16)
        label_probability = probabilities.gather(1, unseen.labels[:, None])[:, 0]
        arrays[f"{name}.probability"] = label_probability.numpy()
    return arrays


def _train(recipe: Recipe, images: _Images) -> nn.Module:
    torch.manual_seed(recipe.seed)
    model = _build_network(recipe.kind, images.pixels.shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(recipe.epochs):
        for batch in _shuffle(images):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.pixels), batch.labels).backward()
            optimizer.step()
    return model


def _shuffle(images: _Images) -> Iterator[_Images]:
    for rows in torch.randperm(len(images.labels)).split(_BATCH_SIZE):
        yield images.take(rows.numpy())


def _build_network(kind: str, size: int) -> nn.Module:
    if kind == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(size**2, NUM_CLASSES))
    if kind == "mlp":
        layers = nn.Linear(size**2, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES)
        return nn.Sequential(nn.Flatten(), *layers)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * ((size + 3) // 4) ** 2, NUM_CLASSES),
    )


@torch.no_grad()
def _predict(model: nn.Module, pixels: Tensor) -> Tensor:
    return torch.cat([model(batch).softmax(1) for batch in pixels.split(1000)])
