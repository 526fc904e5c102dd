"""Listing of shards: folders, patterns and single files, on this machine and in a store."""

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.images.shards.conftest import FAST_LIMITS
from tests.object_store import FaultyStore
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import expand_braces, list_shards


def _names(address: str) -> list[str]:
    return [shard.address.rpartition("/")[2] for shard in list_shards(address, FAST_LIMITS)]


def test_remote_folders_patterns_and_files_are_listed(store: FaultyStore) -> None:
    """Other files are left out, and the order is that of the names."""
    for name in ("t-1.tar", "t-0.tar", "v-0.parquet", "index.json"):
        store.put(f"list/{name}", b"x" * 10)
    store.put("hub/README.md", b"")
    store.put("hub/data/train-00000-of-00001.parquet", b"x")
    assert _names("s3://data/list") == ["t-0.tar", "t-1.tar", "v-0.parquet"]
    assert _names("s3://data/list/t-*.tar") == ["t-0.tar", "t-1.tar"]
    assert _names("s3://data/list/t-{0..1}.tar") == ["t-0.tar", "t-1.tar"]
    assert _names("s3://data/hub") == ["train-00000-of-00001.parquet"]
    assert _names("s3://data/nothing") == []
    (shard,) = list_shards("s3://data/list/t-0.tar", FAST_LIMITS)
    assert shard.num_bytes == 10
    assert shard == list_shards("s3://data/list", FAST_LIMITS)[0]


def test_a_missing_shard_is_an_error(store: FaultyStore) -> None:
    """A single shard that does not exist is named."""
    with pytest.raises(InvalidDatasetError, match=r"s3://data/no\.tar does not exist"):
        list_shards("s3://data/no.tar", FAST_LIMITS)


def test_local_folders_and_patterns_are_listed(tmp_path: Path) -> None:
    """A folder without shards has none, which is no error."""
    for name in ("b.tar", "a.tar", "a.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert _names(str(tmp_path)) == ["a.tar", "b.tar"]
    assert _names(f"{tmp_path}/a*") == ["a.tar"]
    assert _names(f"{tmp_path}/{{a,b}}.tar") == ["a.tar", "b.tar"]
    assert _names(str(tmp_path / "a.txt")) == []


def test_braces_are_those_of_webdataset() -> None:
    """Numbers keep their leading zeros, and several braces are combined."""
    assert expand_braces("x-{08..10}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar"]
    assert expand_braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


def test_a_web_server_without_ranges_serves_shards(tmp_path: Path) -> None:
    """Python's own server sends the whole file for a range; it is read all the same."""
    (tmp_path / "a.tar").write_bytes(b"y" * 2500)
    handler = partial(_QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://user:secret@127.0.0.1:{server.server_port}/a.tar"
        (shard,) = list_shards(address, FAST_LIMITS)
        cache = ShardCache(tmp_path / "cache", 10**6, limits=FAST_LIMITS)
        with cache.hold(shard) as path:
            assert path.read_bytes() == b"y" * 2500
        with pytest.raises(InvalidDatasetError) as raised:
            list_shards(address.replace("a.tar", "b.tar"), FAST_LIMITS)
        server.shutdown()
    assert "secret" not in str(raised.value)


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base
        """Print nothing."""


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of Azure without adlfs says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "adlfs", None)
    with pytest.raises(InvalidParameterError) as raised:
        list_shards("az://container/data", FAST_LIMITS)
    assert raised.value.hint == "Install it: pip install 'trialrun[az]'"
