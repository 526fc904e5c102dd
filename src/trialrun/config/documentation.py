"""Signatures and docstrings of the library functions, generated from the declared settings."""

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trialrun.config.settings import Setting, as_text, list_settings

_Function = TypeVar("_Function", bound=Callable[..., Any])
_WIDTH = 96


def document_settings(*configs: type) -> Callable[[_Function], _Function]:
    """Let a function with `**settings` show the settings of `configs` as keyword parameters.

    `help` and `inspect.signature`, and with them notebooks, then show each name, its legal values
    and its default. The static types of the same keywords are in `trialrun.config.keywords`.
    """
    items = [item for config in configs for item in list_settings(config)]

    def decorate(function: _Function) -> _Function:
        function.__doc__ = _extend_docstring(function.__doc__ or "", items)
        function.__signature__ = _extend_signature(function, items)  # type: ignore[attr-defined]
        return function

    return decorate


def _extend_signature(function: Callable[..., Any], items: list[Setting]) -> inspect.Signature:
    signature = inspect.signature(function)
    own = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    settings = [
        inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default)
        for item in items
    ]
    return signature.replace(parameters=[*own, *settings])


def _extend_docstring(docstring: str, items: list[Setting]) -> str:
    text = inspect.cleandoc(docstring)
    head, separator, tail = text.partition("\nRaises:")
    return "\n".join([head, "Settings:", *_describe_settings(items), separator + tail])


def _describe_settings(items: list[Setting]) -> Iterator[str]:
    wrapper = textwrap.TextWrapper(
        _WIDTH, initial_indent="    ", subsequent_indent=" " * 8, break_on_hyphens=False
    )
    for item in items:
        default = as_text(item.default)
        yield wrapper.fill(
            f"{item.name}: {item.rule.help} ({item.legal_values}; default {default})"
        )
