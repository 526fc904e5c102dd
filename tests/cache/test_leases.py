"""Unpacked archives in the cache: counted, listed, and deleted for room, never while in use."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
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
    before = {each.folder for each in list_unpacked_archives(archives_folder(cache))}
    opened(path, cache).communicate("\n")
    [folder] = {each.folder for each in list_unpacked_archives(archives_folder(cache))} - before
    return folder


def test_what_a_process_uses_stays_until_it_is_gone(tmp_path: Path, cache: Path) -> None:
    """One that is killed uses nothing any more."""
    user = opened(archive(tmp_path, "set", seed=1), cache)
    [kept] = list_unpacked_archives(archives_folder(cache))
    assert not try_delete_if_idle(kept.folder)
    assert kept.folder.is_dir()
    user.kill()
    user.communicate()
    assert try_delete_if_idle(kept.folder)
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
    sizes = [each.contents.num_bytes for each in list_unpacked_archives(archives_folder(cache))]
    monkeypatch.setenv("TRIALRUN_CACHE_GB", str((sum(sizes) - 1) / 1e9))
    enforce_cache_limit()
    assert [folder.is_dir() for folder in folders] == [True, False, True]


def test_an_archive_is_unpacked_again_after_it_left(tmp_path: Path, cache: Path) -> None:
    """Nothing of it is lost but time."""
    path = archive(tmp_path, "set", seed=1)
    folder = unpacked_once(path, cache)
    assert try_delete_if_idle(folder)
    assert unpacked_once(path, cache) == folder


def test_the_cache_lists_and_deletes_archives(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both with what they came from; one that is in use is not deleted, and that is said."""
    path, used = archive(tmp_path, "set", seed=1), archive(tmp_path, "used", seed=2)
    unpacked_once(path, cache)
    user = opened(used, cache)
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


def test_an_archive_of_which_files_are_gone_is_unpacked_again(tmp_path: Path, cache: Path) -> None:
    """What cleans up by age may have taken some; the rest is no smaller set."""
    path = archive(tmp_path, "set", seed=1)
    folder = unpacked_once(path, cache)
    for name in ("000.png", "002.png"):
        (folder / "a" / name).unlink()
    assert open_data(str(path), cache).counts() == {"a": 4, "b": 4}


def test_users_that_have_ended_leave_nothing(tmp_path: Path, cache: Path) -> None:
    """One lock file a process that lives, however many there were."""
    path = archive(tmp_path, "set", seed=1)
    folder = unpacked_once(path, cache)
    for _ in range(2):
        opened(path, cache).communicate("\n")
    user = opened(path, cache)
    users = folder.with_name(folder.name + ".users")
    assert [each.name.partition("-")[0] for each in users.iterdir()] == [str(user.pid)]
    user.communicate("\n")


def test_an_archive_that_did_not_change_is_not_hashed_again(tmp_path: Path, cache: Path) -> None:
    """Its stamp says so; one that was changed is read, though its time is put back."""
    path = archive(tmp_path, "set", seed=1)
    time.sleep(2.1)  # what changed just now is not trusted
    folder = open_data(str(path), cache).root
    (noted,) = (cache / "digests").iterdir()
    other = "0" * 64
    noted.write_text(re.sub("[0-9a-f]{64}", other, noted.read_text()))
    assert open_data(str(path), cache).root.name.startswith(other[:40])
    before = path.stat()
    shutil.copyfile(archive(tmp_path, "other", seed=2), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed = open_data(str(path), cache).root
    assert not changed.name.startswith(other[:40])
    assert changed != folder


CLEAR = """
import json, os
from dataclasses import asdict
from trialrun.image_cache.inventory import clear_cache
os.setuid(65534)
print(json.dumps(asdict(clear_cache())))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_what_may_not_be_deleted_is_not_said_to_be(tmp_path: Path, cache: Path) -> None:
    """Another user's cache stays, and is not in use either."""
    unpacked_once(archive(tmp_path, "set", seed=1), cache)
    scan = scan_files(open_data(str(tmp_path / "set"), cache), threads=1)
    open_pack(scan, Preprocessing(8), cache / "packs", threads=1, limit_bytes=10**9)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # pytest's own folders are closed to others
    try:
        shutil.copytree(cache, folder / "cache")
        ended = subprocess.run(
            [sys.executable, "-c", CLEAR],
            env=os.environ | {"TRIALRUN_CACHE": str(folder / "cache")},
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(list((folder / "cache" / "packs").glob("*/pack.json"))) == 1
    finally:
        shutil.rmtree(folder)
    cleared = json.loads(ended.stdout)
    assert (cleared["num_packs"], cleared["num_archives"], cleared["num_bytes"]) == (0, 0, 0)
    assert (cleared["num_in_use"], cleared["num_not_allowed"]) == (0, 2)
