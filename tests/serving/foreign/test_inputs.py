"""Images as a signature asks for them."""

import io
from typing import Any

import numpy as np
import pytest
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Array
from numpy.typing import NDArray
from PIL import Image

from trialrun.images.decoding.header import UndecodableError
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.serving.foreign.inputs import SignatureError, choose_input


def encode(pixels: NDArray[np.uint8], kind: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def make_pixels(height: int, width: int) -> NDArray[np.uint8]:
    """Return random (H, W, 3) pixels."""
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_tensor_input(kind: str, shape: tuple[int, ...], name: str | None = None) -> Any:
    """Return the input of a model with one tensor."""
    return choose_input(Schema([TensorSpec(np.dtype(kind), shape, name)]))


@pytest.mark.parametrize("kind", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("shape", [(-1, 8, 8, 3), (-1, 3, 8, 8)])
def test_pixels_equal_those_of_trialrun_models(kind: str, shape: tuple[int, ...]) -> None:
    """EXIF rotation, crop and resize are trialrun's; floats are 0 to 1."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(make_pixels(20, 30), "JPEG", exif=exif)
    image_input = make_tensor_input(kind, shape)
    batch = image_input.assemble([image_input.prepare(data)] * 2)
    expected = Preprocessing(8).decode(data).numpy()[None].repeat(2, axis=0)
    if shape[-1] == 3:
        expected = expected.transpose(0, 2, 3, 1)
    assert batch.dtype == kind
    assert batch.shape == (2, *shape[1:])
    scale = 1 if kind == "uint8" else 255
    np.testing.assert_array_equal(batch, expected.astype(kind) / np.dtype(kind).type(scale))


def test_other_aspect_ratios_are_cropped_centrally() -> None:
    """A tensor of 4 by 8 pixels shows the central half of a square image, not distorted."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[4:12] = 255
    image_input = make_tensor_input("uint8", (-1, 4, 8, 3))
    batch = image_input.assemble([image_input.prepare(encode(pixels))])
    assert batch.shape == (1, 4, 8, 3)
    assert (batch == 255).all()
    whole = make_pixels(4, 8)
    same = image_input.assemble([image_input.prepare(encode(whole))])
    np.testing.assert_array_equal(same[0], whole)


def test_named_tensor_is_in_a_dict() -> None:
    """MLflow requires a dict for a tensor with a name."""
    image_input = make_tensor_input("uint8", (-1, 4, 4, 3), "pixels")
    batch = image_input.assemble([image_input.prepare(encode(make_pixels(4, 4)))])
    assert list(batch) == ["pixels"]


def test_files_are_passed_unchanged_if_they_can_be_decoded() -> None:
    """A column gets the bytes of the file; a damaged file is found before."""
    image_input = choose_input(None)
    data = encode(make_pixels(5, 5))
    assert image_input.assemble([image_input.prepare(data)])["image"].tolist() == [data]
    with pytest.raises(UndecodableError):
        image_input.prepare(data[:60])


def test_optional_inputs_are_left_out() -> None:
    """Only the required input counts."""
    schema = Schema(
        [ColSpec(DataType.binary, "photo"), ColSpec(DataType.double, "scale", required=False)]
    )
    data = encode(make_pixels(5, 5))
    assert list(choose_input(schema).assemble([data])) == ["photo"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (TensorSpec(np.dtype("int64"), (-1, 8, 8, 3)), "type int64"),
        (TensorSpec(np.dtype("float32"), (-1, 192)), "shape (-1, 192)"),
        (TensorSpec(np.dtype("float32"), (-1, 8, 8, 1)), "shape (-1, 8, 8, 1)"),
        (TensorSpec(np.dtype("float32"), (-1, 3, 8, 3)), "shape (-1, 3, 8, 3)"),
        (TensorSpec(np.dtype("float32"), (-1, -1, 8, 3)), "one of height and width"),
        (ColSpec(DataType.double, "width"), "type DataType.double"),
        (ColSpec(Array(DataType.binary), "images"), "type Array"),
    ],
)
def test_other_signatures_are_refused(spec: ColSpec | TensorSpec, message: str) -> None:
    """The error says what the model takes, the hint what it must take."""
    with pytest.raises(SignatureError) as raised:
        choose_input(Schema([spec]))
    assert message in str(raised.value)
    assert "binary column image" in raised.value.hint
