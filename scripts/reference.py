"""The pages of docs/reference, made from the code: commands, settings, errors, metrics, Python.

`scripts.project_files` writes them with the other generated files.
"""

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import typer

import trialrun
from scripts.metrics import EPOCH_METRICS, EVALUATION_METRICS, SUMMARY_METRICS
from trialrun import errors
from trialrun.cli.commands import app
from trialrun.config import SearchConfig, Setting, TrainConfig, as_text, list_settings
from trialrun.config.search import METRIC_DIRECTIONS

_NOTICE = "<!-- Written by `make generate`. -->"
_DEPRECATED = {"run_search"}
_OWN_PAGE = {"train": (TrainConfig,), "search": (TrainConfig, SearchConfig)}  # settings.md
_INTERRUPTED = "a signal stopped the command; the run is KILLED and can be resumed"
_FAILED = "training failed (the loss became NaN or infinite), or a bug in trialrun"
_Row = Sequence[str]


def render_pages() -> dict[str, str]:
    """Return the text of each page by its name."""
    return {
        "commands.md": render_commands(),
        "settings.md": render_settings(),
        "errors.md": render_errors(),
        "metrics.md": render_metrics(),
        "python.md": render_python(),
    }


def _render_page(title: str, *parts: str) -> str:
    return "\n\n".join([_NOTICE, f"# {title}", *parts]) + "\n"


def _render_table(heads: _Row, rows: Sequence[_Row]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(_escape_cell, line)) + " |" for line in lines)


def _escape_cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text).replace("\n", " ").replace("<", "&lt;")


def render_commands() -> str:
    """Return the page of all commands with their arguments and options."""
    intro = (
        "`trialrun COMMAND --help` prints the same. Every command also takes `-q` or `--quiet` "
        "(hide progress and status lines) and `--debug` (print the traceback of an error), and "
        "`trialrun --version` prints the version. What the exit codes mean: [errors](errors.md)."
    )
    root = typer.main.get_command(app)
    return _render_page("Commands", intro, *_render_group(root, ()))


