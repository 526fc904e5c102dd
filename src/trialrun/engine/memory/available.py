"""The memory that this process can still take, on Linux.

Linux promises more memory than it has: a process that uses too much is killed, without an error.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trialrun.engine.compute.allocator import count_free_heap_bytes

_UNLIMITED = "max"


def read_available_bytes(root: Path = Path("/")) -> int | None:
    """Return the least of free memory, the limits of control groups (v2) and of the process.

    Free swap counts as memory. None on other systems. `root` is the folder of proc and sys.
    """
    if sys.platform != "linux":
        return None
    limits = [
        *_read_system_bytes(root / "proc"),
        *_read_group_bytes(root),
        *_read_process_bytes(root / "proc"),
    ]
    return max(min(limits), 0) if limits else None


def _read_system_bytes(proc: Path) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):
        fields = _read_fields(proc / "meminfo")
        yield (fields["MemAvailable:"] + fields["SwapFree:"]) * 1024


def _read_group_bytes(root: Path) -> Iterator[int]:
    """Yield what each control group that this process is in leaves, from the inner to the outer."""
    with suppress(OSError):
        swap = next(_read_free_swap(root / "proc"), 0)
        for folder in _list_groups(root):
            with suppress(OSError, KeyError, ValueError):
                limit = (folder / "memory.max").read_text().strip()
                if limit != _UNLIMITED:
                    used = int((folder / "memory.current").read_text())
                    # The file cache counts as used, but the kernel drops it when memory is short.
                    cached = _read_fields(folder / "memory.stat")["inactive_file"]
                    yield int(limit) - used + cached + swap


def _list_groups(root: Path) -> list[Path]:
    """Return the folders of the group of this process (v2) and of the groups around it."""
    top = root / "sys/fs/cgroup"
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        number, _, path = line.split(":", 2)
        if number == "0":
            inner = top / path.lstrip("/")
            return [inner, *(folder for folder in inner.parents if folder.is_relative_to(top))]
    return []


def _read_free_swap(proc: Path) -> Iterator[int]:
    with suppress(OSError, KeyError, ValueError):
        yield _read_fields(proc / "meminfo")["SwapFree:"] * 1024


def _read_process_bytes(proc: Path) -> Iterator[int]:
    """Yield what the limit of the address space (`ulimit -v`) leaves, free heap included."""
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        with suppress(OSError, ValueError):
            num_pages = int((proc / "self/statm").read_text().split()[0])
            yield limit - num_pages * resource.getpagesize() + count_free_heap_bytes()


def _read_fields(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    pairs = (line.split()[:2] for line in path.read_text().splitlines())
    return {name: int(number) for name, number in pairs}
