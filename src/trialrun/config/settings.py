"""Declarations of settings (default, help, legal values) and the parser of their values.

Flags, MLproject, `trialrun.train(...)` and a search pass settings as text or as Python values.
`Setting.parse` reads both, so every entry point accepts and rejects the same values.
"""

import dataclasses
import inspect
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin

from trialrun.errors import InvalidParameterError, TrialrunError, merge_errors

NONE_TEXT = "none"  # MLproject has no None, and MLflow logs an empty text as two quotes
AUTO_TEXT = "auto"
OFF_TEXT, ON_TEXT = "off", "on"
SMALLEST_POSITIVE_DOUBLE = 5e-324  # Azure ML designer's lower bound of learning_rate

_METADATA_KEY = "setting"
Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class _Rule:
    """The help text of a setting and the constraints on its values, except their type."""

    help: str
    low: float = -math.inf
    high: float = math.inf
    lt: float = math.inf  # values must be less than this
    choices: tuple[str, ...] = ()
    auto: bool = False  # `auto` is a legal value
    words: tuple[str, ...] = ()  # further texts that are legal values of a number
    logarithmic: bool = False  # a search samples ranges on a log scale
    searchable: bool = True
    pattern: str = ""  # regular expression that the whole text must match
    pattern_help: str = ""  # description of the texts that match
    path: bool = False  # the value names a file or a folder
    repeats: bool = False  # the flag may be given several times; commas join its values
    suggestions: tuple[str, ...] = ()  # typical values, for shell completion


def setting(default: Any, help: str, **rule: Any) -> Any:  # noqa: A002 - standard word for it
    """Declare a setting: its default, its help text and its legal values."""
    return field(default=default, metadata={_METADATA_KEY: _Rule(help=help, **rule)})


@dataclass(frozen=True, slots=True)
class Setting:
    """One declared setting of a config class."""

    name: str
    type: type
    optional: bool
    default: Any
    rule: _Rule

    @property
    def flag(self) -> str:
        """The command line flag, such as `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def legal_values(self) -> str:
        """Description of the legal values for help texts and errors."""
        if self.rule.choices:
            words = " | ".join(self.rule.choices)
        else:
            words = self.rule.pattern_help or _TYPE_NAMES[self.type] + self._describe_range()
        words = " | ".join((*self.rule.words, words))
        if self.rule.auto:
            words += f" | {AUTO_TEXT}"
        return words + f" | {NONE_TEXT}" if self.optional else words

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Values that shell completion offers; empty for numbers and free text."""
        suggestions = self.rule.choices or self.rule.suggestions or self.rule.words
        if self.type is bool:
            suggestions = ("true", "false")
        return (*suggestions, AUTO_TEXT) if self.rule.auto else suggestions

    def _describe_range(self) -> str:
        low, high, lt = self.rule.low, self.rule.high, self.rule.lt
        if low == -math.inf:
            return ""
        words = " > 0" if low == SMALLEST_POSITIVE_DOUBLE else f" >= {low:g}"
        if high < math.inf:
            words += f" and <= {high:g}"
        return words + f" and < {lt:g}" if lt < math.inf else words

    def parse(self, value: Any) -> Any:
        """Convert a text or a Python value to the setting's type and check it.

        Raises:
            InvalidParameterError: The value has the wrong type or is not legal.
        """
        if value is None or (isinstance(value, str) and value.strip().lower() == NONE_TEXT):
            if self.optional or NONE_TEXT in self.rule.choices:
                return None if self.optional else NONE_TEXT
            raise self._make_error(value)
        if self.rule.auto and isinstance(value, str) and value.strip().lower() == AUTO_TEXT:
            return AUTO_TEXT
        if isinstance(value, str) and value.strip().lower() in self.rule.words:
            return value.strip().lower()
        try:
            parsed = _PARSERS[self.type](value)
            as_text(parsed)  # fails for integers of more than 4,300 digits (Python's limit)
        except (ValueError, TypeError, OverflowError):
            raise self._make_error(value) from None
        if not self._is_legal(parsed):
            raise self._make_error(value)
        return parsed

    def _is_legal(self, value: Any) -> bool:
        if self.rule.choices:
            return value in self.rule.choices
        if self.rule.pattern:
            return re.fullmatch(self.rule.pattern, value) is not None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return self.rule.low <= value <= self.rule.high and value < self.rule.lt

    def _make_error(self, value: Any) -> InvalidParameterError:
        text = _format_value(value)
        found = f"{self.name}={text} is not" if text.strip() else f"{self.name} is empty, not"
        return InvalidParameterError(
            f"{found} {'' if self.rule.words else _ARTICLES[self.type]}{self.legal_values}",
            "`--help` lists every setting with its range and default.",
        )