def _render_group(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name in group.list_commands(None):
        command = group.commands[name]
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from _render_group(command, (*path, name))
        else:
            yield "\n\n".join(_render_command(command, (*path, name)))


def _render_command(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    name = " ".join(path)
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    yield f"## trialrun {name}"
    words = [_name_argument(item) for item in arguments]
    yield "\n".join(["```text", " ".join(["trialrun", name, *words, "[OPTIONS]"]), "```"])
    yield _as_markdown(inspect.cleandoc(command.help or ""))
    on_own_page = {
        item.flag for config in _OWN_PAGE.get(name, ()) for item in list_settings(config)
    }
    options = [item for item in command.params if item not in arguments]
    rows: list[_Row] = [[f"`{_name_argument(item)}`", "", item.help or ""] for item in arguments]
    rows += [_render_option(item) for item in options if item.opts[0] not in on_own_page]
    yield _render_table(["argument or option", "values", "meaning"], rows)
    if on_own_page:
        yield f"Also every setting of the page [Settings](settings.md#settings-of-{name})."


def _name_argument(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    name = f"{name}..." if argument.nargs == -1 else name
    return name if argument.required else f"[{name}]"


def _render_option(option: Any) -> _Row:
    values = "" if option.is_flag else (option.metavar or str(option.display_type)).strip("<>")
    help_text = (option.help or "") + (" Required." if option.required else "")
    return [
        ", ".join(f"`{text}`" for text in (*option.opts, *option.secondary_opts)),
        values,
        help_text,
    ]


def render_settings() -> str:
    """Return the page of the settings of `train` and `search`."""
    intro = (
        "A setting has one name everywhere: with dashes as a flag (`--batch-size 32`), with "
        "underscores as a parameter of `mlflow run` (`-P batch_size=32`), in a "
        "[file of settings](../settings.md), as a keyword of the Python function and as a "
        "parameter of the MLflow run. The settings of other commands are on the page "
        "[Commands](commands.md)."
    )
    return _render_page(
        "Settings",
        intro,
        "## Settings of train",
        _render_settings_table(list_settings(TrainConfig)),
        "## Settings of search",
        "Beside those of `train`, which take a value, a range or a choice "
        "([Searching settings](../search.md)):",
        _render_settings_table(list_settings(SearchConfig)),
    )


def _render_settings_table(settings: Sequence[Setting]) -> str:
    rows = [
        [f"`{item.name}`", item.legal_values, f"`{as_text(item.default)}`", item.rule.help]
        for item in settings
    ]
    return _render_table(["setting", "values", "default", "meaning"], rows)


def render_errors() -> str:
    """Return the page of the errors and exit codes."""
    intro = (
        "A command that fails prints two lines on standard error: what was found, and what to do. "
        "`--debug` adds the traceback. The functions of the Python library raise these classes "
        "of `trialrun.errors`; their attributes `exit_code` and `hint` have the same contents."
    )
    rows = [
        [str(error.exit_code), f"`{error.__name__}`", _summarize(error)] for error in _list_errors()
    ]
    rows.insert(0, ["1", "", _FAILED])
    rows.append([str(errors.RunInterruptedError.exit_code), "", _INTERRUPTED])
    table = _render_table(["exit", "error", "cause"], rows)
    return _render_page("Errors and exit codes", intro, table, "An exit code of 0 is success.")


def _list_errors() -> list[type[errors.TrialrunError]]:
    """Return the errors that users see, by exit code."""
    found = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value)
        and issubclass(value, errors.TrialrunError)
        and value not in (errors.TrialrunError, errors.DataError, errors.FirstRankFailedError)
    ]
    return sorted(found, key=lambda error: error.exit_code)


def _summarize(documented: Any) -> str:
    return inspect.cleandoc(documented.__doc__ or "").replace("\n\n", " ").replace("\n", " ")


def render_metrics() -> str:
    """Return the page of the metrics of runs."""
    epoch = [
        [f"`{name}`", text, METRIC_DIRECTIONS.get(name, "")] for name, text in EPOCH_METRICS.items()
    ]
    return _render_page(
        "Metrics",
        "## Of each epoch of a training",
        "The step is the epoch, from 1. `--metric` of a search takes those with a direction.",
        _render_table(["metric", "meaning", "direction in a search"], epoch),
        "## Of a whole training",
        "Runs are compared by these: MLflow's tables show the value of the last epoch for the "
        "others, which may not be the best. MLflow's system metrics (`system/…`) are beside them.",
        _render_table(
            ["metric", "meaning"], [[f"`{name}`", text] for name, text in SUMMARY_METRICS.items()]
        ),
        "## Of an evaluation",
        "`evaluate` and `promote` log them, each with the limits of its interval (`NAME_low`, "
        "`NAME_high`). The [report](../report.md) has others.",
        _render_table(
            ["metric", "meaning"],
            [[f"`{name}`", text] for name, text in EVALUATION_METRICS.items()],
        ),
    )


def render_python() -> str:
    """Return the page of the functions of `trialrun`."""
    names = [
        name
        for name in sorted(set(trialrun.__all__) - _DEPRECATED)
        if inspect.isfunction(getattr(trialrun, name))
    ]
    intro = (
        "The settings are keywords, with the names, values and defaults of the commands: "
        "[Settings](settings.md), [Commands](commands.md). `help(trialrun.train)` lists them. "
        "Threads, the state of the process and where runs are recorded: "
        "[Python library](../library.md)."
    )
    return _render_page("Python functions", intro, *map(_render_function, names))


def _render_function(name: str) -> str:
    function = getattr(trialrun, name)
    signature = inspect.signature(function)
    settings = [item for item in signature.parameters.values() if item.kind is item.KEYWORD_ONLY]
    own = [item for item in signature.parameters.values() if item not in settings]
    arguments = [re.sub(r"(?<!= )'(.*?)'", r"\1", str(item)) for item in own] + [
        "**settings"
    ] * bool(settings)
    returns = str(signature.return_annotation).replace("'", "")
    text = inspect.cleandoc(function.__doc__ or "")
    text = re.sub(r"\n\nSettings:\n.*?(?=\n\nRaises:|\Z)", "", text, flags=re.DOTALL)
    code = f"trialrun.{name}({', '.join(arguments)}) -> {returns}"
    return "\n\n".join([f"## {name}", f"```text\n{code}\n```", _as_markdown(text)])


def _as_markdown(docstring: str) -> str:
    """Return a docstring with its sections and examples as Markdown."""
    return "\n\n".join(map(_convert_paragraph, re.split(r"\n\s*\n", docstring)))


def _convert_paragraph(text: str) -> str:
    head, _, body = text.partition("\n")
    if head in ("Args:", "Returns:", "Raises:"):
        entries = re.sub(r"\n\s{2,}", " ", textwrap.dedent(body)).split("\n")
        return "\n".join([f"**{head[:-1]}**", "", *(_render_entry(line) for line in entries)])
    return f"```text\n{textwrap.dedent(text)}\n```" if text.startswith("    ") else text


def _render_entry(text: str) -> str:
    name, separator, rest = text.partition(": ")
    return f"- `{name}`: {rest}" if separator and name.isidentifier() else f"- {text}"
