"""The record of a run's settings: YAML text with the exact values."""

from collections.abc import Mapping
from typing import Any

import yaml

from trialrun.config.settings import as_text, list_settings


class _Dumper(yaml.SafeDumper):
    """Writes every text in double quotes, so that no YAML reader parses `on` or `1e-3`."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


def _represent_settings(dumper: yaml.SafeDumper, values: Mapping[str, Any]) -> yaml.MappingNode:
    """Write the names of settings without quotes."""
    pairs = [
        (yaml.ScalarNode("tag:yaml.org,2002:str", name), dumper.represent_data(value))
        for name, value in values.items()
    ]
    return yaml.MappingNode("tag:yaml.org,2002:map", pairs, flow_style=False)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(dict, _represent_settings)


def format_record(config: Any) -> str:
    """Return the values of all settings of `config` as YAML, one per line."""
    values = {item.name: getattr(config, item.name) for item in list_settings(type(config))}
    return yaml.dump(values, Dumper=_Dumper, allow_unicode=True, width=float("inf"))


def parse_record(text: str) -> dict[str, str]:
    """Parse the text of `format_record`; return the values as texts that `build_config` reads.

    Raises:
        ValueError: Not a YAML mapping of names to plain values.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, str | int | float | None)
        for name, value in values.items()
    ):
        raise ValueError("not a mapping of names to plain values")
    return {name: as_text(value) for name, value in values.items()}
