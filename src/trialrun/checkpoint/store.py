"""Checkpoints on disk: tensors and plain values, written all or nothing and verified when read.

A checkpoint is a folder, named by its number:

    NAME.safetensors   one file per part, such as the training state and the best weights
    values.json        plain values
    manifest.json      checksum and size of the other files; written last

The folder gets its name once everything in it is on the disk. Only then are older checkpoints
deleted, so that the two newest intact ones remain.
"""

import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from xxhash import xxh3_128_hexdigest

from trialrun.errors import StorageError
from trialrun.files import (
    as_storage_error,
    create_directory,
    format_json,
    remove_directory,
    translate_storage_errors,
)

_FORMAT = 1
_NUM_KEPT = 2
_VALUES, _MANIFEST, _SUFFIX = "values.json", "manifest.json", ".safetensors"
_DISK_FULL = "No space left"  # in messages of safetensors, which hides the operating system's error

Parts = Mapping[str, Mapping[str, Tensor]]
_NONE: Mapping[str, str] = MappingProxyType({})


class DamagedCheckpointError(Exception):
    """A file of a checkpoint is missing, cannot be read or differs from the manifest."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of a checkpoint: tensors on the CPU by part and name, and plain values."""

    parts: Parts
    values: Mapping[str, Any]


@dataclass(slots=True)
class CheckpointStore:
    """The checkpoints of one run in one folder; one process writes at a time."""

    folder: Path

    def write(
        self, parts: Parts, values: Mapping[str, Any], equal_parts: Mapping[str, str] = _NONE
    ) -> Path:
        """Write a checkpoint, then delete all but the two newest intact ones; return its folder.

        Checkpoints share no file: damage to one leaves the other intact.

        Args:
            parts: Contiguous tensors in CPU memory by part and name.
            values: Plain values for JSON.
            equal_parts: Further parts, each with the name of the part that holds the same tensors.
                Both are one file.

        Raises:
            StorageError: The disk is full or the folder cannot be written; the older checkpoints
                remain.
        """
        previous = self.list_paths()
        path = self.folder / str(_number(previous[-1]) + 1 if previous else 1)
        with _translate_write_errors(path), create_directory(path) as draft:
            manifest = _write_parts(draft, parts, equal_parts)
            (draft / _VALUES).write_text(format_json(dict(values)), "utf-8")
            manifest[_VALUES] = _describe_file(draft / _VALUES)
            content = format_json({"format": _FORMAT, "files": manifest})
            (draft / _MANIFEST).write_text(content, "utf-8")
        for old in previous[: len(previous) + 1 - _NUM_KEPT]:
            remove_directory(old)
        return path

    def list_paths(self) -> list[Path]:
        """Return the folders of all checkpoints, damaged ones included, the oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if p.name.isdigit()), key=_number)

    def find_damaged(self) -> list[tuple[Path, str]]:
        """Return the damaged checkpoints, each with what is wrong with it."""
        damaged = []
        for path in self.list_paths():
            try:
                _verify_files(path)
            except DamagedCheckpointError as error:
                damaged.append((path, str(error)))
        return damaged

    def delete_damaged(self) -> list[str]:
        """Delete damaged checkpoints and drafts of killed processes; return what was wrong.

        Raises:
            StorageError: All checkpoints are damaged; none is deleted then.
        """
        damaged = self.find_damaged()
        if damaged and len(damaged) == len(self.list_paths()):
            path, problem = damaged[-1]
            raise StorageError(
                f"no intact checkpoint is left in {path.parent}: {problem}",
                "Train again, or restore the folder from a backup.",
            )
        for path, _ in damaged:
            remove_directory(path)
        if self.folder.is_dir():
            for draft in self.folder.glob(".*"):
                remove_directory(draft)
        return [f"checkpoint {path.name}: {problem}" for path, problem in damaged]

    def read_newest(self) -> Checkpoint | None:
        """Read the newest intact checkpoint; None without any checkpoint.

        Raises:
            StorageError: There are checkpoints, but all are damaged.
        """
        problems = []
        for path in reversed(self.list_paths()):
            try:
                return read_checkpoint(path)
            except DamagedCheckpointError as error:
                problems.append(str(error))
        if problems:
            raise StorageError(
                f"no intact checkpoint is left in {self.folder}: {problems[0]}",
                "Train again, or restore the folder from a backup.",
            )
        return None


def _number(path: Path) -> int:
    return int(path.name)


def _write_parts(
    draft: Path, parts: Parts, equal_parts: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Write the files of a checkpoint's parts; return their entries of the manifest."""
    manifest = {}
    for name, tensors in parts.items():
        file = draft / f"{name}{_SUFFIX}"
        safetensors.torch.save_file(dict(tensors), file)
        manifest[file.name] = _describe_file(file)
    for name, source in equal_parts.items():
        file = draft / f"{name}{_SUFFIX}"
        _link(draft / f"{source}{_SUFFIX}", file)
        manifest[file.name] = manifest[f"{source}{_SUFFIX}"]
    return manifest


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _translate_write_errors(path: Path) -> Iterator[None]:
    try:
        with translate_storage_errors(path):
            yield
    except safetensors.SafetensorError as error:
        code = 28 if _DISK_FULL in str(error) else 5
        raise as_storage_error(f"cannot write {path}", OSError(code, os.strerror(code))) from error


def _describe_file(path: Path) -> dict[str, Any]:
    return {"xxh3_128": _hash_file(path), "bytes": path.stat().st_size}


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return xxh3_128_hexdigest(b"")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return xxh3_128_hexdigest(content)


def read_checkpoint(path: Path) -> Checkpoint:
    """Verify and parse the checkpoint in `path`.

    Raises:
        DamagedCheckpointError: It is damaged.
    """
    names = _verify_files(path)
    try:
        parts = {
            name.removesuffix(_SUFFIX): safetensors.torch.load_file(path / name)
            for name in names
            if name.endswith(_SUFFIX)
        }
        values = json.loads((path / _VALUES).read_text("utf-8"))
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
    return Checkpoint(parts, values)


def _verify_files(path: Path) -> list[str]:
    """Compare the files of a checkpoint with its manifest; return their names.

    Raises:
        DamagedCheckpointError: A file is missing, cannot be read or is another one.
    """
    try:
        manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
        if manifest["format"] != _FORMAT:
            raise DamagedCheckpointError(f"{path} has format {manifest['format']}, not {_FORMAT}")
        for name, entry in manifest["files"].items():
            if _describe_file(path / name) != entry:
                raise DamagedCheckpointError(f"checksum mismatch: {path / name}")
        return list(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} cannot be read: {error}") from error
