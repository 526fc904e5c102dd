"""The search space: ranges and choices of settings, and the parser of their text form.

`1e-4:1e-1` is a range, `8:64:8` a range in steps, `8,16,32` a choice. Optuna is imported only to
build distributions.
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

_HINT = "Write LOW:HIGH, LOW:HIGH:STEP or a comma-separated list: 1e-4:1e-1, 8:64:8, 8,16,32."


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high` inclusive: in steps, uniform or log-uniform."""

    low: float
    high: float
    step: float | None
    logarithmic: bool
    integer: bool

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        if self.step is None:
            return not self.integer or float(value).is_integer()
        steps = (value - self.low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def distribution(self) -> "BaseDistribution":
        """Return the distribution that Optuna samples from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.integer:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), log=self.logarithmic, step=step)
        return FloatDistribution(self.low, self.high, log=self.logarithmic, step=self.step)

    def num_values(self) -> int | None:
        """Return the number of values; None for real numbers without a step."""
        if self.step is None and not self.integer:
            return None
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1

    def largest(self) -> float:
        """Return the largest value: at most one step below `high`."""
        count = self.num_values()
        return self.high if count is None else float(self.value_at(count - 1))

    def value_at(self, index: int) -> Any:
        """Return the value at `index`, counted from 0."""
        value = self.low + (self.step or 1) * index
        return int(value) if self.integer else value

    def text(self) -> str:
        """Return the text form, as in a flag."""
        ends = f"{as_text(self.low)}:{as_text(self.high)}"
        return ends if self.step is None else f"{ends}:{as_text(self.step)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """A list of values to choose from."""

    options: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def distribution(self) -> "BaseDistribution":
        """Return the distribution that Optuna samples from."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.options)

    def num_values(self) -> int | None:
        """Return the number of options."""
        return len(self.options)

    def largest(self) -> float:
        """Return the largest option, which must be a number."""
        return float(max(self.options))

    def value_at(self, index: int) -> Any:
        """Return the value at `index`, counted from 0."""
        return self.options[index]

    def text(self) -> str:
        """Return the text form, as in a flag."""
        return ",".join(map(as_text, self.options))


Dimension = Range | Choice


def format_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as one line of JSON with sorted names: equal settings have equal lines."""
    return json.dumps(dict(settings), sort_keys=True)


def is_searched(setting: Setting, value: Any) -> bool:
    """Whether a raw value of a setting is a range or a choice."""
    if not isinstance(value, str):
        return isinstance(value, list | tuple)
    if setting.type in (int, float):
        return ":" in value or "," in value
    return setting.rule.searchable and "," in value  # paths and URLs contain colons


def parse_dimension(setting: Setting, value: Any) -> Dimension:
    """Parse the range or choice of a setting from its text, or from a list of values.

    Raises:
        InvalidParameterError: The text is neither, a value is not legal, or the ends are reversed.
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
        raise InvalidParameterError(f"{setting.name}={text} is not a range", _HINT)
    low, high = (setting.parse(part) for part in parts[:2])
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        raise InvalidParameterError(f"{setting.name}={text} is not a range", _HINT)
    if low == high:
        raise InvalidParameterError(
            f"{setting.name}={text} starts and ends at {parts[0]}", f"Write {parts[0]} to fix it."
        )
    if low > high:
        reversed_text = ":".join((parts[1], parts[0], *parts[2:]))
        raise InvalidParameterError(
            f"{setting.name}={text} ends below its start", f"Write {reversed_text}."
        )
    step = _parse_step(setting, text, parts[2], high - low) if len(parts) == 3 else None
    logarithmic = setting.rule.logarithmic and step is None and low > 0
    return Range(low, high, step, logarithmic, integer=setting.type is int)


def _parse_step(setting: Setting, text: str, step_text: str, span: float) -> float:
    try:
        step = setting.type(step_text)
    except ValueError:
        step = math.nan
    if not 0 < step <= span:
        raise InvalidParameterError(
            f"{setting.name}={text}: the step must be above 0 and at most HIGH - LOW", _HINT
        )
    return float(step) if setting.type is float else int(step)


@dataclass(frozen=True, slots=True)
class Space:
    """The searched settings by name."""

    dimensions: Mapping[str, Dimension]

    def distributions(self) -> "dict[str, BaseDistribution]":
        """Return Optuna's distribution of each setting."""
        return {name: dimension.distribution() for name, dimension in self.dimensions.items()}

    def texts(self) -> dict[str, str]:
        """Return the text form of each setting."""
        return {name: dimension.text() for name, dimension in self.dimensions.items()}

    def select_valid(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of `values` that are inside the space."""
        return {
            name: values[name]
            for name, dimension in self.dimensions.items()
            if name in values and values[name] in dimension
        }

    def list_uncountable(self) -> list[str]:
        """Return the settings with uncountably many values."""
        return [name for name, dim in self.dimensions.items() if dim.num_values() is None]

    def sample_grid(self, max_points: int, seed: int) -> list[dict[str, Any]]:
        """Return up to `max_points` distinct combinations, in an order drawn from `seed`.

        Raises:
            ValueError: A setting's values cannot be counted.
        """
        counts = [dimension.num_values() for dimension in self.dimensions.values()]
        if None in counts:
            raise ValueError("the values cannot be counted")
        sizes = [count or 0 for count in counts]
        num_points = math.prod(sizes)
        indices = random.Random(seed).sample(range(num_points), min(max_points, num_points))
        return [self._point_at(index, sizes) for index in indices]

    def _point_at(self, index: int, sizes: Sequence[int]) -> dict[str, Any]:
        values = {}
        for (name, dimension), size in zip(self.dimensions.items(), sizes, strict=True):
            index, remainder = divmod(index, size)
            values[name] = dimension.value_at(remainder)
        return values
