"""The manifest of a model directory: sha256 and size of its data files and of those in `code/`."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trialrun.config.engines import ALL_ENGINE_FILES
from trialrun.errors import InvalidModelDirectoryError
from trialrun.files import format_json, hash_file, write_durably
from trialrun.models.zoo.names import DESCRIPTION_FILE

WEIGHTS = "model.safetensors"
MANIFEST = "manifest.json"
CODE = "code"
DATA_FILES = (DESCRIPTION_FILE, WEIGHTS, *ALL_ENGINE_FILES)

Entries = dict[str, dict[str, Any]]  # by file name: `sha256` and `bytes`

_FILES = "files"  # in the manifest, beside `code`
_BYTECODE = re.compile(r"(.*/|)__pycache__/([^/.]+)\.[^/]+\.pyc")
_HINT = "Take another copy of the model, or train it again."


def write_manifest(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the manifest of a directory without `code/`.

    Raises:
        StorageError: The folder cannot be written.
    """
    write_durably(folder / MANIFEST, format_json({_FILES: files}))


def add_code_to_manifest(folder: Path) -> None:
    """Add the files in `code/` to the manifest of a directory, which lists its data files.

    Raises:
        StorageError: The folder cannot be written.
    """
    code = {name: describe_content(path.read_bytes()) for name, path in _list_code(folder)}
    values = json.loads((folder / MANIFEST).read_text("utf-8"))
    write_durably(folder / MANIFEST, format_json({**values, CODE: code}))


def describe_content(data: bytes) -> dict[str, Any]:
    """Return the entry of a file in the manifest."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_manifest(folder: Path) -> Entries:
    """Return the data files that the manifest lists, after verifying the files in `code/`.

    Raises:
        InvalidModelDirectoryError: The manifest is missing or damaged, a data file is not in it, or
            the files in `code/` are others than those listed.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text("utf-8"))
        manifest = _parse_entries(values[_FILES])
        code = _parse_entries(values[CODE]) if CODE in values else None
    except FileNotFoundError as error:
        raise invalid_directory(path, "is missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise invalid_directory(path, "is damaged") from error
    if unknown := manifest.keys() - set(DATA_FILES):
        raise invalid_directory(path, f"lists an unknown file: {min(unknown)!r}")
    for name in DATA_FILES:
        if (folder / name).is_file() and name not in manifest:
            raise invalid_directory(folder / name, "is not in the manifest")
    if code is not None:  # earlier versions of trialrun did not list it
        _verify_code(folder, code)
    return manifest


def _parse_entries(files: Any) -> Entries:
    return {
        name: {"sha256": str(entry["sha256"]), "bytes": int(entry["bytes"])}
        for name, entry in files.items()
    }


def _verify_code(folder: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that `code/` has exactly the listed files.

    Bytecode of listed modules is skipped: Python writes it where MLflow loads the model.
    """
    found = dict(_list_code(folder))
    for name, path in found.items():
        if path.is_symlink() or not path.is_file():
            raise invalid_directory(path, "is not a regular file")
        if name in listed:
            read_verified(path, listed[name])
        elif _find_module_of_bytecode(name) not in listed:
            raise invalid_directory(path, "is not in the manifest")
    if missing := listed.keys() - found:
        raise invalid_directory(folder / CODE / min(missing), "is missing")


def _list_code(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield path below `code/` and path of everything there except folders, in a fixed order."""
    code = folder / CODE
    for path in sorted(code.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(code).as_posix(), path


def _find_module_of_bytecode(name: str) -> str | None:
    """Return the path of the module that `a/__pycache__/b.cpython-311.pyc` is the bytecode of."""
    match = _BYTECODE.fullmatch(name)
    return match and f"{match[1]}{match[2]}.py"


def read_verified(path: Path, entry: Mapping[str, Any]) -> bytes:
    """Return the content of a listed file.

    Raises:
        InvalidModelDirectoryError: It is missing, or differs from its entry.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable_file(path, error) from error
    _check_content(path, entry, len(data), hashlib.sha256(data).hexdigest())
    return data


def verify_file(path: Path, entry: Mapping[str, Any]) -> None:
    """Check a listed file without keeping its content.

    Raises:
        InvalidModelDirectoryError: As `read_verified`.
    """
    try:
        num_bytes, digest = path.stat().st_size, hash_file(path)
    except OSError as error:
        raise _unreadable_file(path, error) from error
    _check_content(path, entry, num_bytes, digest)


def _unreadable_file(path: Path, error: OSError) -> InvalidModelDirectoryError:
    return invalid_directory(path, f"cannot be read: {error.strerror or error}")


def _check_content(path: Path, entry: Mapping[str, Any], num_bytes: int, digest: str) -> None:
    if num_bytes != entry["bytes"] or digest != entry["sha256"]:
        raise invalid_directory(path, "checksum mismatch: the file is not the one in the manifest")


def invalid_directory(path: Path, problem: str) -> InvalidModelDirectoryError:
    """Return the error of a directory in which `path` has a problem."""
    return InvalidModelDirectoryError(f"{path} {problem}", _HINT)
