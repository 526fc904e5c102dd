"""A list of transforms as Azure's *Init Image Transformation* writes it: read and checked by name.

`_transforms.json` holds [torchvision's name, argument] pairs, the argument a number or an object of
keyword arguments. Names that begin with `Random` are for training only, and so is ColorJitter,
which draws as well: what inference does must not depend on chance. A pickled list is refused.
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

_LARGEST, _SMALLEST = 1e9, 1e-9  # beyond these torchvision's own arithmetic fails

_HINT = (
    "Give a file that holds a list such as "
    '[["Resize", 256], ["CenterCrop", 224], ["RandomHorizontalFlip", {}]].'
)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """What a key takes: one number, or a list of so many, each from `low` to `high`.

    A number alone may have a `lowest_alone` of its own: 10 degrees are those from -10 to 10.
    Lists that `rise` are lower and upper bounds in turn.
    """

    low: float = -_LARGEST
    high: float = _LARGEST
    lowest_alone: float | None = None
    lengths: tuple[int, ...] = ()
    is_alone: bool = True
    is_whole: bool = False
    rises: bool = False
    may_be_null: bool = False

    def takes(self, value: object) -> bool:
        """Whether `value` is such."""
        if value is None:
            return self.may_be_null
        if isinstance(value, list | tuple):
            return len(value) in self.lengths and self._takes_all(value)
        low = self.low if self.lowest_alone is None else self.lowest_alone
        return self.is_alone and self._takes_one(value, low)

    def _takes_all(self, values: Sequence[Any]) -> bool:
        in_range = all(self._takes_one(each, self.low) for each in values)
        return in_range and not (
            self.rises and any(a > b for a, b in zip(values[::2], values[1::2], strict=True))
        )

    def _takes_one(self, value: object, low: float) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        return low <= value <= self.high

    def words(self) -> str:
        """For people."""
        kind = "whole numbers" if self.is_whole else "numbers"
        low = f" from {self.low:g}" if self.low > -_LARGEST else ""
        high = f" to {self.high:g}" if self.high < _LARGEST else ""
        listed = f"a list of {' or '.join(map(str, self.lengths))}" if self.lengths else ""
        counts = " or ".join(filter(None, ["one" if self.is_alone else "", listed]))
        return f"{kind}{low}{high}, {counts}{', rising' if self.rises else ''}"


_SIZE = _Numbers(1, MAX_SIDE, lengths=(1, 2), is_whole=True)
_PADDING = _Numbers(0, MAX_SIDE, lengths=(1, 2, 4), is_whole=True)
_FILL = _Numbers(0, 255, lengths=(1, 3), may_be_null=True)
_SHARE = _Numbers(0, 1)
_JITTER = _Numbers(0, lengths=(2,), rises=True, may_be_null=True)
_HUE = _Numbers(-0.5, 0.5, lowest_alone=0, lengths=(2,), rises=True, may_be_null=True)
_DEGREES = _Numbers(lowest_alone=0, lengths=(2,), rises=True)
_CENTER = _Numbers(lengths=(2,), is_alone=False, may_be_null=True)
_AREA = _Numbers(0, lengths=(2,), is_alone=False, rises=True)
_RATIO = _Numbers(_SMALLEST, lengths=(2,), is_alone=False, rises=True)
_SWITCH = None  # true or false
# Keyword arguments by torchvision's names, the one that a bare number stands for first.
_ARGUMENTS: dict[str, dict[str, _Numbers | None]] = {
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
        "padding": replace(_PADDING, may_be_null=True),
        "pad_if_needed": _SWITCH,
        "fill": _FILL,
    },
    "RandomHorizontalFlip": {"p": _SHARE},
    "RandomVerticalFlip": {"p": _SHARE},
    "RandomRotation": {"degrees": _DEGREES, "expand": _SWITCH, "center": _CENTER, "fill": _FILL},
    "RandomAffine": {
        "degrees": _DEGREES,
        "translate": _Numbers(0, 1, lengths=(2,), is_alone=False, may_be_null=True),
        "scale": replace(_RATIO, may_be_null=True),
        "shear": replace(_DEGREES, lengths=(2, 4), may_be_null=True),
        "fill": _FILL,
        "center": _CENTER,
    },
    "RandomPerspective": {"distortion_scale": _SHARE, "p": _SHARE, "fill": _FILL},
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
    """One transform: torchvision's name and its keyword arguments."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def is_fixed(self) -> bool:
        """Whether it does the same to an image every time, and so belongs to inference too."""
        return self.name in _FIXED_NAMES

    def to_json(self) -> list[Any]:
        """The pair, with its arguments by keyword."""
        return [self.name, dict(self.arguments)]


