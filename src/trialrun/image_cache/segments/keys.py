"""Keys of decoded images: what decides an image's pixels.

All images of one variant were prepared in the same way. Within a variant, the key of an image is
the sha256 of its file, so that names, labels and the rest of the dataset play no role.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trialrun.images.decoding.decode import DECODER_VERSION
from trialrun.images.decoding.fitting import PAD
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.scanning.scan import DatasetScan

_FORMAT = 8  # of a segment's files
_NAME_DIGITS = 16
KEY_TYPE = "S32"  # its comparison ignores zeros at the end, which is right for a fixed length

Keys = NDArray[np.bytes_]


def name_variant(preprocessing: Preprocessing, *, has_pixels: bool = True) -> str:
    """Return a name for everything but the file that decides an image's pixels.

    Segments of results, without pixels, have a name of their own.
    """
    # The mean counts only as the color of padding.
    spatial: dict[str, Any] = {**preprocessing.to_json(), "mean": None, "std": None}
    if preprocessing.fit == PAD:
        spatial["fill"] = preprocessing.fill
    if not has_pixels:
        spatial["pixels"] = False
    version = json.dumps([_FORMAT, DECODER_VERSION, spatial], sort_keys=True)
    return shorten_digest(version.encode())


def shorten_digest(data: bytes) -> str:
    """Return a hash of `data` for use in the name of a file."""
    return hashlib.sha256(data).hexdigest()[:_NAME_DIGITS]


@dataclass(frozen=True, slots=True)
class SetKeys:
    """The K different keys of a dataset of N images.

    `first_rows`, (K,), are the first rows with each key. `index_of_row`, (N,), is a row's position
    in `keys`, or -1 if the scan found the file unusable.
    """

    keys: Keys
    first_rows: NDArray[np.int64]
    index_of_row: NDArray[np.int64]


def collect_keys(scan: DatasetScan) -> SetKeys:
    """Return the keys of the images that can be decoded."""
    rows = [row for row, file in enumerate(scan.files) if not file.reason]
    digests = bytes.fromhex("".join(scan.files[row].sha256 for row in rows))
    keys, first, index = np.unique(
        np.frombuffer(digests, dtype=KEY_TYPE), return_index=True, return_inverse=True
    )
    usable = np.asarray(rows, dtype=np.int64)
    index_of_row = np.full(len(scan.files), -1, dtype=np.int64)
    index_of_row[usable] = index
    return SetKeys(keys, usable[first], index_of_row)
