"""Start of a process without work that its command does not need.

Python's garbage collection while torch and MLflow load takes 1.1 s, and torch's compiler, which
torchvision loads for one function, 0.9 s (benchmarks/lifetime.py).
"""

import gc
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TypeVar

from trialrun.deferred_modules import DeferredModule, replace_modules

# Loading torch, torchvision and MLflow creates about 900,000 objects that are never freed. Python
# would scan them for garbage repeatedly.
_LOADED_OBJECTS = 900_000
_COMPILER = "torch._dynamo"
_Function = TypeVar("_Function", bound=Callable[..., object])
_COMPILER_MODULES = (_COMPILER, f"{_COMPILER}.utils")


def start_fast() -> None:
    """Delay garbage collection and the loading of torch's compiler in a new process."""
    defer_gc()
    defer_compiler()


def defer_gc() -> None:
    """Delay the first garbage collection until a command's modules are loaded.

    The first collection then exempts the loaded objects and restores Python's thresholds.
    """
    default_thresholds = gc.get_threshold()

    def freeze_loaded_objects(_phase: str, _info: dict[str, int]) -> None:
        gc.callbacks.remove(freeze_loaded_objects)
        gc.freeze()
        gc.set_threshold(*default_thresholds)

    gc.callbacks.append(freeze_loaded_objects)
    gc.set_threshold(_LOADED_OBJECTS, *default_thresholds[1:])


def defer_compiler() -> None:
    """Let torchvision load without torch's compiler, which then loads at its first use.

    `torchvision.ops.roi_align` imports a function of `torch._dynamo`, and
    `torchvision.tv_tensors` excludes one of its own from compilation, which no network calls
    (torchvision 0.29).
    """
    if not {"torchvision", *_COMPILER_MODULES} & sys.modules.keys():
        sys.meta_path.insert(0, _TorchvisionFinder())


class _TorchvisionFinder(MetaPathFinder):
    """Finds torchvision once, with a loader that defers torch's compiler."""

    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the usual spec of torchvision with another loader; None for other modules."""
        if fullname != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferringLoader(spec.loader)
        return spec


class _DeferringLoader(Loader):
    """Executes a module with its usual loader while torch's compiler is replaced."""

    def __init__(self, usual: Loader) -> None:
        self._usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its usual loader does."""
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module; it then has its usual loader."""
        module.__loader__ = self._usual
        if module.__spec__ is not None:
            module.__spec__.loader = self._usual
        with replace_modules(*_COMPILER_MODULES, by=_DeferredCompiler):
            self._usual.exec_module(module)
            importlib.import_module(f"{module.__name__}.tv_tensors")


class _DeferredCompiler(DeferredModule):
    """Offers the functions of torch's compiler."""

    @staticmethod
    def disable(function: _Function, *_options: object, **_named: object) -> _Function:
        """Return the function as it is, instead of excluding it from compilation."""
        return function
