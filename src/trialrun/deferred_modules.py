"""Stand-ins for modules that another module imports for functions which it seldom calls."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class DeferredModule(ModuleType):
    """Offers the functions and classes of a module, which is loaded when one of them is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return a function that calls the one of this name."""
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments: Any, **named: Any) -> Any:
            _remove_stand_ins()
            return getattr(importlib.import_module(self.__name__), name)(*arguments, **named)

        return call


@contextmanager
def replace_modules(*names: str, by: type[DeferredModule] = DeferredModule) -> Iterator[None]:
    """Replace modules for those that are imported inside the block; loaded ones stay.

    `names` starts with a package, and the others are below it.
    """
    if names[0] in sys.modules:
        yield
        return
    sys.modules.update({name: by(name) for name in names})
    try:
        yield
    finally:
        _remove_stand_ins()


def _remove_stand_ins() -> None:
    for name in [
        name for name, module in sys.modules.items() if isinstance(module, DeferredModule)
    ]:
        del sys.modules[name]
