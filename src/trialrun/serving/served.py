"""Loading of a finished model directory with its own code in this process, as a server does."""

import importlib
import shutil
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trialrun.mlflow_client.downloads import create_exit_folder
from trialrun.models.directory import format_loader_module
from trialrun.models.manifest import CODE

if TYPE_CHECKING:
    from trialrun.serving import ImageModel


def load_served_model(folder: Path) -> "ImageModel":
    """Return the pyfunc model of a directory that this process has just written.

    Its code is run: call this for no directory of another origin.
    """
    (package,) = (path for path in (folder / CODE).iterdir() if path.is_dir())
    if format_loader_module(package.name) not in sys.modules:
        _import_copy(package)
    module: Any = sys.modules[format_loader_module(package.name)]
    model: ImageModel = module._load_pyfunc(str(folder))
    return model


@cache
def _find_import_folder() -> Path:
    """Return a folder for copies of packages, which may import their modules later."""
    return create_exit_folder()


def _import_copy(package: Path) -> ModuleType:
    """Import the serving module of a copy of `package`; its name is a hash of its sources."""
    folder = _find_import_folder()
    shutil.copytree(package, folder / package.name, dirs_exist_ok=True)
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(format_loader_module(package.name))
    finally:
        sys.path.remove(str(folder))
