"""Download of a file with a checksum, within a time limit; the file appears complete or not at all.

torch.hub's own download has no time limit.
"""

import hashlib
import os
import threading
import urllib.request
from pathlib import Path

_BLOCK_BYTES = 1 << 18
_IDLE_SECONDS = 30.0  # the longest wait for the next bytes


def download_file(
    url: str, path: Path, *, sha256_prefix: str, seconds: float | None = None
) -> None:
    """Download `url` to `path`; raise unless its sha256 begins with `sha256_prefix`.

    The download runs in a thread, because looking up a host has no time limit of its own.

    Raises:
        OSError: The server does not answer, the download takes longer than `seconds`, or the
            folder cannot be written.
        ValueError: The content has another sha256.
    """
    download = _Download(url, path, sha256_prefix, min(_IDLE_SECONDS, seconds or _IDLE_SECONDS))
    thread = threading.Thread(target=download.run, name="trialrun-download", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        download.is_abandoned.set()
        raise TimeoutError(f"the download takes longer than {seconds:g} s")
    if download.error is not None:
        raise download.error


class _Download:
    """A download in a thread of its own; `error` is what it raised."""

    def __init__(self, url: str, path: Path, sha256_prefix: str, idle_seconds: float) -> None:
        self.error: Exception | None = None
        self.is_abandoned = threading.Event()
        self._url, self._path = url, path
        self._sha256_prefix, self._idle_seconds = sha256_prefix, idle_seconds

    def run(self) -> None:
        """Download the file; keep an error for the caller's thread."""
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}.{id(self):x}.partial")
        try:
            self._fetch(draft)
        except Exception as error:
            self.error = error
        finally:
            draft.unlink(missing_ok=True)

    def _fetch(self, draft: Path) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        request = urllib.request.Request(self._url, headers={"User-Agent": "torch.hub"})  # noqa: S310
        with (
            urllib.request.urlopen(request, timeout=self._idle_seconds) as response,  # noqa: S310
            draft.open("wb") as file,
        ):
            while block := response.read(_BLOCK_BYTES):
                if self.is_abandoned.is_set():
                    return
                digest.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        if not digest.hexdigest().startswith(self._sha256_prefix):
            raise ValueError(f"the downloaded file has the sha256 {digest.hexdigest()}")
        if not self.is_abandoned.is_set():
            draft.replace(self._path)
