"""Tests of stand-ins for modules."""

import importlib
import sys
from pathlib import Path

import pytest

from trialrun.deferred_modules import replace_modules

_PACKAGE, _MODULE = "deferred_package", "deferred_package.module"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package with a function importable, and forget it afterwards."""
    folder = tmp_path / _PACKAGE
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "module.py").write_text("def double(value):\n    return 2 * value\n")
    (tmp_path / "deferred_user.py").write_text(f"from {_MODULE} import double\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in (_PACKAGE, _MODULE, "deferred_user"):
        monkeypatch.setitem(sys.modules, name, None)  # restores what is there now: nothing
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("package")
def test_a_module_is_loaded_when_its_function_is_called() -> None:
    """Not when a module inside the block imports the function."""
    with replace_modules(_PACKAGE, _MODULE):
        user = importlib.import_module("deferred_user")
    assert _MODULE not in sys.modules
    assert user.double(2) == 4
    assert _MODULE in sys.modules


@pytest.mark.usefixtures("package")
def test_a_function_can_be_called_inside_the_block() -> None:
    """The modules are then loaded as usual."""
    with replace_modules(_PACKAGE, _MODULE):
        assert importlib.import_module("deferred_user").double(3) == 6
        assert importlib.import_module(_MODULE).__file__ is not None
    assert importlib.import_module(_MODULE).double(4) == 8


@pytest.mark.usefixtures("package")
def test_a_loaded_package_stays() -> None:
    """A module that is imported inside the block gets the function itself."""
    module = importlib.import_module(_MODULE)
    with replace_modules(_PACKAGE, _MODULE):
        assert importlib.import_module("deferred_user").double is module.double
