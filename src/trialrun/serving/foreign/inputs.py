"""Images in the form that an MLflow model's signature asks for.

Array letters: N images, H and W pixels.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trialrun.images.decoding.decode import decode_image
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.decoding.transforms import TransformStep
from trialrun.serving.inputs import IMAGE_COLUMN

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.types import Schema
    from mlflow.types.schema import ColSpec, TensorSpec

_COLORS = 3
_ANY_SIZE = -1
_HINT = (
    f"Log the model with a signature of one input: a binary column {IMAGE_COLUMN}, or a tensor "
    "(-1, H, W, 3) or (-1, 3, H, W) of type uint8 or float."
)


class SignatureError(ValueError):
    """The model's signature asks for something other than images; `hint` says what to do."""

    hint = _HINT


class ImageInput(Protocol):
    """Converts images to a model's input: each image with `prepare`, a batch with `assemble`."""

    @property
    def batch_size(self) -> int | None:
        """The only batch size that the model accepts, or None."""

    def prepare(self, data: bytes) -> Any:
        """Convert the content of an image file.

        Raises:
            UndecodableError: The image cannot be used; the message gives the reason.
        """

    def assemble(self, images: Sequence[Any]) -> Any:
        """Combine prepared images into the argument of the model's `predict`."""


@dataclass(frozen=True, slots=True)
class ColumnInput:
    """A DataFrame with one column of file contents, as bytes or as base64 text."""

    name: str | int
    is_text: bool = False
    batch_size: int | None = None

    def prepare(self, data: bytes) -> bytes | str:
        """Return the content unchanged; decoding it first finds images that cannot be read."""
        decode_image(data)
        return base64.b64encode(data).decode() if self.is_text else data

    def assemble(self, images: Sequence[bytes | str]) -> "pd.DataFrame":
        """Return one row per image."""
        import pandas as pd

        return pd.DataFrame({self.name: pd.Series(list(images), dtype=object)})


@dataclass(frozen=True, slots=True)
class TensorInput:
    """An array of RGB pixels: 0 to 255 as uint8, or 0 to 1 as float.

    Images are cropped to the central area with the aspect ratio of `size`, then resized, as
    trialrun's models do. `size` is (H, W), or None if the model takes images at their own size.
    """

    name: str | None
    dtype: np.dtype[Any]
    size: tuple[int, int] | None
    is_channels_last: bool
    batch_size: int | None = None

    def prepare(self, data: bytes) -> NDArray[np.uint8]:
        """Decode to (3, H, W) uint8."""
        if self.size is None or self.size[0] == self.size[1]:
            side = None if self.size is None else self.size[0]
            return Preprocessing(side).decode(data).numpy()
        return _decode_to_size(data, self.size)

    def assemble(
        self, images: Sequence[NDArray[np.uint8]]
    ) -> NDArray[Any] | dict[str, NDArray[Any]]:
        """Return (N, 3, H, W) or (N, H, W, 3), in a dict if the input has a name."""
        pixels = np.stack(images)
        if self.is_channels_last:
            pixels = pixels.transpose(0, 2, 3, 1)
        values = np.ascontiguousarray(pixels, dtype=self.dtype)
        if self.dtype.kind == "f":
            values /= 255
        return values if self.name is None else {self.name: values}


def _decode_to_size(data: bytes, size: tuple[int, int]) -> NDArray[np.uint8]:
    image = decode_image(data)
    height, width = image.shape[-2:]
    scale = min(height / size[0], width / size[1])
    crop_height = max(min(round(size[0] * scale), height), 1)
    crop_width = max(min(round(size[1] * scale), width), 1)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    area = image[:, top : top + crop_height, left : left + crop_width]
    resize = TransformStep("Resize", {"size": list(size)})
    return Preprocessing(None, steps=(resize,)).prepare(area).numpy()


def choose_input(schema: "Schema | None") -> ImageInput:
    """Return how images are given to a model with the input `schema`, None without a signature.

    Raises:
        SignatureError: The model takes something else than one image per row.
    """
    from mlflow.types import TensorSpec

    if schema is None:
        return ColumnInput(IMAGE_COLUMN)
    required = [spec for spec in schema.inputs if spec.required] or list(schema.inputs)
    if len(required) != 1:
        names = ", ".join(str(spec.name) for spec in required) or "none"
        raise SignatureError(f"takes {len(required)} inputs ({names}), not one image per row")
    spec = required[0]
    return (
        _choose_tensor_input(spec) if isinstance(spec, TensorSpec) else _choose_column_input(spec)
    )


def _choose_column_input(spec: "ColSpec") -> ColumnInput:
    from mlflow.types import DataType

    if spec.type not in (DataType.binary, DataType.string):
        raise SignatureError(f"takes a column of type {spec.type}, not the content of image files")
    name = 0 if spec.name is None else spec.name
    return ColumnInput(name, is_text=spec.type == DataType.string)


def _choose_tensor_input(spec: "TensorSpec") -> TensorInput:
    dtype, shape = np.dtype(spec.type), tuple(spec.shape)
    if dtype != np.uint8 and dtype.kind != "f":
        raise SignatureError(f"takes a tensor of type {dtype}, neither uint8 nor float")
    is_last, is_first = shape[3:] == (_COLORS,), len(shape) == 4 and shape[1] == _COLORS
    if is_last == is_first:
        raise SignatureError(f"takes a tensor of shape {shape}, which is not one of RGB images")
    height, width = shape[1:3] if is_last else shape[2:]
    has_any_size = height == width == _ANY_SIZE
    if not has_any_size and _ANY_SIZE in (height, width):
        raise SignatureError(f"takes a tensor of shape {shape}, with one of height and width fixed")
    fixed = shape[0] if shape[0] > 0 else None
    if has_any_size:
        fixed = 1  # images of several sizes do not fit in one array
    return TensorInput(spec.name, dtype, None if has_any_size else (height, width), is_last, fixed)
