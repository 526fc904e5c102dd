"""Imports of optional packages, which an extra of trialrun installs."""

import importlib
import importlib.util
from types import ModuleType

from trialrun.errors import InvalidParameterError


def import_extra(module: str, extra: str, *, needed_by: str) -> ModuleType:
    """Import an optional package that `trialrun[extra]` installs, and return it.

    Raises:
        InvalidParameterError: It is not installed; the message names what it is `needed_by`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise _make_error(error.name, extra, needed_by) from None


def check_extra(module: str, extra: str, *, needed_by: str) -> None:
    """Check that an optional package is installed, without importing it.

    Raises:
        InvalidParameterError: As `import_extra`.
    """
    if importlib.util.find_spec(module) is None:
        raise _make_error(module, extra, needed_by)


def _make_error(package: str, extra: str, needed_by: str) -> InvalidParameterError:
    return InvalidParameterError(
        f"{needed_by} needs the package {package}, which is not installed",
        f"Install it: pip install 'trialrun[{extra}]'",
    )
