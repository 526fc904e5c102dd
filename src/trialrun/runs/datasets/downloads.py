"""Datasets at addresses that MLflow downloads: one copy per address in the cache, file: in place.

An address whose content changes is downloaded again only if its server reports the change (HTTP's
ETag or Last-Modified); a note says how old the copy is.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trialrun.cache.leases import lock_entry
from trialrun.cache.location import downloads_folder
from trialrun.errors import TrackingError, summarize_error
from trialrun.files import (
    FILE_SCHEME,
    create_directory,
    find_file,
    sweep_drafts,
    translate_storage_errors,
)
from trialrun.images.formats.archives.store import (
    delete_unpacked,
    is_complete,
    mark_used,
    read_contents,
    write_contents,
)
from trialrun.mlflow_client import download_artifact, redact_credentials

_HTTP = ("http://", "https://")
_OF_THE_STORE = ("runs:/", "models:/", "mlflow-artifacts:/")  # name other data in another store
_HEAD_SECONDS, _HTTP_SECONDS = 10.0, 60.0  # without a byte from the server
_CHUNK_BYTES = 1 << 20
_MLFLOW_PROXY = "/mlflow-artifacts/artifacts"  # in the addresses of a tracking server's artifacts


def fetch_data(uri: str, cache: Path, note: Callable[[str], None]) -> Path:
    """Return the local path of a dataset, downloaded into `cache` on first use.

    `note` is called with the age of a copy that was downloaded before.

    Raises:
        TrackingError: MLflow cannot download `uri`.
        StorageError: The cache cannot be written.
        InvalidParameterError: A file: URI names another machine.
    """
    if uri.startswith(FILE_SCHEME):
        return find_file(uri)
    folder = _choose_folder(uri, downloads_folder(cache))
    with translate_storage_errors(folder), lock_entry(folder):
        sweep_drafts(folder)
        if folder.is_dir() and not is_complete(folder):
            delete_unpacked(folder)
        if folder.is_dir():
            _note_age(uri, folder, note)
        else:
            _download(uri, folder)
        mark_used(folder, redact_credentials(uri))
    contents = read_contents(folder)
    return folder / contents.path if contents else folder


def _download(uri: str, folder: Path) -> None:
    with create_directory(folder, durable=False) as draft:
        is_plain = uri.startswith(_HTTP) and _MLFLOW_PROXY not in uri
        path = _download_http(uri, draft) if is_plain else download_artifact(uri, draft)
        path = path.resolve().relative_to(draft.resolve())
        write_contents(folder, draft, redact_credentials(uri), path=path.as_posix())


def _download_http(uri: str, folder: Path) -> Path:
    """Download a file; MLflow takes such an address for a server of its own.

    Raises:
        TrackingError: The server does not send the whole file.
    """
    import requests

    path = folder / (Path(unquote(urlsplit(uri).path)).name or "data")
    try:
        with requests.get(uri, stream=True, timeout=_HTTP_SECONDS) as answer:
            answer.raise_for_status()
            with translate_storage_errors(path), path.open("wb") as file:
                # A short answer raises: `raw` compares what it reads with Content-Length.
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
    except requests.RequestException as error:
        reason = redact_credentials(f"{uri} cannot be downloaded: {summarize_error(error)}")
        raise TrackingError(
            reason, "Check the address, or download it and give the path."
        ) from error
    return path


def _note_age(uri: str, folder: Path, note: Callable[[str], None]) -> None:
    downloaded = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
    note(
        f"{redact_credentials(uri)} is read from the copy of {downloaded:%Y-%m-%d %H:%M} UTC in "
        "the cache; `trialrun cache clear` makes the next run download it again"
    )


def _choose_folder(uri: str, downloads: Path) -> Path:
    """Return the folder of an address and, for HTTP, of the state that its server reports."""
    key = _hash(_qualify(uri))
    if not uri.startswith(_HTTP):
        return downloads / key
    state = _read_http_state(uri)
    if state is None:  # the server does not answer: the last copy, if there is one
        copies = [path for path in downloads.glob(f"{key}-*") if path.is_dir() and not path.suffix]
        return max(copies, key=lambda path: path.stat().st_mtime, default=downloads / f"{key}-0")
    return downloads / f"{key}-{_hash(state)[:8]}"


def _qualify(uri: str) -> str:
    if not uri.startswith(_OF_THE_STORE):
        return uri
    import mlflow

    return f"{mlflow.get_tracking_uri()}\0{uri}"


def _read_http_state(uri: str) -> str | None:
    """Return the ETag, or time and size, of an address; None if the server reports neither."""
    import requests

    with suppress(requests.RequestException):
        answer = requests.head(uri, timeout=_HEAD_SECONDS, allow_redirects=True)
        names = ("ETag", "Last-Modified", "Content-Length")
        if answer.ok and ("ETag" in answer.headers or "Last-Modified" in answer.headers):
            return "\n".join(answer.headers.get(name, "") for name in names)
    return None


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
