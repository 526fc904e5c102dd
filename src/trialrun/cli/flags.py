"""Command-line flags of settings, made from their declarations in `config`.

The flags pass their values on as text. `config` parses and checks them, so that one error names
every invalid value, with the same message from every entry point.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.models import ArgumentInfo

from trialrun.cli.completion import find_completer
from trialrun.config import Setting, as_text, list_settings
from trialrun.config.settings import BOOLEANS

_BOOL_FLAGS: dict[str, set[str]] = {}  # by command name
_COMMANDS_WITH_ARGUMENTS: set[str] = set()


def add_switch_values(arguments: list[str]) -> list[str]:
    """Return `arguments` with `true` inserted after every boolean flag that has no value.

    MLproject passes a value with every flag (`--strict false`); users type `--strict` alone.
    """
    command = _name_function(arguments)
    bool_flags = _BOOL_FLAGS.get(command, set())
    completed: list[str] = []
    for index, argument in enumerate(arguments):
        completed.append(argument)
        following = arguments[index + 1 : index + 2]
        if argument in bool_flags and not (following and _is_value(command, following[0])):
            completed.append("true")
    return completed


def _name_function(arguments: Sequence[str]) -> str:
    """Return the name of a command's function: `train`, or `check_data` for `data check`."""
    if arguments and arguments[0] in _BOOL_FLAGS:
        return arguments[0]
    return "_".join(reversed(arguments[:2]))


def _is_value(command: str, word: str) -> bool:
    """Whether `word`, after a boolean flag, is its value, even an invalid one.

    If the command takes arguments, any word but a boolean is one of them.
    """
    if command in _COMMANDS_WITH_ARGUMENTS:
        return word.lower() in BOOLEANS
    return not word.startswith("-")


def flags_for(config: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one flag per setting of `config`.

    The command declares its own parameters and `**settings`, which receives the texts of the flags
    that the user set. The help lists the command's own parameters first, `--json` last.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        settings = list_settings(config)
        names = {setting.name for setting in settings}
        bool_flags = _BOOL_FLAGS.setdefault(command.__name__, set())
        bool_flags.update(setting.flag for setting in settings if setting.type is bool)

        def command_with_flags(**values: Any) -> None:
            set_values = {
                name: ",".join(value) if name in names and isinstance(value, list) else value
                for name, value in values.items()
                if name not in names or value not in (None, [])
            }
            command(**set_values)

        command_with_flags.__name__, command_with_flags.__doc__ = command.__name__, command.__doc__
        parameters = [*_list_own_parameters(command), *map(_make_flag, settings)]
        if any(_is_argument(parameter) for parameter in parameters):
            _COMMANDS_WITH_ARGUMENTS.add(command.__name__)
        parameters.sort(key=lambda parameter: parameter.name == "json")
        _set_parameters(command_with_flags, parameters)
        return command_with_flags

    return decorate


def _list_own_parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def _is_argument(parameter: inspect.Parameter) -> bool:
    metadata = getattr(parameter.annotation, "__metadata__", ())
    return any(isinstance(item, ArgumentInfo) for item in metadata)


def _set_parameters(command: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Set the signature that Typer reads."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def _make_flag(setting: Setting) -> inspect.Parameter:
    option = typer.Option(
        setting.flag,
        metavar=f"<{setting.legal_values}>",
        help=f"{setting.rule.help} [default: {as_text(setting.default)}]",
        show_default=False,
        autocompletion=find_completer(setting),
    )
    annotation = (
        Annotated[list[str] | None, option]
        if setting.rule.repeats
        else Annotated[str | None, option]
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )
