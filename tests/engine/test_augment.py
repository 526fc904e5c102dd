"""Random crops: from the whole image, as torchvision's RandomResizedCrop."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from trialrun.engine.inputs.augment import augment_batch
from trialrun.engine.inputs.batches import ImageDataset
from trialrun.engine.inputs.resized import resize_dataset
from trialrun.images.decoding.preprocessing import Preprocessing

STORED, SIZE = 64, 32


def make_coordinates(num_images: int) -> torch.Tensor:
    """Return images whose red is the column and whose green is the row, from 0 to 252."""
    column = torch.arange(STORED, dtype=torch.uint8) * 4
    image = torch.stack(
        [column.expand(STORED, -1), column[:, None].expand(-1, STORED), torch.zeros(STORED, STORED)]
    )
    return image.to(torch.uint8).expand(num_images, 3, STORED, STORED)


def draw_boxes(aspect: float, num_images: int = 4000) -> NDArray[np.float64]:
    """Return width and height of each crop, as shares of the image's, (N, 2)."""
    cropped = augment_batch(
        make_coordinates(num_images),
        np.arange(num_images),
        augment="standard",
        epoch=1,
        random_seed=3,
        size=SIZE,
        aspects=np.full(num_images, aspect, dtype=np.float32),
    ).numpy()
    middle = cropped[:, :2].astype(np.float64)  # without the edges, where pixels are repeated
    width = np.abs(middle[:, 0, 16, 24] - middle[:, 0, 16, 8]) * 2
    height = np.abs(middle[:, 1, 24, 16] - middle[:, 1, 8, 16]) * 2
    return np.stack([width, height], axis=1) / 256


def draw_boxes_of_torchvision(aspect: float, num_images: int = 4000) -> NDArray[np.float64]:
    """Return the same of torchvision's own draws."""
    height, width = 1000, round(1000 * aspect)
    crop = v2.RandomResizedCrop(SIZE)
    image = torch.empty(1, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        draws = [crop.make_params([image]) for _ in range(num_images)]
    return np.array([[draw["width"] / width, draw["height"] / height] for draw in draws])


@pytest.mark.parametrize("aspect", [1.0, 0.5, 3.0, 20.0])
def test_crops_have_the_sizes_of_torchvision_s(aspect: float) -> None:
    """Means and quartiles of width and height agree, in images of any aspect ratio."""
    ours, expected = draw_boxes(aspect), draw_boxes_of_torchvision(aspect)
    assert np.abs(ours.mean(axis=0) - expected.mean(axis=0)).max() < 0.015
    quartiles = [0.25, 0.5, 0.75]
    differences = np.quantile(ours, quartiles, axis=0) - np.quantile(expected, quartiles, axis=0)
    assert np.abs(differences).max() < 0.03


def test_crops_reach_every_part_of_a_wide_image() -> None:
    """The sides outside the central square are seen too, on the left and on the right."""
    num_images = 400
    cropped = augment_batch(
        make_coordinates(num_images),
        np.arange(num_images),
        augment="standard",
        epoch=1,
        random_seed=3,
        size=SIZE,
        aspects=np.full(num_images, 3.0, dtype=np.float32),
    )
    centres = cropped[:, 0, 16, 16].float() / 256
    assert (centres < 0.25).float().mean() > 0.1
    assert (centres > 0.75).float().mean() > 0.1


class StoredImages:
    """Stored images, all the same."""

    def pixels(self, rows: NDArray[np.int64]) -> torch.Tensor:
        """Return (N, 3, P, P) uint8."""
        return make_coordinates(len(rows))


def test_stored_images_are_seen_as_in_inference_without_augmentation() -> None:
    """Of a wide image stored whole, inference with fit=crop sees the central part."""
    aspects = np.array([1.0, 2.0], dtype=np.float32)
    data = ImageDataset(StoredImages(), np.array([1, 0]), np.zeros(2, dtype=np.int64), aspects)
    resized = resize_dataset(data, Preprocessing(SIZE))
    batch = resized.load_batch(np.array([0, 1]), 2)
    assert batch.aspects is None
    left, right = batch.pixels[:, 0, 16, 0].tolist(), batch.pixels[:, 0, 16, -1].tolist()
    assert left == pytest.approx([64, 2], abs=4)
    assert right == pytest.approx([188, 250], abs=4)
