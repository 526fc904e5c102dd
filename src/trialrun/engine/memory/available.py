"""The memory that this process can still take, on Linux.

Linux promises more memory than it has: a process that uses too much is killed, without an error.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trialrun.engine.compute.allocator import count_free_heap_bytes

_UNLIMITED = "max"


@dataclass(frozen=True, slots=True)
class AvailableMemory:
    """Bytes that this process can still take: from the machine, and by the limit of the process.

    Of the machine, it is the least of free memory and what control groups (v2) leave; free swap
    counts as memory. None means unknown or unlimited.
    """

    machine_bytes: int | None
    process_bytes: int | None

    @property
    def least_bytes(self) -> int | None:
        """The lower of both; None if neither is known."""
        known = [value for value in (self.machine_bytes, self.process_bytes) if value is not None]
        return min(known, default=None)


def read_available_memory(root: Path = Path("/")) -> AvailableMemory:
    """Read it from the kernel; unknown on systems other than Linux.

    `root` is the folder of proc and sys.
    """
    if sys.platform != "linux":
        return AvailableMemory(None, None)
    machine = [*_read_system_bytes(root / "proc"), *_read_group_bytes(root)]
    process = list(_read_process_bytes(root / "proc"))
    return AvailableMemory(
        max(min(machine), 0) if machine else None, max(min(process), 0) if process else None
    )


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
