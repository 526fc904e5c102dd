"""Lists of image transforms in the format of Azure ML designer's *Init Image Transformation*.

`_transforms.json` holds [name, argument] pairs: torchvision's name of a transform, and a number or
an object of keyword arguments. Random transforms (`Random...` and ColorJitter) are for training
only, since inference must be deterministic. A pickled list is not loaded.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from trialrun.errors import InvalidParameterError
from trialrun.images.decoding.header import MAX_PIXELS

_TRANSFORMS = "_transforms.json"
META = "_meta.yaml"
MAX_SIDE = 4096

_LARGEST, _SMALLEST = 1e9, 1e-9  # beyond these torchvision's arithmetic fails

_HINT = (
    "Give a file that holds a list such as "
    '[["Resize", 256], ["CenterCrop", 224], ["RandomHorizontalFlip", {}]].'
)


@dataclass(frozen=True, slots=True)
class _NumberRule:
    """Rule for a numeric argument: one number, or a list of a length in `lengths`.

    Every number is from `low` to `high`; `scalar_low` replaces `low` for a single number, such as
    10 degrees, which means -10 to 10. A list with `has_bounds` holds pairs of a lower and an upper
    bound.
    """

    low: float = -_LARGEST
    high: float = _LARGEST
    scalar_low: float | None = None
    lengths: tuple[int, ...] = ()
    allows_scalar: bool = True
    is_integer: bool = False
    has_bounds: bool = False
    allows_null: bool = False

    def accepts(self, value: object) -> bool:
        """Whether `value` obeys the rule."""
        if value is None:
            return self.allows_null
        if isinstance(value, list | tuple):
            return len(value) in self.lengths and self._accepts_list(value)
        low = self.low if self.scalar_low is None else self.scalar_low
        return self.allows_scalar and self._accepts_number(value, low)

    def _accepts_list(self, values: Sequence[Any]) -> bool:
        in_range = all(self._accepts_number(value, self.low) for value in values)
        return in_range and not (
            self.has_bounds and any(a > b for a, b in zip(values[::2], values[1::2], strict=True))
        )

    def _accepts_number(self, value: object, low: float) -> bool:
        number_types = int if self.is_integer else int | float
        if isinstance(value, bool) or not isinstance(value, number_types):
            return False
        return low <= value <= self.high

    def describe(self) -> str:
        """Describe the rule for an error message."""
        kind = "integer" if self.is_integer else "number"
        low = f" from {self.low:g}" if self.low > -_LARGEST else ""
        high = f" to {self.high:g}" if self.high < _LARGEST else ""
        scalar = f"one {kind}" if self.allows_scalar else ""
        listed = f"a list of {' or '.join(map(str, self.lengths))} {kind}s" if self.lengths else ""
        forms = " or ".join(filter(None, [scalar, listed]))
        return f"{forms}{low}{high}{', lower bound first' if self.has_bounds else ''}"


_SIZE = _NumberRule(1, MAX_SIDE, lengths=(1, 2), is_integer=True)
_PADDING = _NumberRule(0, MAX_SIDE, lengths=(1, 2, 4), is_integer=True)
_FILL = _NumberRule(0, 255, lengths=(1, 3), allows_null=True)
_FRACTION = _NumberRule(0, 1)
_JITTER = _NumberRule(0, lengths=(2,), has_bounds=True, allows_null=True)
_HUE = _NumberRule(-0.5, 0.5, scalar_low=0, lengths=(2,), has_bounds=True, allows_null=True)
_DEGREES = _NumberRule(scalar_low=0, lengths=(2,), has_bounds=True)
_CENTER = _NumberRule(lengths=(2,), allows_scalar=False, allows_null=True)
_AREA = _NumberRule(0, lengths=(2,), allows_scalar=False, has_bounds=True)
_RATIO = _NumberRule(_SMALLEST, lengths=(2,), allows_scalar=False, has_bounds=True)
_BOOLEAN = None  # takes true or false
# Keyword arguments by torchvision's names; a bare number means the first one.
_ARGUMENTS: dict[str, dict[str, _NumberRule | None]] = {
    "Resize": {"size": _SIZE},
    "CenterCrop": {"size": _SIZE},
    "Pad": {"padding": _PADDING, "fill": _FILL},
    "ColorJitter": {
        "brightness": _JITTER,
        "contrast": _JITTER,
        "saturation": _JITTER,
        "hue": _HUE,
    },
    "RandomResizedCrop": {"size": _SIZE, "scale": _AREA, "ratio": _RATIO},
    "RandomCrop": {
        "size": _SIZE,
        "padding": replace(_PADDING, allows_null=True),
        "pad_if_needed": _BOOLEAN,
        "fill": _FILL,
    },
    "RandomHorizontalFlip": {"p": _FRACTION},
    "RandomVerticalFlip": {"p": _FRACTION},
    "RandomRotation": {"degrees": _DEGREES, "expand": _BOOLEAN, "center": _CENTER, "fill": _FILL},
    "RandomAffine": {
        "degrees": _DEGREES,
        "translate": _NumberRule(0, 1, lengths=(2,), allows_scalar=False, allows_null=True),
        "scale": replace(_RATIO, allows_null=True),
        "shear": replace(_DEGREES, lengths=(2, 4), allows_null=True),
        "fill": _FILL,
        "center": _CENTER,
    },
    "RandomPerspective": {"distortion_scale": _FRACTION, "p": _FRACTION, "fill": _FILL},
}
_REQUIRED = {
    "Resize": "size",
    "CenterCrop": "size",
    "Pad": "padding",
    "RandomResizedCrop": "size",
    "RandomCrop": "size",
    "RandomRotation": "degrees",
    "RandomAffine": "degrees",
}
_FIXED_NAMES = frozenset({"Resize", "CenterCrop", "Pad"})


@dataclass(frozen=True, slots=True)
class TransformStep:
    """One transform: torchvision's name and keyword arguments."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def is_fixed(self) -> bool:
        """Whether the step is deterministic, so that inference applies it as well."""
        return self.name in _FIXED_NAMES

    def to_json(self) -> list[Any]:
        """Return the [name, keyword arguments] pair."""
        return [self.name, dict(self.arguments)]


