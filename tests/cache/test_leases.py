"""Unpacked archives in the cache: listing, eviction and leases."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_classes
from trialrun.cache.location import archives_folder
from trialrun.cli import run_cli
from trialrun.image_cache import open_pack
from trialrun.image_cache.inventory import enforce_cache_limit
from trialrun.images import open_data
from trialrun.images.decoding.preprocessing import Preprocessing
from trialrun.images.formats.archives import list_unpacked_archives, try_delete_if_idle
from trialrun.images.scanning.scan import scan_files

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
    """A cache folder for this test."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_archive(tmp_path: Path, name: str, *, seed: int) -> Path:
    """Create a .zip of two classes with four images each."""
    folder = write_classes(tmp_path / name, {"a": 4, "b": 4}, seed=seed)
    return Path(shutil.make_archive(str(folder), "zip", folder))


def open_in_process(path: Path, cache: Path) -> "subprocess.Popen[str]":
    """Start a process that opens the archive and then waits for a line on stdin."""
    process = subprocess.Popen(
        [sys.executable, "-c", OPEN, str(path), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert Path(process.stdout.readline().strip()).is_dir()
    return process


def list_folders(cache: Path) -> set[Path]:
    """Return the folders of the unpacked archives."""
    return {archive.folder for archive in list_unpacked_archives(archives_folder(cache))}


def unpack_in_process(path: Path, cache: Path) -> Path:
    """Unpack an archive in a process that ends; return the folder."""
    before = list_folders(cache)
    open_in_process(path, cache).communicate("\n")
    [folder] = list_folders(cache) - before
    return folder


def test_leased_archive_is_not_deleted(tmp_path: Path, cache: Path) -> None:
    """The lease of a killed process is released."""
    user = open_in_process(make_archive(tmp_path, "set", seed=1), cache)
    [folder] = list_folders(cache)
    assert not try_delete_if_idle(folder)
    assert folder.is_dir()
    user.kill()
    user.communicate()
    assert try_delete_if_idle(folder)
    assert [path.suffix for path in archives_folder(cache).iterdir()] == [".lock"]


def test_least_recently_used_archive_is_evicted(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three archives with space for two, the least recently opened one is deleted."""
    paths = [make_archive(tmp_path, f"set{seed}", seed=seed) for seed in range(3)]
    folders = [unpack_in_process(path, cache) for path in paths]
    for folder, used in zip(folders, (100, 200, 300), strict=True):
        os.utime(folder.with_name(folder.name + ".json"), (used, used))
    open_in_process(paths[0], cache).communicate("\n")
    archives = list_unpacked_archives(archives_folder(cache))
    sizes = [archive.contents.num_bytes for archive in archives]
    monkeypatch.setenv("TRIALRUN_CACHE_GB", str((sum(sizes) - 1) / 1e9))
    enforce_cache_limit()
    assert [folder.is_dir() for folder in folders] == [True, False, True]


def test_evicted_archive_is_unpacked_again(tmp_path: Path, cache: Path) -> None:
    """An archive is unpacked to the same folder after its eviction."""
    path = make_archive(tmp_path, "set", seed=1)
    folder = unpack_in_process(path, cache)
    assert try_delete_if_idle(folder)
    assert unpack_in_process(path, cache) == folder


def test_the_cache_lists_and_deletes_archives(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both show the archives' names; an archive in use is not deleted but counted."""
    path, used = make_archive(tmp_path, "set", seed=1), make_archive(tmp_path, "used", seed=2)
    unpack_in_process(path, cache)
    user = open_in_process(used, cache)
    assert run_cli(["cache", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["archives"]
    assert [(row["source"], row["num_files"]) for row in rows] == [(str(path), 8), (str(used), 8)]
    assert run_cli(["cache", "list"]) == 0
    assert str(path) in capsys.readouterr().out
    assert run_cli(["cache", "clear", "--json"]) == 0
    cleared = json.loads(capsys.readouterr().out)
    assert (cleared["num_archives"], cleared["num_in_use"]) == (1, 1)
    assert cleared["num_bytes"] == rows[0]["num_bytes"]
    user.communicate("\n")


def test_incomplete_archive_is_unpacked_again(tmp_path: Path, cache: Path) -> None:
    """Programs that clean up by age may delete some of the files."""
    path = make_archive(tmp_path, "set", seed=1)
    folder = unpack_in_process(path, cache)
    for name in ("000.png", "002.png"):
        (folder / "a" / name).unlink()
    assert open_data(str(path), cache).count_classes() == {"a": 4, "b": 4}


def test_stale_leases_are_removed(tmp_path: Path, cache: Path) -> None:
    """There is one lease per live process."""
    path = make_archive(tmp_path, "set", seed=1)
    folder = unpack_in_process(path, cache)
    for _ in range(2):
        open_in_process(path, cache).communicate("\n")
    user = open_in_process(path, cache)
    leases = folder.with_name(folder.name + ".users")
    assert [lease.name.partition("-")[0] for lease in leases.iterdir()] == [str(user.pid)]
    user.communicate("\n")


def test_unchanged_archive_is_not_hashed_again(
    tmp_path: Path, cache: Path, wait_until_stable: Callable[[], None]
) -> None:
    """A changed archive is hashed again, even if its modification time is restored."""
    path = make_archive(tmp_path, "set", seed=1)
    wait_until_stable()
    folder = open_data(str(path), cache).root
    (digest_file,) = (cache / "digests").iterdir()
    fake_digest = "0" * 64
    digest_file.write_text(re.sub("[0-9a-f]{64}", fake_digest, digest_file.read_text()))
    assert open_data(str(path), cache).root.name.startswith(fake_digest[:40])
    before = path.stat()
    shutil.copyfile(make_archive(tmp_path, "other", seed=2), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_data(str(path), cache).root
    assert not changed.name.startswith(fake_digest[:40])
    assert changed != folder


CLEAR = """
import json, os
from dataclasses import asdict
from trialrun.image_cache.inventory import clear_cache
os.setuid(65534)
print(json.dumps(asdict(clear_cache())))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_entries_without_permission_are_not_counted_as_deleted(tmp_path: Path, cache: Path) -> None:
    """Entries of another user remain and are not counted as in use."""
    unpack_in_process(make_archive(tmp_path, "set", seed=1), cache)
    scan = scan_files(open_data(str(tmp_path / "set"), cache), threads=1)
    open_pack(scan, Preprocessing(8), cache / "packs", threads=1, limit_bytes=10**9)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # other users cannot read pytest's folders
    try:
        shutil.copytree(cache, folder / "cache")
        ended = subprocess.run(
            [sys.executable, "-c", CLEAR],
            env=os.environ | {"TRIALRUN_CACHE": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(list((folder / "cache" / "packs").glob("*/segment.json"))) == 1
    finally:
        shutil.rmtree(folder)
    cleared = json.loads(ended.stdout)
    assert (cleared["num_packs"], cleared["num_archives"], cleared["num_bytes"]) == (0, 0, 0)
    assert (cleared["num_in_use"], cleared["num_not_allowed"]) == (0, 2)