def _format_value(value: Any) -> str:
    try:
        return as_text(value)
    except ValueError:
        return f"(an integer of {value.bit_length()} bits)"


def list_settings(config: type) -> tuple[Setting, ...]:
    """Return the settings of the dataclass `config` as declared, inherited ones last."""
    own = inspect.get_annotations(config)
    fields = sorted(dataclasses.fields(config), key=lambda declared: declared.name not in own)
    return tuple(map(_read_field, fields))


def _read_field(declared: "dataclasses.Field[Any]") -> Setting:
    annotation = declared.type
    if isinstance(annotation, str):
        raise TypeError(f"{declared.name}: annotations of settings must be types, not strings")
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    value_types = [member for member in members or (annotation,) if member is not type(None)]
    rule = declared.metadata[_METADATA_KEY]
    if rule.auto or rule.words:
        value_types = [member for member in value_types if member is not str] or [str]
    return Setting(declared.name, value_types[0], type(None) in members, declared.default, rule)


def build_config(config: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a `config` from texts or Python values; missing settings take their defaults.

    Raises:
        InvalidParameterError: One error that names every invalid value and every unknown setting.
    """
    settings = {item.name: item for item in list_settings(config)}
    parsed: dict[str, Any] = {}
    problems: list[TrialrunError] = [
        InvalidParameterError(
            f"there is no setting {name}", f"The settings are: {', '.join(settings)}."
        )
        for name in values
        if name not in settings
    ]
    for name, item in settings.items():
        if name in values:
            try:
                parsed[name] = item.parse(values[name])
            except InvalidParameterError as error:
                problems.append(error)
    if problems:
        raise merge_errors(problems)
    return config(**parsed)


def as_text(value: Any) -> str:
    """Format a setting's value as MLflow stores it and `Setting.parse` reads it."""
    if value is None:
        return NONE_TEXT
    return str(value).lower() if isinstance(value, bool) else str(value)


def list_values(config: Any) -> dict[str, Any]:
    """Return the values of all settings by name."""
    return {item.name: getattr(config, item.name) for item in list_settings(type(config))}


def as_texts(config: Any) -> dict[str, str]:
    """Return the values of all settings by name, as texts for MLflow parameters."""
    return {name: as_text(value) for name, value in list_values(config).items()}


def _parse_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a boolean is not a number")
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("not a whole number")
        return int(value)
    return int(value)


def _parse_float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a boolean is not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError("neither true nor false")
    return BOOLEANS[word]


def _parse_text(value: Any) -> str:
    text = str(value)
    if not text.strip():
        raise ValueError("empty")
    return text


BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPE_NAMES = {int: "integer", float: "number", bool: "true | false", str: "text"}
_ARTICLES = {int: "an ", float: "a ", bool: "", str: ""}
_PARSERS: dict[type, Callable[[Any], Any]] = {
    int: _parse_int,
    float: _parse_float,
    bool: _parse_bool,
    str: _parse_text,
}


def group_column_setting(effect: str, **rule: Any) -> Any:
    """Declare a `group_column` setting; `effect` completes "images with the same value"."""
    return setting(
        None,
        f"Column of the image list, such as a patient; images with the same value {effect}.",
        **rule,
    )


def group_pattern_setting(effect: str, **rule: Any) -> Any:
    """Declare a `group_pattern` setting; `effect` completes "images with the same match"."""
    return setting(
        None,
        "Regular expression searched in image names; images with the same match (its first group, "
        f"if it has one) {effect}.",
        **rule,
    )


def device_setting(
    help: str,  # noqa: A002 - as in `setting`
    *,
    default: str | None = AUTO_TEXT,
    **rule: Any,
) -> Any:
    """Declare a `device` setting; `engine.compute.device` resolves its value to a device."""
    return setting(
        default,
        help,
        pattern=r"auto|cpu|cuda(:\d{1,3})?|mps",
        pattern_help="auto | cpu | cuda | cuda:N | mps",
        suggestions=("auto", "cpu", "cuda", "mps"),
        **rule,
    )


def sha256_setting() -> Any:
    """Declare a setting that pins a model's weights; `registry.pins` compares it."""
    return setting(
        None,
        "SHA-256 that the model's weights must have (as `sha256sum model.safetensors` prints it); "
        "none does not compare.",
        pattern="[0-9a-fA-F]{64}",
        pattern_help="64 hexadecimal digits",
    )


def present_data_setting(images: str) -> Any:
    """Declare where the `images` (`training`, `validation`) of a recorded run are now."""
    return setting(
        None, f"Present location of the {images} images; none is the recorded one.", path=True
    )
