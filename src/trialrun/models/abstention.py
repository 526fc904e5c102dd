"""The confidence below which a model abstains, and what it promises of its answers."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Abstention:
    """At most the share `max_error` of the answers is wrong, with a probability of `level`.

    The model answers if its largest probability is `threshold` or more. `coverage` is the share of
    the `num_images` images that it answered when the threshold was derived from them, and
    `data_digest` is theirs.
    """

    threshold: float
    max_error: float
    level: float
    coverage: float
    num_images: int
    data_digest: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> "Abstention":
        """Parse what `to_json` returned.

        Raises:
            ValueError: A value is missing, unknown or out of its range.
        """
        try:
            parsed = cls(**values)
            shares = (parsed.threshold, parsed.max_error, parsed.level, parsed.coverage)
            is_valid = all(0 <= float(share) <= 1 for share in shares)
        except TypeError as error:
            raise ValueError(f"abstention has other values: {error}") from error
        if not is_valid:
            raise ValueError("abstention has a share that is not between 0 and 1")
        return parsed
