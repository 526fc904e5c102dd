"""What is searched: settings given as ranges or choices, and how such text is read.

`1e-4:1e-1` is a range, `8:64:8` one in steps, `8,16,32` a choice. Nothing here needs Optuna.
"""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trialrun.config import Setting, as_text
from trialrun.errors import InvalidParameterError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DEFAULT_RANGES = {"learning_rate": "1e-4:1e-1", "batch_size": "8,16,32,64"}

_HINT = "Write LOW:HIGH, LOW:HIGH:STEP or a list with commas, as 1e-4:1e-1, 8:64:8, 8,16,32."


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`, both included, in steps or even on a log scale."""

    low: float
    high: float
    step: float | None
    logarithmic: bool
    whole: bool

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return not self.whole or float(value).is_integer()
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def distribution(self) -> "BaseDistribution":
        """What Optuna draws from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.logarithmic, step=step)
        return FloatDistribution(self.low, self.high, log=self.logarithmic, step=self.step)

    def num_values(self) -> int | None:
        """How many there are; None where they cannot be counted."""
        if self.step is None and not self.whole:
            return None
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def largest(self) -> float:
        """The greatest value, within a step of `high`."""
        count = self.num_values()
        return self.high if count is None else float(self.value_at(count - 1))

    def value_at(self, place: int) -> Any:
        """The value at `place`, counted from 0."""
        value = self.low + (self.step or 1) * place
        return int(value) if self.whole else value

    def text(self) -> str:
        """As it is typed."""
        ends = f"{as_text(self.low)}:{as_text(self.high)}"
        return ends if self.step is None else f"{ends}:{as_text(self.step)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    options: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def distribution(self) -> "BaseDistribution":
        """What Optuna draws from."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def num_values(self) -> int | None:
        """How many there are."""
        return len(self.options)

    def largest(self) -> float:
        """The greatest of the numbers."""
        return float(max(self.options))

    def value_at(self, place: int) -> Any:
        """The value at `place`, counted from 0."""
        return self.options[place]

    def text(self) -> str:
        """As it is typed."""
        return ",".join(map(as_text, self.options))


Dimension = Range | Choice


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings as one line that does not depend on their order."""
    return json.dumps(dict(settings), sort_keys=True)


def is_searched(setting: Setting, value: Any) -> bool:
    """Whether a setting's value, as given, is meant as a range or a choice."""
    if not isinstance(value, str):
        return isinstance(value, list | tuple)
    if setting.type in (int, float):
        return ":" in value or "," in value
    return setting.rule.searchable and "," in value  # paths and addresses hold colons


def parse_dimension(setting: Setting, value: Any) -> Dimension:
    """A range or choice of `setting` out of its text, or out of a list of values.

    Raises:
        InvalidParameterError: The text is neither, a value is not legal, or the ends are turned
            round.
    """
    if not setting.rule.searchable:
        raise InvalidParameterError(
            f"{setting.name}={as_text(value)}: {setting.name} cannot be searched", "Give one value."
        )
    if isinstance(value, list | tuple):
        return Choice(_parse_choice(setting, value))
    if "," in value:
        return Choice(_parse_choice(setting, [part.strip() for part in value.split(",")]))
    return _parse_range(setting, value)


def _parse_choice(setting: Setting, parts: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(setting.parse(part) for part in parts))


def _parse_range(setting: Setting, text: str) -> Range:
    parts = [part.strip() for part in text.split(":")]
    if setting.type not in (int, float) or len(parts) not in (2, 3):
        raise InvalidParameterError(f"{setting.name}={text} is no range", _HINT)
    low, high = (setting.parse(part) for part in parts[:2])
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise InvalidParameterError(f"{setting.name}={text} is no range", _HINT)
    if low >= high:
        raise InvalidParameterError(
            f"{setting.name}={text} ends at or before its beginning", f"Write {high}:{low}."
        )
    step = _parse_step(setting, text, parts[2], high - low) if len(parts) == 3 else None
    logarithmic = setting.rule.logarithmic and step is None and low > 0
    return Range(low, high, step, logarithmic, whole=setting.type is int)


def _parse_step(setting: Setting, text: str, step_text: str, span: float) -> float:
    try:
        step = setting.type(step_text)
    except ValueError:
        step = math.nan
    if not 0 < step <= span:
        raise InvalidParameterError(
            f"{setting.name}={text} has a step that does not fit into it", _HINT
        )
    return float(step) if setting.type is float else int(step)


@dataclass(frozen=True, slots=True)
class Space:
    """The searched settings by name."""

    dimensions: Mapping[str, Dimension]

    def distributions(self) -> "dict[str, BaseDistribution]":
        """What Optuna draws each setting from."""
        return {name: each.distribution() for name, each in self.dimensions.items()}

    def texts(self) -> dict[str, str]:
        """Each setting as it is typed."""
        return {name: each.text() for name, each in self.dimensions.items()}

    def fitting(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `values` that the space can hold."""
        return {
            name: values[name]
            for name, each in self.dimensions.items()
            if name in values and values[name] in each
        }

    def endless(self) -> list[str]:
        """The settings whose values cannot be counted."""
        return [name for name, each in self.dimensions.items() if each.num_values() is None]

    def grid(self, most: int, seed: int) -> list[dict[str, Any]]:
        """At most `most` combinations, each once, in an order drawn from `seed`.

        Raises:
            ValueError: A setting's values cannot be counted.
        """
        counts = [each.num_values() for each in self.dimensions.values()]
        if None in counts:
            raise ValueError("values without number")
        sizes = [count or 0 for count in counts]
        places = random.Random(seed).sample(range(math.prod(sizes)), min(most, math.prod(sizes)))
        return [self._point(place, sizes) for place in places]

    def _point(self, place: int, sizes: Sequence[int]) -> dict[str, Any]:
        values = {}
        for (name, each), size in zip(self.dimensions.items(), sizes, strict=True):
            place, digit = divmod(place, size)
            values[name] = each.value_at(digit)
        return values
