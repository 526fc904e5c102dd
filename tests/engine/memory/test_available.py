"""Tests of the memory that is available, as Linux describes it in files."""

import resource
import sys
from pathlib import Path

import pytest

from trialrun.engine.compute.allocator import count_free_heap_bytes
from trialrun.engine.memory.available import AvailableMemory, read_available_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads files of Linux")

KB, MB = 1024, 10**6


def write_files(root: Path, files: dict[str, str]) -> Path:
    """Write text files below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = "MemTotal: 9000 kB\nMemAvailable: 5000 kB\nSwapFree: 1000 kB\nHugePages_Total: 0\n"


def describe_group(folder: str, limit: str, used: int, inactive_file: int) -> dict[str, str]:
    """Return the files of a control group."""
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 1\ninactive_file {inactive_file}\n",
    }


def test_free_memory_and_swap_are_available(tmp_path: Path) -> None:
    """Without other limits, the machine decides."""
    available = read_available_memory(write_files(tmp_path, {"proc/meminfo": MEMINFO}))
    assert available == AvailableMemory(6000 * KB, None)
    assert available.least_bytes == 6000 * KB


def test_control_groups_limit_what_is_available(tmp_path: Path) -> None:
    """The outer group leaves less than the inner one; its file cache can be dropped."""
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "4:memory:/old\n0::/outer/inner\n"}
    files |= describe_group("sys/fs/cgroup/outer/inner", "max", 1000 * KB, 0)
    files |= describe_group("sys/fs/cgroup/outer", str(3000 * KB), 2000 * KB, 500 * KB)
    available = read_available_memory(write_files(tmp_path, files))
    assert available.machine_bytes == (1500 + 1000) * KB


def test_exhausted_group_leaves_nothing(tmp_path: Path) -> None:
    """The number is not negative."""
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"}
    files |= describe_group("sys/fs/cgroup", str(1000 * KB), 9000 * KB, 0)
    assert read_available_memory(write_files(tmp_path, files)).machine_bytes == 0


def test_limit_of_the_process_counts() -> None:
    """`ulimit -v` leaves what the process has not mapped yet."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 300 * MB
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        available = read_available_memory().process_bytes
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert available is not None
    assert 200 * MB < available - count_free_heap_bytes() < 310 * MB


def test_missing_files_mean_unknown(tmp_path: Path) -> None:
    """Nothing is refused where the kernel says nothing."""
    assert read_available_memory(tmp_path).least_bytes is None