def read_transforms(source: str) -> tuple[TransformStep, ...]:
    """The steps in a JSON file or in a TransformationDirectory of Azure's.

    Raises:
        InvalidParameterError: No such file, damaged, pickled, or a step that is not known.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            _refuse_pickle(path)
            path = path / _TRANSFORMS
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # of which RecursionError is one
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidParameterError(
            f"transforms={source} cannot be read: {reason}", _HINT
        ) from None
    try:
        return parse_steps(entries)
    except ValueError as error:
        raise InvalidParameterError(f"transforms={source}: {error}", _HINT) from None


def _refuse_pickle(folder: Path) -> None:
    try:
        meta = yaml.safe_load((folder / META).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
        meta = None
    kind = meta.get("transform_type", "Image") if isinstance(meta, dict) else "Image"
    if kind != "Image" or not (folder / _TRANSFORMS).is_file():
        raise InvalidParameterError(
            f"transforms={folder} holds no list of transforms but {kind!s}: a pickle may run code "
            "when it is opened, and is not",
            "Write the transforms as a JSON list. " + _HINT,
        )


def parse_steps(entries: object) -> tuple[TransformStep, ...]:
    """The steps out of their JSON list.

    Raises:
        ValueError: No list, a step that is none, or steps that make any image too large.
    """
    if not isinstance(entries, list):
        raise ValueError("no list of [name, argument] pairs")
    steps = tuple(parse_step(entry) for entry in entries)
    width, height = 1, 1
    for step in steps:
        width, height = _least_size(step, width, height)
        if width * height > MAX_PIXELS:
            raise ValueError(f"{step.name} makes {width:,} by {height:,} pixels or more")
    return steps


def parse_step(entry: object) -> TransformStep:
    """One step out of its JSON pair.

    Raises:
        ValueError: An unknown name or argument, or one out of range.
    """
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise ValueError(f"{entry!r} is no [name, argument] pair")
    name, argument = entry
    if not isinstance(name, str) or name not in _ARGUMENTS:
        raise ValueError(f"{name!r} is none of {', '.join(_ARGUMENTS)}")
    known = _ARGUMENTS[name]
    arguments = argument if isinstance(argument, Mapping) else {next(iter(known)): argument}
    if unknown := set(arguments) - set(known):
        raise ValueError(f"{name} takes no {min(map(str, unknown))}, but {', '.join(known)}")
    if (required := _REQUIRED.get(name)) and required not in arguments:
        raise ValueError(f"{name} needs {required}")
    for key, value in arguments.items():
        _check_value(name, key, value)
    return TransformStep(name, dict(arguments))


def _check_value(name: str, key: str, value: object) -> None:
    numbers = _ARGUMENTS[name][key]
    if numbers is None:
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {key} is true or false")
    elif not numbers.takes(value):
        raise ValueError(f"{name}: {key}={value!r}, but it takes {numbers.words()}")


def _least_size(step: TransformStep, width: int, height: int) -> tuple[int, int]:
    """Width and height that a step leaves at least of an image that has these at least."""
    if step.name == "Pad":
        return compute_padded_size(step, width, height)
    if "size" not in step.arguments:
        return width, height
    size = step.arguments["size"]
    sides = list(size) if isinstance(size, Sequence) else [size]
    return sides[-1], sides[0]


def compute_padded_size(step: TransformStep, width: int, height: int) -> tuple[int, int]:
    """Width and height after a Pad."""
    left, top, right, bottom = _expand_padding(step.arguments["padding"])
    return left + width + right, top + height + bottom


def select_fixed_steps(steps: Sequence[TransformStep]) -> tuple[TransformStep, ...]:
    """What inference does as well."""
    return tuple(step for step in steps if step.is_fixed)


def split_at_random_step(
    steps: Sequence[TransformStep],
) -> tuple[tuple[TransformStep, ...], tuple[TransformStep, ...]]:
    """The steps before the first that draws, which a pack can hold, and those from it on."""
    for place, step in enumerate(steps):
        if not step.is_fixed:
            return tuple(steps[:place]), tuple(steps[place:])
    return tuple(steps), ()


def compute_side_after(steps: Sequence[TransformStep]) -> int | None:
    """The shorter side in pixels that the steps leave, whatever came in; None where it depends."""
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
