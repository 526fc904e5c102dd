"""Values on their way to the device, for which the host does not wait."""

import torch
from torch import Tensor


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values`, on the CPU, as they will be on the device once it gets to them.

    A copy to a GPU out of ordinary memory first waits for all the GPU has been asked to do; out of
    page-locked memory it takes its turn.
    """
    if device.type == "cuda":
        values = values.pin_memory()  # nothing to do where it is pinned already
    return values.to(device, non_blocking=True)
