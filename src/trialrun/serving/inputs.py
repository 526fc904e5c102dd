"""Extraction of images from a pyfunc's input: file contents as bytes or as base64 text.

MLflow decodes the base64 of `dataframe_split` and `dataframe_records`; the base64 of `inputs`,
`instances` and `text/csv` arrives as text. Text is never read as the path of a file.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

IMAGE_COLUMN = "image"
FORMATS = (
    "Send each image as the content of its file (PNG, JPEG and others): as bytes in a DataFrame "
    f"with a column named {IMAGE_COLUMN}; as base64 in JSON (dataframe_split, dataframe_records, "
    f"inputs or instances) and in text/csv with a column named {IMAGE_COLUMN}."
)

_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]*={0,2}\s*")
_PLAIN_PNM = re.compile(rb"P[123]\s")  # the one image format that is text


class InputError(ValueError):
    """The input has no column of images."""


def extract_images(model_input: Any) -> "tuple[list[bytes | str], pd.Index]":
    """Return a file's bytes or an error text for each image, and the index of the rows.

    Raises:
        InputError: The `image` column is missing.
    """
    import pandas as pd

    values = _find_column(model_input)
    index = values.index if isinstance(values, pd.Series) else None
    items = list(values)
    if len(items) == 1 and isinstance(items[0], list):
        # MLflow passes {"image": [text, text]} as one row that contains the list.
        items, index = items[0], None
    rows = pd.RangeIndex(len(items)) if index is None else index
    return [_read_value(item) for item in items], rows


def _find_column(model_input: Any) -> Any:
    """Return the `image` column of a DataFrame or a mapping, else the items themselves."""
    import pandas as pd

    if isinstance(model_input, pd.DataFrame | Mapping):
        if IMAGE_COLUMN not in model_input:
            columns = ", ".join(map(str, model_input)) or "none"
            raise InputError(f"the input has no column named {IMAGE_COLUMN} (columns: {columns})")
        column = model_input[IMAGE_COLUMN]
        return [column] if _is_single(column) else column
    if _is_single(model_input):
        return [model_input]
    if isinstance(model_input, Sequence) and all(isinstance(x, Mapping) for x in model_input):
        return [item.get(IMAGE_COLUMN) for item in model_input]
    return model_input


def _is_single(value: object) -> bool:
    return isinstance(value, str | bytes | bytearray | memoryview)


def _read_value(value: object) -> bytes | str:
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        is_text = _BASE64.fullmatch(data) and not _PLAIN_PNM.match(data)
        return _decode_base64(data) if is_text else data
    if isinstance(value, str):
        return _decode_base64(value.encode())
    return f"{type(value).__name__} instead of an image"


def _decode_base64(text: bytes) -> bytes | str:
    try:
        data = base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return "text that is not base64"
    return data or "empty"
