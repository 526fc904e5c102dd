"""The ranks of one training: who they are, and what they tell each other.

`torchrun` starts a process a rank and names them in the environment. A single process is a rank
alone, for which every exchange is the identity. gloo serves on CPUs, nccl on CUDA.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from trialrun.errors import InvalidParameterError

if TYPE_CHECKING:
    from torch import Tensor, device

Value = TypeVar("Value")

# The first rank alone talks to MLflow, and the others wait for it through an outage or a long
# upload. torchrun ends them should it die.
_TIMEOUT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Ranks:
    """A process among the ranks; `local_rank` counts those of its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank is the one that keeps the record."""
        return self.rank == 0

    def sum(self, tensor: "Tensor") -> "Tensor":
        """`tensor` summed over the ranks, in place."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.all_reduce(tensor)
        return tensor

    def take_from_first(self, tensors: "Iterable[Tensor]") -> None:
        """Overwrite tensors with the first rank's, where ranks have let them drift apart."""
        if self.world_size > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def agree(self, value: Value) -> Value:
        """The first rank's `value`, on every rank."""
        if self.world_size == 1:
            return value
        import torch.distributed as dist

        holder = [value]
        dist.broadcast_object_list(holder, src=0)
        return holder[0]


SINGLE_PROCESS = Ranks()


def read_ranks(environment: Mapping[str, str]) -> Ranks:
    """The ranks that `torchrun` names; a process that it did not start is alone.

    Raises:
        InvalidParameterError: A number is missing, no number, or out of range.
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
            f"RANK={rank} is none of WORLD_SIZE={world_size}", "Start with `torchrun`."
        )
    return Ranks(rank, world_size, local_rank)


@contextmanager
def join_ranks(on: "device") -> Iterator[Ranks]:
    """The ranks, able to talk to each other until the end of the block, this one computing `on`."""
    ranks = read_ranks(os.environ)
    if ranks.world_size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    import torch.distributed as dist

    if on.type == "cuda":
        torch.cuda.set_device(on)  # what nccl takes where it is not told
        dist.init_process_group("nccl", timeout=_TIMEOUT, device_id=on)
    else:
        dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()
