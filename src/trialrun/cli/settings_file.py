"""Settings files: `--config FILE` reads the settings of a command, `--save-config` writes them.

A file is a YAML mapping of the names of settings to values. Flags replace its values.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from trialrun.cli.output import print_json, print_result, print_status
from trialrun.config import Setting, list_settings
from trialrun.config.record import parse_values
from trialrun.errors import InvalidParameterError, TrialrunError, merge_errors, summarize_error
from trialrun.files import write_atomically
from trialrun.runs.datasets.outputs import output_folder

ConfigFile = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="YAML file of settings, such as config.yaml of a run; flags replace its values.",
    ),
]
SaveConfig = Annotated[
    str | None,
    typer.Option(
        "--save-config",
        metavar="FILE",
        help="Write all settings of this command line to a YAML file and exit.",
    ),
]
CheckSetting = Callable[[Setting, Any], object]

_SWITCHES = {"on": "true", "off": "false"}  # of YAML, for a boolean


def merge_settings(
    path: str | None, flags: Mapping[str, Any], *configs: type, check: CheckSetting
) -> dict[str, Any]:
    """Return the settings in the file `path`, if any, replaced by those of the flags.

    `check` raises InvalidParameterError for a value that its setting does not accept.

    Raises:
        InvalidParameterError: The file cannot be read, or one error that names the file with every
            unknown name and every invalid value, and the invalid flags.
    """
    if path is None:
        return dict(flags)
    settings = {item.name: item for config in configs for item in list_settings(config)}
    values = {name: _adapt_value(settings.get(name), value) for name, value in _read(path).items()}
    problems: list[TrialrunError] = [
        *_find_problems(path, values, settings, check),
        *_find_problems("", flags, settings, check),
    ]
    if problems:
        raise merge_errors(problems)
    return {**values, **flags}


def _read(path: str) -> dict[str, str | list[str]]:
    try:
        return parse_values(Path(path).expanduser().read_text("utf-8-sig"))
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else summarize_error(error)
        raise InvalidParameterError(
            f"config={path} cannot be read: {reason}",
            "Write one setting per line, as in `epochs: 10`; --save-config writes such a file.",
        ) from None


def _adapt_value(setting: Setting | None, value: str | list[str]) -> str | list[str]:
    """Read `on` and `off` as YAML does for a boolean, and join the values of a repeated flag."""
    if setting is None:
        return value
    if isinstance(value, list):
        return ",".join(value) if setting.rule.repeats else value
    return _SWITCHES.get(value.lower(), value) if setting.type is bool else value


def _find_problems(
    path: str, values: Mapping[str, Any], settings: Mapping[str, Setting], check: CheckSetting
) -> Iterator[InvalidParameterError]:
    for name, value in values.items():
        if name not in settings:
            yield _make_unknown_error(path, name, tuple(settings))
            continue
        try:
            check(settings[name], value)
        except InvalidParameterError as error:
            yield InvalidParameterError(f"{path}: {error}" if path else str(error), error.hint)


def _make_unknown_error(path: str, name: str, known: Sequence[str]) -> InvalidParameterError:
    close = get_close_matches(name.replace("-", "_"), known, n=1)
    hint = f"Did you mean {close[0]}?" if close else "`--help` lists the settings."
    return InvalidParameterError(f"{path}: there is no setting {name}", hint)


def parse_value(setting: Setting, value: Any) -> object:
    """Parse the value of a setting that has one value.

    Raises:
        InvalidParameterError: The value is a list, or not legal.
    """
    if isinstance(value, list):
        raise InvalidParameterError(
            f"{setting.name} is a list, not one value",
            f"Set {setting.name} to {setting.legal_values}.",
        )
    return setting.parse(value)


def save_settings(path: str, text: str, command: str, *, json: bool) -> None:
    """Write the settings of a command as YAML to the file `path`, and print that nothing started.

    Raises:
        StorageError: The file cannot be written.
        InvalidParameterError: `path` begins with `~name` of an unknown user.
    """
    header = (
        f"# Settings of `trialrun {command}`; start it with `trialrun {command} --config FILE`."
    )
    write_atomically(output_folder(path), f"{header}\n{text}")
    if json:
        print_json({"config": path})
    else:
        print_result(f"Settings written to {path}; `trialrun {command} --config` starts from it.")
    print_status("Nothing was started, because --save-config only writes the file.")
