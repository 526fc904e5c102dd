"""Generates `trialrun.config.keywords`: the static types of the library's keyword parameters."""

from collections.abc import Iterator

from trialrun.config import SearchConfig, Setting, TrainConfig, list_settings
from trialrun.config.evaluate import EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.reproduce import ReproduceConfig
from trialrun.config.score import ScoreConfig

_HEADER = '''"""Types of the keyword parameters of `trialrun.train` and the other library functions.

Written by `make generate` from the settings that `trialrun.config` declares.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict
'''
_CLASSES = (
    ("TrainKeywords", "Settings of a training run.", TrainConfig),
    ("EvaluateKeywords", "Settings of an evaluation.", EvaluateConfig),
    ("ScoreKeywords", "Settings of bulk scoring.", ScoreConfig),
    ("PromoteKeywords", "Settings of a promotion.", PromoteConfig),
    ("ReproduceKeywords", "Settings of a reproduction.", ReproduceConfig),
)


def keyword_types() -> str:
    """Return the source of the module, formatted."""
    classes = [_write_class(name, doc, _list_fields(config)) for name, doc, config in _CLASSES]
    search = [
        *((item, _search_type(item)) for item in list_settings(TrainConfig)),
        *_list_fields(SearchConfig),
    ]
    doc = "Settings of a search; those of `train` also as a range or a choice."
    return "\n\n".join([_HEADER, *classes, _write_class("SearchKeywords", doc, search)])


def _list_fields(config: type) -> list[tuple[Setting, str]]:
    return [(item, _value_type(item)) for item in list_settings(config)]


def _write_class(name: str, doc: str, fields: list[tuple[Setting, str]]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", f'    """{doc}"""', ""]
    lines += [f"    {item.name}: {kind}" for item, kind in fields]
    return "\n".join(lines) + "\n"


def _value_type(item: Setting) -> str:
    return " | ".join(_value_types(item))


def _value_types(item: Setting) -> Iterator[str]:
    if item.rule.choices:
        yield "Literal[" + ", ".join(f'"{choice}"' for choice in item.rule.choices) + "]"
    else:
        yield item.type.__name__
    if item.rule.path:
        yield "PathLike[str]"
    if item.rule.auto:
        yield 'Literal["auto"]'
    if item.optional:
        yield "None"


def _search_type(item: Setting) -> str:
    """A range or a choice is text, or a sequence of values; not every setting is searched."""
    own = _value_type(item)
    if not item.rule.searchable:
        return own
    words = [own] if item.type is str and not item.rule.choices else [own, "str"]
    return " | ".join([*words, f"Sequence[{own}]"])
