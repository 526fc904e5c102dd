"""A list of transforms as Azure's *Init Image Transformation* writes it: read and checked by name.

`_transforms.json` holds [torchvision's name, argument] pairs, the argument a number or an object of
keyword arguments. Names that begin with `Random` are for training only, and so is ColorJitter,
which draws as well: what inference does must not depend on chance. A pickled list is refused.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trialrun.errors import InvalidParameterError

TRANSFORMS = "_transforms.json"
META = "_meta.yaml"
MAX_SIDE = 4096

_HINT = 'Give a list such as [["Resize", 256], ["CenterCrop", 224], ["RandomHorizontalFlip", {}]].'
# Keyword arguments by torchvision's names, the one that a bare number stands for first.
_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Resize": ("size",),
    "CenterCrop": ("size",),
    "Pad": ("padding", "fill"),
    "ColorJitter": ("brightness", "contrast", "saturation", "hue"),
    "RandomResizedCrop": ("size", "scale", "ratio"),
    "RandomCrop": ("size", "padding", "pad_if_needed", "fill"),
    "RandomHorizontalFlip": ("p",),
    "RandomVerticalFlip": ("p",),
    "RandomRotation": ("degrees", "expand", "center", "fill"),
    "RandomAffine": ("degrees", "translate", "scale", "shear", "fill", "center"),
    "RandomPerspective": ("distortion_scale", "p", "fill"),
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
FIXED_NAMES = frozenset({"Resize", "CenterCrop", "Pad"})


@dataclass(frozen=True, slots=True)
class Step:
    """One transform: torchvision's name and its keyword arguments."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def is_fixed(self) -> bool:
        """Whether it does the same to an image every time, and so belongs to inference too."""
        return self.name in FIXED_NAMES

    def to_json(self) -> list[Any]:
        """The pair, with its arguments by keyword."""
        return [self.name, dict(self.arguments)]


def read_transforms(source: str) -> tuple[Step, ...]:
    """The steps in a JSON file or in a TransformationDirectory of Azure's.

    Raises:
        InvalidParameterError: No such file, damaged, pickled, or a step that is not known.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        _refuse_pickle(path)
        path = path / TRANSFORMS
    try:
        entries = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidParameterError(
            f"transforms={source} cannot be read: {reason}", _HINT
        ) from None
    if not isinstance(entries, list):
        raise InvalidParameterError(f"transforms={source} holds no list", _HINT)
    try:
        return tuple(step_of(entry) for entry in entries)
    except ValueError as error:
        raise InvalidParameterError(f"transforms={source}: {error}", _HINT) from None


def _refuse_pickle(folder: Path) -> None:
    try:
        meta = yaml.safe_load((folder / META).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        meta = None
    kind = meta.get("transform_type", "Image") if isinstance(meta, dict) else "Image"
    if kind != "Image" or not (folder / TRANSFORMS).is_file():
        raise InvalidParameterError(
            f"transforms={folder} holds no list of transforms but {kind!s}: a pickle may run code "
            "when it is opened, and is not",
            "Write the transforms as a JSON list. " + _HINT,
        )


def step_of(entry: object) -> Step:
    """One step out of its JSON pair.

    Raises:
        ValueError: An unknown name or argument, or one out of range.
    """
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
        raise ValueError(f"{entry!r} is no [name, argument] pair")
    name, argument = entry
    if name not in _ARGUMENTS:
        raise ValueError(f"{name!r} is none of {', '.join(_ARGUMENTS)}")
    known = _ARGUMENTS[name]
    arguments = argument if isinstance(argument, Mapping) else {known[0]: argument}
    if unknown := set(arguments) - set(known):
        raise ValueError(f"{name} takes no {min(map(str, unknown))}, but {', '.join(known)}")
    if (required := _REQUIRED.get(name)) and required not in arguments:
        raise ValueError(f"{name} needs {required}")
    for key, value in arguments.items():
        _check_value(name, key, value)
    return Step(name, dict(arguments))


def _check_value(name: str, key: str, value: Any) -> None:
    values: list[Any] = (
        list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    )
    if value is None and _REQUIRED.get(name) != key:
        return
    if key in ("pad_if_needed", "expand"):
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {key} is true or false")
        return
    if not values or not all(_is_number(each) for each in values):
        raise ValueError(f"{name}: {key}={value!r} is no number")
    if key == "size" and not (
        len(values) <= 2 and all(_is_whole(each) and 1 <= each <= MAX_SIDE for each in values)
    ):
        raise ValueError(f"{name}: size={value!r} is no size from 1 to {MAX_SIDE} pixels")
    if key == "padding" and not (
        len(values) in (1, 2, 4) and all(_is_whole(v) and 0 <= v <= MAX_SIDE for v in values)
    ):
        raise ValueError(f"{name}: padding={value!r} is no padding from 0 to {MAX_SIDE} pixels")
    if key == "p" and not (len(values) == 1 and 0 <= values[0] <= 1):
        raise ValueError(f"{name}: p={value!r} is no probability")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def fixed_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """What inference does as well."""
    return tuple(step for step in steps if step.is_fixed)


def split_at_chance(steps: Sequence[Step]) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """The steps before the first that draws, which a pack can hold, and those from it on."""
    for place, step in enumerate(steps):
        if not step.is_fixed:
            return tuple(steps[:place]), tuple(steps[place:])
    return tuple(steps), ()


def side_after(steps: Sequence[Step]) -> int | None:
    """The shorter side in pixels that the steps leave, whatever came in; None where it depends."""
    side: int | None = None
    for step in steps:
        if "size" in step.arguments:
            size = step.arguments["size"]
            side = min(size) if isinstance(size, Sequence) else size
        elif step.name == "Pad" and side is not None:
            side += 2 * min(_four(step.arguments["padding"]))
    return side


def _four(padding: int | Sequence[int]) -> Sequence[int]:
    if isinstance(padding, int):
        return [padding] * 4
    return list(padding) * (4 // len(padding))
