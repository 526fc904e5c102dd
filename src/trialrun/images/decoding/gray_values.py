"""Values of more than 8 bits, and their conversion to 8 bits."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The values that become black and white, such as (0, 4095) for 12 bits.
ValueRange = tuple[int, int]


def format_value_range(value_range: ValueRange | None) -> str:
    """Return the text of the setting `value_range`."""
    return "none" if value_range is None else f"{value_range[0]}:{value_range[1]}"


@dataclass(frozen=True, slots=True)
class Tone:
    """The values that become black and white, and whether they are exchanged afterwards.

    `is_chosen` is true if the file's author chose them, as the window of a DICOM file; otherwise
    they are the range of its bits.
    """

    low: float = 0
    high: float = 65535
    is_inverted: bool = False
    is_chosen: bool = False

    def convert(
        self, values: NDArray[Any], value_range: ValueRange | None = None
    ) -> NDArray[np.uint8]:
        """Return 8-bit values; `value_range` replaces the range of the tone."""
        low, high = value_range or (self.low, self.high)
        if self.is_inverted:
            low, high = high, low
        scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255)
        scaled /= np.float32(high - low)
        grays: NDArray[np.uint8] = np.rint(scaled).clip(0, 255).astype(np.uint8)
        return grays


@dataclass(frozen=True, slots=True)
class GrayValues:
    """The smallest and largest value of an image of more than 8 bits, and the tone it is shown in.

    `tone` is None if the file does not say which values are black and white.
    """

    low: float
    high: float
    tone: Tone | None

    def compute_share(self, value_range: ValueRange | None) -> float:
        """Return the share of the range from black to white that the values use; 1 if unknown."""
        if value_range is None and self.tone is None:
            return 1.0
        tone = self.tone or Tone()
        low, high = value_range or (tone.low, tone.high)
        return max(min(self.high, high) - max(self.low, low), 0) / (high - low)


def measure_values(values: NDArray[Any], tone: Tone | None) -> GrayValues:
    """Return the smallest and largest of `values`."""
    return GrayValues(float(values.min()), float(values.max()), tone)
