"""Values that shell completion offers.

A shell runs the program on every Tab, so nothing here imports torch or MLflow.
"""

from collections.abc import Callable

from trialrun.config import Setting


def list_model_names() -> list[str]:
    """Return the names of all networks."""
    from trialrun.models import ARCHITECTURES

    return list(ARCHITECTURES)


def find_completer(setting: Setting) -> Callable[[], list[str]] | None:
    """Return the function that lists the values of `setting`; None leaves it to the shell.

    Typer keeps the values that begin with the typed text. Where none does, the shell offers files.
    """
    if setting.name == "model":
        return list_model_names
    if setting.suggestions:
        return lambda: list(setting.suggestions)
    return None
