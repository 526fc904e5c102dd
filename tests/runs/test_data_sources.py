"""Sources of data in whole runs: URIs, links, names, and a cache that cannot be written."""

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes
from trialrun.config.data import DataConfig
from trialrun.errors import StorageError, TrackingError
from trialrun.image_cache.inventory import list_archives
from trialrun.runs.datasets.sources import open_source
from trialrun.runs.training.plan import plan_training


class CountingHandler(SimpleHTTPRequestHandler):
    """Serves files, and counts downloads."""

    num_downloads = 0

    def do_GET(self) -> None:
        """Count and send a file."""
        CountingHandler.num_downloads += 1
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Serve a folder on a free port; return the folder and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(CountingHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_address_is_downloaded_once_until_it_changes(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is in the cache, counts there, and is replaced when the server reports a change."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    folder, address = served
    shutil.make_archive(str(folder / "set"), "zip", write_classes(tmp_path / "one", {"a": 1}))
    CountingHandler.num_downloads = 0
    first, second = (open_source(f"{address}/set.zip") for _ in range(2))
    assert (first.items, CountingHandler.num_downloads) == (second.items, 1)
    assert any("copy of" in note for note in second.notes)
    assert f"{address}/set.zip" in [entry.contents.source for entry in list_archives()]
    shutil.make_archive(str(folder / "set"), "zip", write_classes(tmp_path / "two", {"b": 12}))
    assert open_source(f"{address}/set.zip").classes == ("b",)
    with pytest.raises(TrackingError, match="cannot be downloaded"):
        open_source(f"{address}/none.zip")


def test_file_uri_is_read_in_place(tmp_path: Path) -> None:
    """Nothing is copied, and %20 is decoded."""
    folder = write_classes(tmp_path / "my set", {"a": 1, "b": 1})
    for uri in (folder.as_uri(), f"file:{folder}", f"file://localhost{folder}"):
        assert open_source(uri).root == folder.resolve()
    assert "%20" in folder.as_uri()


def test_cache_that_cannot_be_written_is_reported_before_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, colors: Path
) -> None:
    """The hint names the variable that places the cache."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        plan_training({"train_data": str(colors), "batch_size": 4})
    assert "TRIALRUN_CACHE" in caught.value.hint


def test_run_follows_links_escapes_names_and_counts_decoding(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run on linked classes records the setting; without a pack, a second run decodes again."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRIALRUN_CACHE_GB", "0")
    outside = write_classes(tmp_path / "outside", {"caf": 10, "dog": 10})
    (tmp_path / "set").mkdir()
    for name, link in (("caf", b"caf\xe9"), ("dog", b"dog")):
        (tmp_path / "set" / link.decode("utf-8", "surrogateescape")).symlink_to(outside / name)
    settings = {"train_data": str(tmp_path / "set"), "model": "shufflenet_v2_x0_5", "epochs": 1}
    client, decoded = mlflow.MlflowClient(store), []
    for _ in range(2):
        result = trialrun.train(**settings, follow_links=True, precision="fp32")  # type: ignore[arg-type]
        data = client.get_run(result.run_id).data
        decoded.append(int(data.tags["decoded_images"]))
    assert data.params["follow_links"] == "true"
    assert (data.params["num_classes"], data.params["archive_encoding"]) == ("2", "auto")
    assert decoded[0] >= 20 + 20
    assert decoded[1] >= 20
    reread = open_source(settings["train_data"], config=DataConfig(follow_links=True))  # type: ignore[arg-type]
    assert reread.classes == ("caf\\xe9", "dog")
