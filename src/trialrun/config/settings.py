"""A setting's declaration: default, help and legal values, and the parser that follows from it.

Every door (flags, MLproject, `trialrun.train(...)`, a search) hands settings over as text or as
Python values; both go through `Knob.parse`, so that they are judged alike.
"""

import dataclasses
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, get_args, get_origin

from trialrun.errors import InvalidParameterError, TrialrunError, merge_errors

NONE_TEXT = "none"  # MLproject knows no None, and MLflow logs an empty text as two quotes
AUTO_TEXT = "auto"
SMALLEST_POSITIVE_DOUBLE = 5e-324  # the ancestor's lower bound of the learning rate

_METADATA_KEY = "knob"
Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a setting's values must obey, beside their type."""

    help: str
    low: float = -math.inf
    high: float = math.inf
    lt: float = math.inf
    choices: tuple[str, ...] = ()
    auto: bool = False
    logarithmic: bool = False
    searchable: bool = True
    pattern: str = ""  # a regular expression that the whole text matches
    pattern_help: str = ""  # what matches it, in words
    path: bool = False  # names a file or a folder
    repeats: bool = False  # a flag that may be given several times; its texts are joined by commas


def setting(default: Any, help: str, **rule: Any) -> Any:  # noqa: A002 - the field's own word
    """Declare a setting once: its default, its help text and its legal values."""
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
        """The command line's spelling, `--batch-size`."""
        return "--" + self.name.replace("_", "-")

    @property
    def legal(self) -> str:
        """The legal values in words, as help and errors show them."""
        if self.rule.choices:
            words = " | ".join(self.rule.choices)
        else:
            words = self.rule.pattern_help or _TYPE_WORDS[self.type] + self._range_words()
        if self.rule.auto:
            words += f" | {AUTO_TEXT}"
        return words + f" | {NONE_TEXT}" if self.optional else words

    def _range_words(self) -> str:
        low, high, lt = self.rule.low, self.rule.high, self.rule.lt
        if low == -math.inf:
            return ""
        if low == SMALLEST_POSITIVE_DOUBLE:
            return " > 0"
        words = f" >= {low:g}"
        if high < math.inf:
            words += f" and <= {high:g}"
        return words + f" and < {lt:g}" if lt < math.inf else words

    def parse(self, value: Any) -> Any:
        """The setting's value out of text or a Python value.

        Raises:
            InvalidParameterError: The value is of another type or outside the legal values.
        """
        if value is None or (isinstance(value, str) and value.strip().lower() == NONE_TEXT):
            if self.optional or NONE_TEXT in self.rule.choices:
                return None if self.optional else NONE_TEXT
            raise self._refusal(value)
        if self.rule.auto and isinstance(value, str) and value.strip().lower() == AUTO_TEXT:
            return AUTO_TEXT
        try:
            parsed = _PARSERS[self.type](value)
            as_text(parsed)  # Python writes no integer of more than 4,300 digits
        except (ValueError, TypeError, OverflowError):
            raise self._refusal(value) from None
        if not self._allows(parsed):
            raise self._refusal(value)
        return parsed

    def _allows(self, value: Any) -> bool:
        if self.rule.choices:
            return value in self.rule.choices
        if self.rule.pattern:
            return re.fullmatch(self.rule.pattern, value) is not None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return True
        return self.rule.low <= value <= self.rule.high and value < self.rule.lt

    def _refusal(self, value: Any) -> InvalidParameterError:
        shown = _format_value(value)
        what = f"{self.name}={shown} is not" if shown.strip() else f"{self.name} is empty, not"
        return InvalidParameterError(
            f"{what} {_ARTICLES[self.type]}{self.legal}",
            "`--help` lists every setting with its range and default.",
        )


def _format_value(value: Any) -> str:
    try:
        return as_text(value)
    except ValueError:
        return f"(an integer of {value.bit_length()} bits)"


def list_settings(config: type) -> tuple[Setting, ...]:
    """The settings that `config`, a dataclass of `knob` fields, declares, in their order."""
    return tuple(_read_field(item) for item in dataclasses.fields(config))


def _read_field(item: "dataclasses.Field[Any]") -> Setting:
    annotation = item.type
    if isinstance(annotation, str):
        raise TypeError(f"{item.name}: annotations must be evaluated for flags to read them")
    members = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ()
    kinds = [kind for kind in members or (annotation,) if kind is not type(None)]
    rule = item.metadata[_METADATA_KEY]
    if rule.auto:
        kinds = [kind for kind in kinds if kind is not str] or [str]
    return Setting(item.name, kinds[0], type(None) in members, item.default, rule)


def build_config(config: type[Config], values: Mapping[str, Any]) -> Config:
    """A `config` out of texts or Python values; what is absent takes its default.

    Raises:
        InvalidParameterError: One error that names every bad value and every unknown setting.
    """
    declared = {item.name: item for item in list_settings(config)}
    parsed: dict[str, Any] = {}
    problems: list[TrialrunError] = [
        InvalidParameterError(
            f"there is no setting {name}", f"The settings are: {', '.join(declared)}."
        )
        for name in values
        if name not in declared
    ]
    for name, item in declared.items():
        if name in values:
            try:
                parsed[name] = item.parse(values[name])
            except InvalidParameterError as error:
                problems.append(error)
    if problems:
        raise merge_errors(problems)
    return config(**parsed)


def as_text(value: Any) -> str:
    """A setting's value as MLflow stores it and as `Knob.parse` reads it back."""
    if value is None:
        return NONE_TEXT
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_texts(config: Any) -> dict[str, str]:
    """Every setting of a config by name, as MLflow stores parameters."""
    return {item.name: as_text(getattr(config, item.name)) for item in list_settings(type(config))}


def _as_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    if isinstance(value, float):
        if not value.is_integer():
            raise ValueError("not a whole number")
        return int(value)
    return int(value)


def _as_float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError("a truth value is no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _TRUTH:
        raise ValueError("neither true nor false")
    return _TRUTH[word]


def _as_str(value: Any) -> str:
    text = str(value)
    if not text.strip():
        raise ValueError("empty")
    return text


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_TYPE_WORDS = {int: "integer", float: "number", bool: "true | false", str: "text"}
_ARTICLES = {int: "an ", float: "a ", bool: "", str: ""}
_PARSERS: dict[type, Callable[[Any], Any]] = {
    int: _as_int,
    float: _as_float,
    bool: _as_bool,
    str: _as_str,
}


def device_setting(help: str, **rule: Any) -> Any:  # noqa: A002 - as `knob`
    """Declare the setting; `engine.device` says which device a value names."""
    return setting(
        AUTO_TEXT,
        help,
        pattern=r"auto|cpu|cuda(:\d{1,3})?|mps",
        pattern_help="auto | cpu | cuda | cuda:N | mps",
        **rule,
    )
