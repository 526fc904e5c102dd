"""Folding of batch normalization into the convolutions before it, which is exact in inference.

A convolution is followed by another operation if that operation alone uses its result. torch.fx
finds this by tracing; of a network that it cannot trace, it traces the parts that it can.
"""

import copy
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class _Tracer(torch.fx.Tracer):
    """Traces the calling thread alone.

    torch.fx replaces methods of `nn.Module` for all threads while it traces. A server computes with
    one network while it loads another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Record a call, or pass it on if another thread makes it."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Return what an attribute is in the trace, or its value if another thread reads it."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


def find_followers(network: nn.Module, prefix: str = "") -> dict[str, str]:
    """Map the name of each submodule to the name of the one that alone uses its result.

    Both are called exactly once per forward pass.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # tracing runs the network's own code, which can raise any error
        return {
            first: second
            for name, child in network.named_children()
            for first, second in find_followers(child, f"{prefix}{name}.").items()
        }
    calls = [node for node in graph.nodes if node.op == "call_module"]
    num_calls = Counter(node.target for node in calls)
    return {
        prefix + str(node.args[0].target): prefix + str(node.target)
        for node in calls
        if node.args
        and isinstance(node.args[0], torch.fx.Node)
        and node.args[0].op == "call_module"
        and len(node.args[0].users) == 1
        and num_calls[node.target] == num_calls[node.args[0].target] == 1
    }


def fold_batch_norm(network: nn.Module, followers: Mapping[str, str]) -> nn.Module:
    """Return a network without the batch norms that follow a convolution; it replaces them.

    The result has modules of its own, but shares the tensors that folding does not change.
    `network` is in eval mode and remains as it is.
    """
    folded = copy_modules(network)
    modules = dict(network.named_modules())
    for first, second in followers.items():
        convolution, norm = modules[first], modules[second]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            folded.set_submodule(first, fuse_conv_bn_eval(convolution, norm))
            folded.set_submodule(second, nn.Identity())
    return folded


def copy_modules(network: nn.Module) -> nn.Module:
    """Return a copy of a network that shares its parameters and buffers."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return copy.deepcopy(network, tensors)
