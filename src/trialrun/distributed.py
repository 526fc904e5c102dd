"""The ranks of a distributed training and their communication.

`torchrun` starts one process per rank and describes it in environment variables. A single process
is one rank, for which every exchange returns its own value. CPUs use gloo, CUDA uses nccl.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from trialrun.errors import (
    FirstRankFailedError,
    InvalidParameterError,
    RunInterruptedError,
    TrialrunError,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch._C._distributed_c10d import Store

Value = TypeVar("Value")

# Only rank 0 talks to MLflow; the others wait for it during an outage or a long upload. torchrun
# ends them if rank 0 dies.
_TIMEOUT = timedelta(days=7)
_END_TIMEOUT = timedelta(seconds=8)  # for rank 0 to end its run after a signal
_FOLLOW_TIMEOUT = timedelta(seconds=2)  # for the others to read how rank 0 ended
_OUTCOME_OF_FIRST = "trialrun/outcome_of_first_rank"
_FOLLOWED = "trialrun/outcome_read_by_rank_"
_INTERRUPTED, _FINISHED, _FAILED = "interrupted", "finished", "failed "  # an exit code follows


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among the ranks; `local_rank` counts the ranks of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which logs the run."""
        return self.rank == 0

    def sum(self, tensor: "Tensor") -> "Tensor":
        """Sum `tensor` over the ranks in place and return it."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return on every rank whether `flag` is true on one of them; all ranks must call this.

        On CUDA the host waits for the GPU.
        """
        if self.world_size == 1:
            return flag
        import torch
        import torch.distributed as dist

        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        flags = torch.tensor([flag], dtype=torch.uint8, device=device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def broadcast_tensors(self, tensors: "Iterable[Tensor]") -> None:
        """Overwrite tensors with those of rank 0, from which they may differ."""
        if self.world_size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def broadcast_object(self, value: Value) -> Value:
        """Return rank 0's `value` on every rank."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]

    def gather_objects(self, value: Value) -> list[Value]:
        """Return the value of each rank, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Value | None] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]


SINGLE_PROCESS = Ranks()


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """Read the ranks from torchrun's variables; without them, return `SINGLE_PROCESS`.

    Raises:
        InvalidParameterError: A variable is missing, not an integer, or out of range.
    """
    if "WORLD_SIZE" not in environment:
        return SINGLE_PROCESS
    try:
        rank, world_size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
    except (KeyError, ValueError) as error:
        raise InvalidParameterError(
            f"WORLD_SIZE is set, but RANK or LOCAL_RANK is wrong: {error}",
            "Start with `torchrun --nproc-per-node=N -m trialrun train …`, or unset WORLD_SIZE.",
        ) from error
    if not 0 <= rank < world_size:
        raise InvalidParameterError(
            f"RANK={rank} is not below WORLD_SIZE={world_size}", "Start with `torchrun`."
        )
    return Ranks(rank, world_size, local_rank)


@contextmanager
def join_ranks(device: "torch.device") -> Iterator[Ranks]:
    """Connect the ranks for the block; this one computes on `device`."""
    ranks = read_ranks(os.environ)
    if ranks.world_size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    if device.type == "cuda":
        torch.cuda.set_device(device)  # nccl's default device
        dist.init_process_group("nccl", timeout=_TIMEOUT, device_id=device)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    store = _find_store()
    try:
        with _announce_end(store) if ranks.is_first else _follow_first(store, ranks.rank):
            yield ranks
    finally:
        dist.destroy_process_group()  # interrupts ranks that wait for this one
        if ranks.is_first:
            _await_followers(store, ranks.world_size)


@contextmanager
def _announce_end(store: "Store") -> Iterator[None]:
    """Let the other ranks know how the block of rank 0 ended."""
    outcome = _INTERRUPTED
    try:
        yield
        outcome = _FINISHED
    except RunInterruptedError:
        raise
    except BaseException as error:
        outcome = f"{_FAILED}{getattr(error, 'exit_code', TrialrunError.exit_code)}"
        raise
    finally:
        with suppress(RuntimeError):  # torchrun, which holds the store, is gone
            store.set(_OUTCOME_OF_FIRST, outcome)


def _await_followers(store: "Store", world_size: int) -> None:
    """Keep `store`, which this process may host, until the other ranks have read the outcome."""
    with suppress(RuntimeError):  # a rank is lost or the store is gone
        store.wait([f"{_FOLLOWED}{rank}" for rank in range(1, world_size)], _FOLLOW_TIMEOUT)


@contextmanager
def _follow_first(store: "Store", rank: int) -> Iterator[None]:
    """Stop as rank 0 does if a signal or an error has stopped it, and not before it.

    torchrun sends a signal to rank 0 once another rank has ended, while rank 0 ends its run.
    """
    try:
        yield
    except RunInterruptedError as interrupt:
        if interrupt.is_agreed:
            _read_outcome(store, _END_TIMEOUT)
        raise
    except RuntimeError as error:  # rank 0 has closed its connections
        outcome = _read_outcome(store, timedelta(seconds=1))
        if outcome == _INTERRUPTED:
            raise RunInterruptedError("SIGTERM") from error
        if outcome.startswith(_FAILED):
            raise FirstRankFailedError(int(outcome.removeprefix(_FAILED))) from error
        raise
    finally:
        with suppress(RuntimeError):  # the store is gone
            store.set(f"{_FOLLOWED}{rank}", "")


def _read_outcome(store: "Store", timeout: timedelta) -> str:
    """Return how rank 0 ended; empty if it does not end in time or is lost."""
    try:
        store.wait([_OUTCOME_OF_FIRST], timeout)
        return store.get(_OUTCOME_OF_FIRST).decode()
    except RuntimeError:
        return ""


def _find_store() -> "Store":
    """Return the key-value store of the ranks, for which torch 2.15 has no public name."""
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()
