"""One flag a setting: names, help, ranges and defaults come from `config`.

Flags hand their text over as typed: `config` judges it, so that every wrong value is told in one
answer, in the same words whichever door it came through.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from trialrun.config import Setting, as_text, list_settings

_SWITCHES: dict[str, set[str]] = {}  # by command, its settings' flags of truth values


def add_switch_values(arguments: list[str]) -> list[str]:
    """`arguments` with a `true` after every switch that stands alone.

    MLproject hands every setting over with its value, `--strict false`; people write `--strict`.
    """
    switches = _SWITCHES.get(arguments[0], set()) if arguments else set()
    given: list[str] = []
    for place, argument in enumerate(arguments):
        given.append(argument)
        following = arguments[place + 1 : place + 2]
        if argument in switches and (not following or following[0].startswith("-")):
            given.append("true")
    return given


def flags_for(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag a setting of `config`; it is called with those given, as texts.

    The command's own parameters come first; its `**settings` takes the flags.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        flags = [_make_flag(item) for item in list_settings(config)]
        names = {item.name for item in list_settings(config)}
        switches = _SWITCHES.setdefault(command.__name__, set())
        switches.update(item.flag for item in list_settings(config) if item.type is bool)

        def called(**values: Any) -> None:
            given = {
                name: ",".join(value) if name in names and isinstance(value, list) else value
                for name, value in values.items()
                if name not in names or value not in (None, [])
            }
            command(**given)

        called.__name__, called.__doc__ = command.__name__, command.__doc__
        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        parameters = [*keyword_only, *flags]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in parameters}
        return called

    return decorate


def _make_flag(item: Setting) -> inspect.Parameter:
    option = typer.Option(
        item.flag,
        metavar=item.legal_values,
        help=f"{item.rule.help} [default: {as_text(item.default)}]",
        show_default=False,
    )
    annotation = (
        Annotated[list[str] | None, option] if item.rule.repeats else Annotated[str | None, option]
    )
    return inspect.Parameter(
        item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
