"""Repetition of what gave a new last layer its random values, without building the network again.

Building MobileNetV2 and loading its weights takes 50 ms, longer than a short training of its last
layer on features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trialrun.models.zoo.constant_values import FillCall


@dataclass(frozen=True, slots=True)
class HeadDraw:
    """The calls that filled the parameters of a last layer when its network was built."""

    calls: Sequence[FillCall]
    parameters: Sequence[nn.Parameter]

    @property
    def can_repeat(self) -> bool:
        """Whether the calls change nothing else, and draw from torch's generator of the CPU."""
        addresses = {parameter.data_ptr() for parameter in self.parameters}
        return all(
            call.tensor.data_ptr() in addresses and call.tensor.device.type == "cpu"
            for call in self.calls
        )

    @torch.no_grad()
    def repeat(self) -> None:
        """Fill the last layer as torch's global generator would, had the network been built now."""
        for call in self.calls:
            call.function(*call.args, **call.named)


@torch.no_grad()
def find_head_draw(
    network: nn.Module, head_prefix: str, calls: Sequence[FillCall], generator: Tensor
) -> HeadDraw | None:
    """Return the repetition of `calls`; None if it does not give the same last layer.

    Args:
        network: The network as it was built.
        head_prefix: The prefix of the names of the last layer's parameters.
        calls: Those that filled tensors of as many rows as there are classes.
        generator: The state of torch's generator before the network was built.
    """
    named = network.named_parameters()
    parameters = [parameter for name, parameter in named if name.startswith(head_prefix)]
    draw = HeadDraw(calls, parameters)
    if not draw.can_repeat:
        return None
    values = [parameter.clone() for parameter in parameters]
    after = torch.get_rng_state()
    torch.set_rng_state(generator)
    draw.repeat()
    is_same = torch.equal(torch.get_rng_state(), after) and all(
        map(torch.equal, values, parameters)
    )
    torch.set_rng_state(after)
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
    return draw if is_same else None
