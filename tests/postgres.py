"""A temporary PostgreSQL server for tests.

It runs Debian's programs on a temporary cluster of an unprivileged user, on the loopback interface
and a free port.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_USER = "nobody"  # PostgreSQL refuses to run as root


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `pg_ctl`, which Debian does not put on the PATH."""
    paths = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if paths:
        return paths[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).parent if on_path else None


@contextmanager
def run_cluster() -> Iterator[str]:
    """Run a temporary server; yield the URL of its database."""
    folder = Path(tempfile.mkdtemp(prefix="trialrun-postgres-"))
    bin_folder = find_programs()
    assert bin_folder is not None
    if os.getuid() == 0:
        shutil.chown(folder, _USER)
    data, port = folder / "data", _free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    _run(bin_folder / "initdb", "-D", data, "-U", "trialrun", "-A", "trust", "-E", "UTF8")
    control = (bin_folder / "pg_ctl", "-D", data, "-w", "-l", folder / "log")
    _run(*control, "-o", options, "start")
    try:
        yield f"postgresql://trialrun@127.0.0.1:{port}/postgres"
    finally:
        _run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: object) -> None:
    words = [str(word) for word in command]
    if os.getuid() == 0:
        words = ["runuser", "-u", _USER, "--", *words]
    subprocess.run(words, check=True, cwd="/", stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
