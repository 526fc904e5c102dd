"""Imports of optional packages, which an extra of trialrun installs."""

import importlib
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
        raise InvalidParameterError(
            f"{needed_by} needs the package {error.name}, which is not installed",
            f"Install it: pip install 'trialrun[{extra}]'",
        ) from None
