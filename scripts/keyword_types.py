"""Generates `trialrun.config.keywords`: the static types of the library's keyword parameters.

The text is formatted as `ruff format` does.
"""

from trialrun.config import SearchConfig, Setting, TrainConfig, list_settings
from trialrun.config.evaluate import CompareConfig, EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.reproduce import ReproduceConfig
from trialrun.config.resume import ResumeConfig
from trialrun.config.score import ScoreConfig

_HEADER = '''"""Types of the keyword parameters of `trialrun.train` and the other library functions.

Written by `make generate` from the settings that `trialrun.config` declares.
"""

from collections.abc import Sequence
from os import PathLike
from typing import Literal, TypedDict
'''
_LINE_LENGTH = 100  # of pyproject.toml
_CLASSES = (
    ("TrainKeywords", "Settings of a training run.", TrainConfig),
    ("EvaluateKeywords", "Settings of an evaluation.", EvaluateConfig),
    ("ScoreKeywords", "Settings of bulk scoring.", ScoreConfig),
    ("PromoteKeywords", "Settings of a promotion.", PromoteConfig),
    ("ResumeKeywords", "Settings of a resumption.", ResumeConfig),
    ("ReproduceKeywords", "Settings of a reproduction.", ReproduceConfig),
    ("CompareKeywords", "Settings of a comparison of runs.", CompareConfig),
)


def render_keywords() -> str:
    """Return the source of the module."""
    classes = [_render_class(name, doc, _list_fields(config)) for name, doc, config in _CLASSES]
    search_fields = [
        *((setting.name, _list_search_types(setting)) for setting in list_settings(TrainConfig)),
        *_list_fields(SearchConfig),
    ]
    doc = "Settings of a search; those of `train` also as a range or a choice."
    text = "\n\n".join([_HEADER, *classes, _render_class("SearchKeywords", doc, search_fields)])
    return text if "PathLike[" in text else text.replace("from os import PathLike\n", "")


def _list_fields(config: type) -> list[tuple[str, list[str]]]:
    return [(setting.name, _list_types(setting)) for setting in list_settings(config)]


def _list_types(setting: Setting) -> list[str]:
    if setting.rule.choices:
        choices = ", ".join(f'"{choice}"' for choice in setting.rule.choices)
        types = [f"Literal[{choices}]"]
    else:
        types = [setting.type.__name__]
    if setting.rule.path:
        types.append("PathLike[str]")
    if setting.rule.words:
        words = ", ".join(f'"{word}"' for word in setting.rule.words)
        types.append(f"Literal[{words}]")
    if setting.rule.auto:
        types.append('Literal["auto"]')
    return [*types, "None"] if setting.optional else types


def _list_search_types(setting: Setting) -> list[str]:
    """Return the types of one value, and of a range or choices: a text or a sequence of values."""
    types = _list_types(setting)
    if not setting.rule.searchable:
        return types
    sequence = f"Sequence[{' | '.join(types)}]"
    types = [*(name for name in types if name != "None"), "str", sequence]
    return list(dict.fromkeys([*types, "None"] if setting.optional else types))


def _render_class(name: str, doc: str, fields: list[tuple[str, list[str]]]) -> str:
    lines = [f"class {name}(TypedDict, total=False):", f'    """{doc}"""', ""]
    for field, types in fields:
        lines += _render_field(field, types)
    return "\n".join(lines) + "\n"


def _render_field(field: str, types: list[str]) -> list[str]:
    text = " | ".join(types)
    line = f"    {field}: {text}"
    if len(line) <= _LINE_LENGTH:
        return [line]
    if len(text) + 8 <= _LINE_LENGTH:
        return [f"    {field}: (", f"        {text}", "    )"]
    union = [f"        {types[0]}", *(f"        | {name}" for name in types[1:])]
    return [f"    {field}: (", *union, "    )"]
