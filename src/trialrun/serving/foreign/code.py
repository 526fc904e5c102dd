"""Isolation of the modules that an MLflow model brings with it in `code/`.

MLflow puts `code/` first on `sys.path` and leaves the imported modules in `sys.modules`. Two
versions of a model usually bring modules of the same names: without isolation, the second would
run with the code of the first.
"""

import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

# They load and call the model, so the model cannot replace them.
_NEVER_REPLACED = frozenset({*sys.stdlib_module_names, "mlflow", "trialrun"})


@dataclass(slots=True)
class ModelCode:
    """The modules below a model's folder; they are importable only inside `activate`.

    A module of this process is hidden inside `activate` if the model brings one of the same name.
    Not hidden are the standard library, MLflow, trialrun and loaded packages with compiled parts,
    which cannot be imported twice.
    """

    folder: Path
    code_folders: tuple[Path, ...]
    _modules: dict[str, ModuleType] = field(default_factory=dict)
    _replaced_names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        entries = [path for folder in self.code_folders for path in folder.glob("*")]
        names = {path.stem for path in entries if path.is_dir() or path.suffix == ".py"}
        allowed = {name for name in names - _NEVER_REPLACED if name.isidentifier()}
        self._replaced_names = frozenset(name for name in allowed if not _is_compiled(name))

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Make the model's modules importable in the block; restore `sys` afterwards."""
        hidden = _remove_modules(_find_modules(self._replaced_names))
        path, entries = sys.path, list(sys.path)
        sys.path = [*map(str, self.code_folders), *entries]
        others = set(sys.modules)
        sys.modules.update(self._modules)
        try:
            yield
        finally:
            new_names = sys.modules.keys() - others
            self._modules |= _remove_modules(name for name in new_names if self._is_own(name))
            sys.modules.update(hidden)
            path[:] = entries
            sys.path = path

    def _is_own(self, name: str) -> bool:
        """Whether a module that was imported in the block belongs to the model."""
        file = getattr(sys.modules[name], "__file__", None)
        is_below = file is not None and Path(file).is_relative_to(self.folder)
        return is_below or _get_package(name) in self._replaced_names


def _find_modules(packages: Collection[str]) -> list[str]:
    """Return the names of the loaded modules of packages."""
    if not packages:
        return []
    return [name for name in sys.modules if _get_package(name) in packages]


def _remove_modules(names: Iterable[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(names)}


def _get_package(name: str) -> str:
    return name.partition(".")[0]


def _is_compiled(package: str) -> bool:
    """Whether a loaded module of a package is an extension module."""
    specs = [getattr(sys.modules[name], "__spec__", None) for name in _find_modules({package})]
    return any(isinstance(getattr(spec, "loader", None), ExtensionFileLoader) for spec in specs)
