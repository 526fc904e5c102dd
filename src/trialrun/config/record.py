"""Settings as YAML: the record of a run with the exact values, and files that users write."""

from collections.abc import Mapping
from typing import Any

import yaml

from trialrun.config.settings import NONE_TEXT, list_values
from trialrun.errors import redact_credentials

SETTINGS_FILE = "config.yaml"  # an artifact of every training and search

_TAG = "tag:yaml.org,2002:"
_TAGS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}


class _Dumper(yaml.SafeDumper):
    """Writes every text in double quotes, so that no YAML reader parses `on` or `1e-3`."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(f"{_TAG}str", text, style='"')


def _represent_settings(dumper: yaml.SafeDumper, values: Mapping[str, Any]) -> yaml.MappingNode:
    """Write the names of settings without quotes."""
    pairs = [
        (yaml.ScalarNode(f"{_TAG}str", name), dumper.represent_data(value))
        for name, value in values.items()
    ]
    return yaml.MappingNode(f"{_TAG}map", pairs, flow_style=False)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(dict, _represent_settings)


def format_record(config: Any, *, is_public: bool = False) -> str:
    """Return the values of all settings of `config` as YAML, one per line.

    `is_public` leaves out users, passwords and signatures of URLs.
    """
    return format_values(list_values(config), is_public=is_public)


def format_values(values: Mapping[str, Any], *, is_public: bool = False) -> str:
    """Return settings as YAML, one per line; `is_public` is as in `format_record`."""
    if is_public:
        values = {
            name: redact_credentials(value) if isinstance(value, str) else value
            for name, value in values.items()
        }
    return yaml.dump(dict(values), Dumper=_Dumper, allow_unicode=True, width=float("inf"))


def parse_record(text: str) -> dict[str, str]:
    """Parse the text of `format_record`; return the values as texts that `build_config` reads.

    Raises:
        ValueError: Not a YAML mapping of names to plain values.
    """
    values: dict[str, str] = {}
    for name, value in parse_values(text).items():
        if isinstance(value, list):
            raise ValueError(f"{name} is a list")
        values[name] = value
    return values


def parse_values(text: str) -> dict[str, str | list[str]]:
    """Parse YAML that maps names to plain values or lists of them; return them as written.

    A value is not converted to YAML's types, which would change some: YAML 1.1 reads `1e-3` as a
    text, `no` as false, `1:30` as 90 and `010` as 8. No Python object is ever created.

    Raises:
        ValueError: Not such a mapping, or a name occurs twice.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(_describe(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(root, yaml.MappingNode):
        raise ValueError("not a mapping of names to plain values")
    values: dict[str, str | list[str]] = {}
    for name_node, node in root.value:
        name = _read_scalar(name_node)
        if name in values:
            raise ValueError(f"{name} is set twice, again in line {name_node.start_mark.line + 1}")
        values[name] = (
            [_read_scalar(item) for item in node.value]
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq"
            else _read_scalar(node)
        )
    return values


def _read_scalar(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag not in _TAGS:
        raise ValueError(f"line {node.start_mark.line + 1} has a value that is not plain")
    return NONE_TEXT if node.tag == f"{_TAG}null" else str(node.value)


def _describe(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}: " if mark is not None else ""
    return f"{place}{getattr(error, 'problem', None) or error}"
