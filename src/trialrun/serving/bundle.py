"""Writer of the copy of trialrun's serving code in a model directory's `code/`.

MLflow puts `code/` first on `sys.path`. The copy therefore has its own package name with a hash of
its sources: it never hides an installed trialrun, and models of several versions can be loaded in
one process.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path

from trialrun import errors
from trialrun.models.directory import SERVED_PREFIX

_PACKAGE = "trialrun"
_HASH_DIGITS = 12
# The modules that serving imports, directly or indirectly, as files and folders. This module and
# `serving/package.py` are not among them: they only write models.
_SERVED_MODULES = (
    "errors.py",
    "extras.py",
    "files.py",
    "cache",
    "config",
    "images",
    "models",
    "engine/__init__.py",
    "engine/compute/__init__.py",
    "engine/compute/allocator.py",
    "engine/compute/device.py",
    "engine/compute/torch_errors.py",
    "engine/compute/torch_state.py",
    "engine/memory/__init__.py",
    "engine/memory/available.py",
    "scoring/__init__.py",
    "scoring/engines",
    "scoring/labels.py",
    "scoring/network.py",
    "scoring/open.py",
    "scoring/pipeline.py",
    "scoring/scores.py",
    "serving/__init__.py",
    "serving/inputs.py",
)


def write_served_code(code: Path) -> str:
    """Copy the modules needed for serving below `code`, and return the copy's package name.

    Raises:
        OSError: The folder cannot be written.
    """
    package, sources = _prepare_sources()
    for name, text in sources.items():
        path = code / package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return package


@cache
def _prepare_sources() -> tuple[str, dict[str, str]]:
    """Return the copy's package name and its modules by path; a process prepares them once."""
    sources = dict(_read_sources())
    package = SERVED_PREFIX + _hash_sources(sources)
    return package, {name: rename_imports(text, package) for name, text in sources.items()}


def _read_sources() -> Iterator[tuple[str, str]]:
    """Yield relative path and text of every module of the copy, in a fixed order."""
    root = Path(errors.__file__).parent
    # Not trialrun's own `__init__.py`: its functions need modules that are not copied.
    yield "__init__.py", f'"""The part of trialrun {version(_PACKAGE)} that serves this model."""\n'
    for name in _SERVED_MODULES:
        path = root / name
        for module in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            yield module.relative_to(root).as_posix(), module.read_text("utf-8")


def _hash_sources(sources: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name, text in sources.items():
        digest.update(f"{name}\0{len(text)}\0{text}\0".encode())
    return digest.hexdigest()[:_HASH_DIGITS]


def rename_imports(source: str, package: str) -> str:
    """Return a module's source with its absolute imports of trialrun changed to `package`.

    Raises:
        ValueError: The source contains `import trialrun...`, which binds the name `trialrun`.
    """
    lines = source.splitlines(keepends=True)
    for node in _walk_statements(ast.parse(source)):
        if isinstance(node, ast.Import) and any(_is_trialrun(alias.name) for alias in node.names):
            raise ValueError(f"line {node.lineno}: write `from {_PACKAGE}... import ...`")
        if isinstance(node, ast.ImportFrom) and not node.level and _is_trialrun(node.module or ""):
            index = node.lineno - 1
            lines[index] = lines[index].replace(f"from {_PACKAGE}", f"from {package}", 1)
    return "".join(lines)


def _walk_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements in a module or statement, nested ones too; expressions are left out."""
    for _, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else ():
            if isinstance(child, ast.stmt):
                yield child
            if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
                yield from _walk_statements(child)


def _is_trialrun(module: str) -> bool:
    return module == _PACKAGE or module.startswith(f"{_PACKAGE}.")
