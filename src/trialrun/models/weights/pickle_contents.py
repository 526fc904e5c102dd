"""Classes and functions that a pickle names, found in its opcodes without running them."""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Iterator

NEWEST_READABLE = 3  # torch's restricted loader reads protocols up to this one

_TENSOR_MODULES = ("torch", "collections")
_MEMO_READS = frozenset({"GET", "BINGET", "LONG_BINGET"})
_MEMO_WRITES = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def find_global(data: bytes) -> str | None:
    """Return the first class or function in a `torch.save` file that weights do not need."""
    for module, name in _list_globals(_find_pickle(data)):
        if module.partition(".")[0] not in _TENSOR_MODULES:
            return f"{module}.{name}"
    return None


def read_protocol(data: bytes) -> int:
    """Return the pickle protocol of a `torch.save` file; 0 if it is not recorded."""
    content = _find_pickle(data)
    return content[1] if len(content) > 1 and content[:1] == pickle.PROTO else 0


def _find_pickle(data: bytes) -> bytes:
    """Return the pickle in a `torch.save` archive; other bytes are assumed to be a pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            return archive.read(name)
    except (zipfile.BadZipFile, StopIteration, RuntimeError, OSError, EOFError):
        return data


def _list_globals(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield module and name of each global of all concatenated pickles; stops at damaged bytes."""
    stream = io.BytesIO(content)
    try:
        while stream.tell() < len(content):
            yield from _list_globals_of_pickle(stream)
    except (ValueError, EOFError, IndexError, UnicodeDecodeError):
        return


def _list_globals_of_pickle(stream: io.BytesIO) -> Iterator[tuple[str, str]]:
    """Yield the globals of one pickle; protocol 4 reads both names from the stack or the memo."""
    texts: list[str] = []
    memo: dict[object, str] = {}
    num_memoized = 0
    for opcode, argument, _ in pickletools.genops(stream):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            yield module, name
        elif opcode.name == "STACK_GLOBAL" and len(texts) > 1:
            yield texts[-2], texts[-1]
        elif opcode.name == "MEMOIZE":
            memo[num_memoized] = texts[-1] if texts else ""
            num_memoized += 1
        elif opcode.name in _MEMO_WRITES:
            memo[argument] = texts[-1] if texts else ""
        elif opcode.name in _MEMO_READS:
            texts.append(memo.get(argument, ""))
        elif isinstance(argument, str):
            texts.append(argument)
