"""Decoding of uploaded images with the decoder of scoring, within the server's pixel limit."""

from dataclasses import dataclass

from torch import Tensor

from trialrun.images.decoding.header import UndecodableError, UnknownFormatError, read_header
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.serving.http.requests.problems import UNPROCESSABLE, UNSUPPORTED


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an image has no score, and the status of a response with this image alone."""

    status: int
    reason: str


def decode_upload(preprocessing: Preprocessing, data: bytes, max_pixels: int) -> Tensor | Refusal:
    """Return the (3, S, S) uint8 pixels of an image, or why it is refused."""
    try:
        header = read_header(data)
        if (num_pixels := header.width * header.height) > max_pixels:
            return Refusal(UNPROCESSABLE, f"{num_pixels:,} pixels; the limit is {max_pixels:,}")
        return preprocessing.decode(data)
    except UnknownFormatError as error:
        return Refusal(UNSUPPORTED, str(error))
    except UndecodableError as error:
        return Refusal(UNPROCESSABLE, str(error))
