"""Listing of shards: folders, patterns and single files, on this machine and in a store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import fsspec
import pytest

from tests.images.shards.conftest import FAST_LIMITS
from tests.object_store import FaultyStore
from trialrun.errors import InvalidDatasetError, InvalidParameterError
from trialrun.images.shards.shard_cache import ShardCache
from trialrun.images.shards.storage import (
    expand_braces,
    find_local_path,
    list_shards,
    open_store,
)


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
    (tmp_path / "{x,y}").mkdir()
    (tmp_path / "{x,y}" / "c.tar").write_bytes(b"x")
    assert _names(str(tmp_path / "{x,y}")) == ["c.tar"]


def test_a_link_to_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    """Hub snapshots are links; a shard whose file was not downloaded is named, not left out."""
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "b.tar").symlink_to(tmp_path / "blobs" / "missing")
    with pytest.raises(InvalidDatasetError, match=r"b\.tar cannot be read: No such file"):
        list_shards(str(tmp_path))


def test_a_missing_shard_of_a_numbered_set_is_an_error(tmp_path: Path) -> None:
    """Names such as train-00000-of-00003 tell how many shards there are; a pattern may choose."""
    for name in ("train-00000-of-00003", "train-00002-of-00003", "test-00000-of-00001"):
        (tmp_path / f"{name}.parquet").write_bytes(b"x")
    with pytest.raises(InvalidDatasetError, match=r"lacks 1 of 3 shards, such as train-00001-of-"):
        list_shards(str(tmp_path))
    assert len(list_shards(f"{tmp_path}/train-*.parquet")) == 2


def test_addresses_of_files_are_decoded(tmp_path: Path) -> None:
    """file: addresses name local shards, with %20 and the like."""
    path = tmp_path / "my set" / "a.tar"
    path.parent.mkdir()
    path.write_bytes(b"x")
    (shard,) = list_shards(path.as_uri())
    assert find_local_path(shard.address) == path


def test_braces_are_those_of_webdataset() -> None:
    """Numbers keep their leading zeros, and several braces are combined."""
    assert expand_braces("x-{08..10}.tar") == ["x-08.tar", "x-09.tar", "x-10.tar"]
    assert expand_braces("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert expand_braces("plain.tar") == ["plain.tar"]


@contextmanager
def _serve(folder: Path, user: str = "") -> Iterator[str]:
    """Yield the address of a web server for the files in a folder."""
    handler = partial(_QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://{user}127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_server_without_ranges_serves_shards(tmp_path: Path) -> None:
    """Python's own server sends the whole file for a range; it is read all the same."""
    (tmp_path / "a.tar").write_bytes(b"y" * 2500)
    with _serve(tmp_path, "user:secret@") as root:
        address = f"{root}/a.tar"
        (shard,) = list_shards(address, FAST_LIMITS)
        cache = ShardCache(tmp_path / "cache", 10**6, limits=FAST_LIMITS)
        with cache.hold(shard) as path:
            assert path.read_bytes() == b"y" * 2500
        with pytest.raises(InvalidDatasetError) as raised:
            list_shards(address.replace("a.tar", "b.tar"), FAST_LIMITS)
        with pytest.raises(InvalidDatasetError, match="does not report the size") as no_size:
            list_shards(address.replace("a.tar", "stream/c.tar"), FAST_LIMITS)
    assert "secret" not in f"{raised.value} {no_size.value}"


def test_a_shard_of_a_web_server_has_the_time_of_its_change(tmp_path: Path) -> None:
    """A shard of the same size that changed is downloaded again, also without ETags."""
    path = tmp_path / "a.tar"
    path.write_bytes(b"y" * 100)
    with _serve(tmp_path) as address:
        (before,) = list_shards(f"{address}/a.tar", FAST_LIMITS)
        os.utime(path, (10**9, 10**9))
        assert list_shards(f"{address}/a.tar", FAST_LIMITS) != [before]


class _QuietHandler(SimpleHTTPRequestHandler):
    def do_HEAD(self) -> None:
        """Answer without a length for names in `stream`."""
        if self.path.startswith("/stream/"):
            self.send_response(200)
            self.end_headers()
        else:
            super().do_HEAD()

    def do_GET(self) -> None:
        """Answer as to HEAD for names in `stream`."""
        if self.path.startswith("/stream/"):
            self.do_HEAD()
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base
        """Print nothing."""


@pytest.mark.parametrize(
    ("package", "address"), [("s3fs", "s3://data"), ("gcsfs", "gs://data"), ("adlfs", "az://data")]
)
def test_listings_are_not_kept(package: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version of a downloaded shard is asked of the store, not of the listing before it."""
    pytest.importorskip(package)
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    opened, _ = open_store(address, FAST_LIMITS)
    opened.dircache["data"] = []
    assert "data" not in opened.dircache


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address of Azure without adlfs says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "adlfs", None)
    with pytest.raises(InvalidParameterError) as raised:
        list_shards("az://container/data", FAST_LIMITS)
    assert raised.value.hint == "Install it: pip install 'trialrun[az]'"
