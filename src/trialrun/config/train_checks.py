"""Checks of training settings whose legal values depend on each other."""

from collections.abc import Mapping

from trialrun.config.settings import AUTO_TEXT
from trialrun.errors import InvalidParameterError


def check_warm_up(lengths: Mapping[str, float]) -> None:
    """Check that at most one of the settings of the warm-up's length is set; 0 is unset.

    Raises:
        InvalidParameterError: Several are set.
    """
    found = [f"{name}={value:g}" for name, value in lengths.items() if value]
    if len(found) > 1:
        raise InvalidParameterError(
            f"{' and '.join(found)} are set together",
            "Set one of them: they give the length of the same warm-up, in different units.",
        )


def check_first_size(first: int | str, full: int | str | None) -> None:
    """Check that training begins with smaller images than the network's; texts are not compared.

    `first` is the setting progressive_resize, `full` is image_size, both in pixels.

    Raises:
        InvalidParameterError: The first size is not below the full one.
    """
    if isinstance(first, str) or full is None or isinstance(full, str) or first < full:
        return
    smaller = f" to less than {full}, or" if full > 1 else ""
    raise InvalidParameterError(
        f"progressive_resize={first} is not below the image size ({full} pixels)",
        f"Set progressive_resize{smaller} to off.",
    )


def parse_value_range(text: str | None) -> tuple[int, int] | None:
    """Return the ends of the setting value_range; None if it is not a range.

    Raises:
        InvalidParameterError: The lower end is not below the upper one.
    """
    if text in (None, AUTO_TEXT):
        return None
    low, high = map(int, str(text).split(":"))
    if low >= high:
        raise InvalidParameterError(
            f"value_range={low}:{high} ends at or before its beginning",
            "Give the value that becomes black first, such as 0:4095.",
        )
    return low, high
