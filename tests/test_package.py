"""The package itself."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import trialrun
from trialrun.config import SearchConfig, TrainConfig, as_text, keywords, list_settings
from trialrun.config.evaluate import CompareConfig, EvaluateConfig
from trialrun.config.promote import PromoteConfig
from trialrun.config.reproduce import ReproduceConfig
from trialrun.config.resume import ResumeConfig
from trialrun.config.score import ScoreConfig

WITH_SETTINGS: dict[Callable[..., Any], tuple[type, tuple[type, ...]]] = {
    trialrun.train: (keywords.TrainKeywords, (TrainConfig,)),
    trialrun.search: (keywords.SearchKeywords, (TrainConfig, SearchConfig)),
    trialrun.score: (keywords.ScoreKeywords, (ScoreConfig,)),
    trialrun.evaluate: (keywords.EvaluateKeywords, (EvaluateConfig,)),
    trialrun.promote: (keywords.PromoteKeywords, (PromoteConfig,)),
    trialrun.reproduce: (keywords.ReproduceKeywords, (ReproduceConfig,)),
    trialrun.resume: (keywords.ResumeKeywords, (ResumeConfig,)),
    trialrun.compare: (keywords.CompareKeywords, (CompareConfig,)),
}


def test_version_is_text() -> None:
    """The package says which version it is."""
    assert trialrun.__version__


def test_all_names_every_call() -> None:
    """`__all__` has every public function of the package, and nothing that is not there."""
    functions = {
        name
        for name, value in vars(trialrun).items()
        if inspect.isfunction(value) and value.__module__ == "trialrun" and name[0] != "_"
    }
    assert functions | {"errors", "__version__"} == set(trialrun.__all__)
    assert len(trialrun.__all__) == len(set(trialrun.__all__))


def test_errors_are_there_after_import_and_load_nothing() -> None:
    """`import trialrun` is enough to catch an error, and loads neither torch nor MLflow."""
    code = """
import sys, trialrun
wrong = trialrun.errors.InvalidParameterError
try:
    trialrun.train(epochs=0)
except wrong:
    print(sorted({"torch", "mlflow"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_all_matches_the_documented_names() -> None:
    """docs/reference/python.md has every public function but the deprecated one."""
    text = (Path(__file__).parents[1] / "docs" / "reference" / "python.md").read_text("utf-8")
    headings = {line[3:] for line in text.splitlines() if line.startswith("## ")}
    assert headings == set(trialrun.__all__) - {"__version__", "errors", "run_search"}


@pytest.mark.parametrize("function", WITH_SETTINGS, ids=lambda function: function.__name__)
def test_functions_show_each_setting(function: Callable[..., Any]) -> None:
    """The types, the signature and the docstring have each setting, its range and its default."""
    types, configs = WITH_SETTINGS[function]
    items = [item for config in configs for item in list_settings(config)]
    assert list(get_type_hints(types)) == [item.name for item in items]
    signature = inspect.signature(function)
    text = " ".join((function.__doc__ or "").split())
    for item in items:
        parameter = signature.parameters[item.name]
        assert (parameter.kind, parameter.default) == (parameter.KEYWORD_ONLY, item.default)
        assert f"{item.name}: " in text
        assert f"({item.legal_values}; default {as_text(item.default)})" in text


@pytest.mark.slow
def test_mypy_checks_keyword_parameters(tmp_path: Path) -> None:
    """A misspelled setting and a value of a wrong type are errors; ranges of a search are not."""
    program = tmp_path / "program.py"
    program.write_text(
        "import trialrun\n"
        "trialrun.train(epochs=3, image_size='auto', max_minutes=None)\n"
        "trialrun.search(learning_rate='1e-4:1e-1', batch_size=[8, 16], trials=3)\n"
        "trialrun.train(epoch=3)\n"
        "trialrun.train(optimizer='adam')\n"
        "trialrun.reproduce('0' * 32, tolerance='small')\n"
    )
    package = Path(trialrun.__file__).parent
    names = ("__init__.py", "config/keywords.py", "config/documentation.py")
    sources = [str(package / name) for name in names]
    command = [sys.executable, "-m", "mypy", "--follow-imports=skip", "--config-file="]
    done = subprocess.run(
        [*command, f"--cache-dir={tmp_path / 'cache'}", str(program), *sources],
        capture_output=True,
        text=True,
        check=False,
    )
    wrong = [line for line in done.stdout.splitlines() if line.startswith(str(program))]
    assert [int(line.split(":")[1]) for line in wrong if " error: " in line] == [4, 5, 6]


def test_run_search_is_a_deprecated_name_of_search() -> None:
    """It warns, and passes its settings to `search`."""
    with (
        pytest.warns(DeprecationWarning, match="trialrun.search"),
        pytest.raises(trialrun.errors.InvalidParameterError, match="trials=0"),
    ):
        trialrun.run_search(trials=0)
