"""Unpacked archives in the cache: counted, listed, and deleted for room, never while in use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import write_classes
from trialrun.cli import run
from trialrun.images.archives import archives_folder, remove_idle, unpacked_archives
from trialrun.runs.kept import keep_within_limit

OPEN = """
import sys
from pathlib import Path
from trialrun.images import open_data

images = open_data(sys.argv[1], Path(sys.argv[2]))
print(images.root, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def archive(tmp_path: Path, name: str, *, seed: int) -> Path:
    """Two classes of four small pictures as a .zip."""
    folder = write_classes(tmp_path / name, {"a": 4, "b": 4}, seed=seed)
    return Path(shutil.make_archive(str(folder), "zip", folder))


def opened(path: Path, cache: Path) -> "subprocess.Popen[str]":
    """A process that has opened the archive and lives until it is given a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(path), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip()).is_dir()
    return process


def unpacked_once(path: Path, cache: Path) -> Path:
    """Where an archive lies that a process unpacked which has ended."""
    before = {each.folder for each in unpacked_archives(archives_folder(cache))}
    opened(path, cache).communicate("\n")
    [folder] = {each.folder for each in unpacked_archives(archives_folder(cache))} - before
    return folder


def test_what_a_process_uses_stays_until_it_is_gone(tmp_path: Path, cache: Path) -> None:
    """One that is killed uses nothing any more."""
    user = opened(archive(tmp_path, "set", seed=1), cache)
    [kept] = unpacked_archives(archives_folder(cache))
    assert not remove_idle(kept.folder)
    assert kept.folder.is_dir()
    user.kill()
    user.communicate()
    assert remove_idle(kept.folder)
    assert [path.suffix for path in archives_folder(cache).iterdir()] == [".lock"]


def test_what_was_used_longest_ago_leaves_when_the_limit_is_passed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three archives, with room for two, the first goes unless it was opened again."""
    paths = [archive(tmp_path, f"set{seed}", seed=seed) for seed in range(3)]
    folders = [unpacked_once(path, cache) for path in paths]
    for folder, used in zip(folders, (100, 200, 300), strict=True):
        os.utime(folder.with_name(folder.name + ".json"), (used, used))
    opened(paths[0], cache).communicate("\n")
    sizes = [each.contents.num_bytes for each in unpacked_archives(archives_folder(cache))]
    monkeypatch.setenv("TRIALRUN_CACHE_GB", str((sum(sizes) - 1) / 1e9))
    keep_within_limit()
    assert [folder.is_dir() for folder in folders] == [True, False, True]


def test_an_archive_is_unpacked_again_after_it_left(tmp_path: Path, cache: Path) -> None:
    """Nothing of it is lost but time."""
    path = archive(tmp_path, "set", seed=1)
    folder = unpacked_once(path, cache)
    assert remove_idle(folder)
    assert unpacked_once(path, cache) == folder


def test_the_cache_lists_and_deletes_archives(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both with what they came from; one that is in use is not deleted, and that is said."""
    path, used = archive(tmp_path, "set", seed=1), archive(tmp_path, "used", seed=2)
    unpacked_once(path, cache)
    user = opened(used, cache)
    assert run(["data", "pack", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["archives"]
    assert [(row["source"], row["num_files"]) for row in rows] == [(str(path), 8), (str(used), 8)]
    assert run(["data", "pack", "--list"]) == 0
    assert str(path) in capsys.readouterr().out
    assert run(["data", "pack", "--clear", "--json"]) == 0
    cleared = json.loads(capsys.readouterr().out)
    assert (cleared["num_archives"], cleared["num_in_use"]) == (1, 1)
    assert cleared["num_bytes"] == rows[0]["num_bytes"]
    user.communicate("\n")
