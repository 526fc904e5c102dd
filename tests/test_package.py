"""The package itself."""

import inspect
import subprocess
import sys

import trialrun


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
