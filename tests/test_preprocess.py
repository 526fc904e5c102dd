"""`preprocess`: from an image in any form to a model's input."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import trialrun
from tests.conftest import write_image
from trialrun.errors import InvalidDatasetError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.models.classifier import ImageClassifier
from trialrun.scoring.network import prepare_network
from trialrun.scoring.pipeline import score_images

SIZE = 24


@pytest.fixture(scope="module")
def model() -> ImageClassifier:
    """A classifier with a tiny network."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ImageClassifier(network, ("a", "b", "c", "d"), Preprocessing(SIZE)).eval()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image of 40 by 40 pixels."""
    write_image(tmp_path / "photo.png", (200, 90, 30), size=40)
    return tmp_path / "photo.png"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_input_equals_scoring_s(model: ImageClassifier, photo: Path, suffix: str) -> None:
    """The network's probabilities equal the file's scores bit for bit."""
    path = photo.with_suffix(suffix)
    Image.open(photo).save(path)
    images = trialrun.preprocess(path, model)
    assert (images.shape, images.dtype) == ((1, 3, SIZE, SIZE), torch.float32)
    with torch.inference_mode():
        probabilities = model(images).softmax(dim=1)[0].numpy()
    (scored,) = score_images(prepare_network(model, torch.device("cpu")), [path.read_bytes()])
    assert scored.probabilities is not None
    assert probabilities.tolist() == scored.probabilities.tolist()


def test_every_form_of_an_image_gives_the_same_input(model: ImageClassifier, photo: Path) -> None:
    """Path, text, bytes, Pillow image, array and tensor; function and method."""
    image = Image.open(photo)
    array = np.asarray(image)  # read-only
    tensor = torch.from_numpy(np.array(array)).permute(2, 0, 1)
    expected = trialrun.preprocess(photo, model)
    forms: list[Any] = [str(photo), photo.read_bytes(), bytearray(photo.read_bytes())]
    forms += [image, image.copy(), array, array[:, ::-1][:, ::-1], tensor, tensor.contiguous()]
    for form in forms:
        assert torch.equal(trialrun.preprocess(form, model), expected), type(form)
        assert torch.equal(model.preprocess(form), expected), type(form)
    assert np.array_equal(np.asarray(image), array)


def test_pillow_image_is_converted_like_its_file(model: ImageClassifier, photo: Path) -> None:
    """EXIF rotation, transparency and 16 bits are handled; the caller's image is unchanged."""
    rotated, transparent = photo.with_name("rotated.jpg"), photo.with_name("transparent.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).crop((0, 0, 40, 30)).save(rotated, exif=exif)
    Image.open(photo).convert("RGBA").save(transparent)
    with Image.open(transparent) as opened:
        opened.putalpha(Image.linear_gradient("L").resize((40, 40)))
        opened.save(transparent)
    deep = photo.with_name("deep.png")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(deep)
    for path in (rotated, transparent, deep):
        with Image.open(path) as image:
            size = image.size
            actual = trialrun.preprocess(image, model)
            assert image.size == size
        assert torch.equal(actual, trialrun.preprocess(path, model)), path.name


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 3)),
        np.zeros((3, 8, 8), np.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(3, 8, 8),
    ],
)
def test_other_arrays_are_refused(model: ImageClassifier, image: Any) -> None:
    """An unsupported shape or type is an error that names both."""
    with pytest.raises(TypeError, match=r"pixels of shape \(.*8.*\) and type .*uint8 array"):
        trialrun.preprocess(image, model)


def test_what_is_not_an_image_is_refused(model: ImageClassifier, tmp_path: Path) -> None:
    """A missing file, a file that is not an image, and a number."""
    (tmp_path / "text.png").write_text("text")
    for image in (tmp_path / "missing.png", tmp_path / "text.png"):
        with pytest.raises(InvalidDatasetError, match=image.name):
            trialrun.preprocess(image, model)
    with pytest.raises(InvalidDatasetError, match="not an image"):
        trialrun.preprocess(b"text", model)
    wrong: Any = 7
    with pytest.raises(TypeError, match="int is not an image"):
        trialrun.preprocess(wrong, model)