def read_transforms(source: str) -> tuple[TransformStep, ...]:
    """Read the steps from a JSON file or from an Azure TransformationDirectory.

    Raises:
        InvalidParameterError: The file is missing, damaged or pickled, or has an invalid step.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            _check_not_pickled(path)
            path = path / _TRANSFORMS
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # RecursionError is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidParameterError(
            f"transforms={source} cannot be read: {reason}", _HINT
        ) from None
    try:
        return parse_steps(entries)
    except ValueError as error:
        raise InvalidParameterError(f"transforms={source}: {error}", _HINT) from None


def _check_not_pickled(folder: Path) -> None:
    try:
        meta = yaml.safe_load((folder / META).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
        meta = None
    kind = meta.get("transform_type", "Image") if isinstance(meta, dict) else "Image"
    if kind != "Image" or not (folder / _TRANSFORMS).is_file():
        raise InvalidParameterError(
            f"transforms={folder} has no JSON list of transforms (transform_type is {kind!s}); "
            "pickled transforms can execute code and are not loaded",
            "Write the transforms as a JSON list. " + _HINT,
        )


def parse_steps(entries: object) -> tuple[TransformStep, ...]:
    """Parse a JSON list of steps.

    Raises:
        ValueError: Not a list, an invalid step, or steps that make every image too large.
    """
    if not isinstance(entries, list):
        raise ValueError("not a list of [name, argument] pairs")
    steps = tuple(parse_step(entry) for entry in entries)
    width, height = 1, 1
    for step in steps:
        width, height = _compute_min_size(step, width, height)
        if width * height > MAX_PIXELS:
            raise ValueError(f"{step.name} makes images of {width:,} by {height:,} pixels or more")
    return steps


def parse_step(entry: object) -> TransformStep:
    """Parse one step from its JSON pair.

    Raises:
        ValueError: An unknown name or argument, or a value out of range.
    """
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise ValueError(f"{entry!r} is not a [name, argument] pair")
    name, argument = entry
    if not isinstance(name, str) or name not in _ARGUMENTS:
        raise ValueError(f"unknown transform {name!r}; choose from {', '.join(_ARGUMENTS)}")
    rules = _ARGUMENTS[name]
    arguments = argument if isinstance(argument, Mapping) else {next(iter(rules)): argument}
    if unknown := set(arguments) - set(rules):
        raise ValueError(
            f"{name} has no argument {min(map(str, unknown))}; choose from {', '.join(rules)}"
        )
    if (required := _REQUIRED.get(name)) and required not in arguments:
        raise ValueError(f"{name} needs {required}")
    for key, value in arguments.items():
        _check_value(name, key, value)
    return TransformStep(name, dict(arguments))


def _check_value(name: str, key: str, value: object) -> None:
    rule = _ARGUMENTS[name][key]
    if rule is None:
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {key} must be true or false")
    elif not rule.accepts(value):
        raise ValueError(f"{name}: {key}={value!r}, but it must be {rule.describe()}")


def _compute_min_size(step: TransformStep, width: int, height: int) -> tuple[int, int]:
    """Return the smallest width and height after `step`, given the smallest before it."""
    if step.name == "Pad":
        return compute_padded_size(step, width, height)
    if "size" not in step.arguments:
        return width, height
    size = step.arguments["size"]
    sides = list(size) if isinstance(size, Sequence) else [size]
    return sides[-1], sides[0]


def compute_padded_size(step: TransformStep, width: int, height: int) -> tuple[int, int]:
    """Return width and height after a Pad step."""
    left, top, right, bottom = _expand_padding(step.arguments["padding"])
    return left + width + right, top + height + bottom


def select_fixed_steps(steps: Sequence[TransformStep]) -> tuple[TransformStep, ...]:
    """Return the deterministic steps, which inference applies as well."""
    return tuple(step for step in steps if step.is_fixed)


def split_at_random_step(
    steps: Sequence[TransformStep],
) -> tuple[tuple[TransformStep, ...], tuple[TransformStep, ...]]:
    """Split before the first random step; the images after the first part can be cached."""
    for index, step in enumerate(steps):
        if not step.is_fixed:
            return tuple(steps[:index]), tuple(steps[index:])
    return tuple(steps), ()


def compute_side_after(steps: Sequence[TransformStep]) -> int | None:
    """Return the shorter side in pixels after `steps`, or None if it depends on the image."""
    side: int | None = None
    for step in steps:
        if "size" in step.arguments:
            size = step.arguments["size"]
            side = min(size) if isinstance(size, Sequence) else size
        elif step.name == "Pad" and side is not None:
            side += 2 * min(_expand_padding(step.arguments["padding"]))
    return side


def _expand_padding(padding: int | Sequence[int]) -> Sequence[int]:
    if isinstance(padding, int):
        return [padding] * 4
    return list(padding) * (4 // len(padding))
