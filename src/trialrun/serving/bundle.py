"""The copy of trialrun's serving code that a model directory carries in `code/`.

MLflow puts `code/` first on `sys.path`. The copy therefore has a package name of its own, made of a
hash of its sources: it never hides an installed trialrun, and models of several versions load in
one process.
"""

import ast
import hashlib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from trialrun import errors
from trialrun.models.directory import SERVED_PREFIX

_PACKAGE = "trialrun"
_HASH_DIGITS = 12
# What serving imports, all the way down. `serving/package.py` and this module only write models.
_SERVED = (
    "errors.py",
    "files.py",
    "cache",
    "config",
    "images",
    "models",
    "engine/__init__.py",
    "engine/compute/__init__.py",
    "engine/compute/device.py",
    "engine/compute/torch_errors.py",
    "engine/compute/torch_state.py",
    "scoring.py",
    "serving/__init__.py",
    "serving/inputs.py",
)


def write_served_code(code: Path) -> str:
    """Copy what serving needs below `code`; the name of the package that the copy is.

    Raises:
        OSError: The folder cannot be written.
    """
    sources = dict(_read_sources())
    package = SERVED_PREFIX + _hash_sources(sources)
    for name, text in sources.items():
        path = code / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(rename_imports(text, package), "utf-8")
    return package


def _read_sources() -> Iterator[tuple[str, str]]:
    """Relative path and text of every module of the copy, in an order that is always the same."""
    root = Path(errors.__file__).parent
    # Not the package's own `__init__.py`: the calls that it offers need what is not copied.
    yield "__init__.py", f'"""The part of trialrun {version(_PACKAGE)} that serves this model."""\n'
    for name in _SERVED:
        path = root / name
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield module.relative_to(root).as_posix(), module.read_text("utf-8")


def _hash_sources(sources: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name, text in sources.items():
        digest.update(f"{name}\0{len(text)}\0{text}\0".encode())
    return digest.hexdigest()[:_HASH_DIGITS]


def rename_imports(source: str, package: str) -> str:
    """A module's text with its absolute imports of trialrun turned into imports of `package`.

    Raises:
        ValueError: It has `import trialrun...`, whose name the code below would go on using.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(_is_ours(alias.name) for alias in node.names):
            raise ValueError(f"line {node.lineno}: write `from {_PACKAGE}... import ...`")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            row = node.lineno - 1
            lines[row] = lines[row].replace(f"from {_PACKAGE}", f"from {package}", 1)
    return "".join(lines)


def _is_ours(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
