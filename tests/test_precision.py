"""What decides the arithmetic and the memory layout of a training."""

import pytest
import torch

from trialrun.engine.precision import Arithmetic, resolve
from trialrun.errors import InvalidParameterError
from trialrun.models.zoo import build


@pytest.mark.parametrize(
    ("model", "precision", "size", "layout"),
    [
        ("resnet18", "fp32", 64, "NCHW"),
        ("resnet18", "fp32", 224, "NHWC"),
        ("resnet18", "bf16", 64, "NHWC"),
        ("densenet121", "fp32", 64, "NHWC"),
    ],
)
def test_layout_follows_from_network_precision_and_size(
    model: str, precision: str, size: int, layout: str
) -> None:
    """Small images of a network of dense convolutions stay NCHW in fp32; all else is NHWC."""
    with torch.device("meta"):
        network = build(model, 2, image_size=None)
    chosen = Arithmetic(torch.device("cpu"), precision).suited_to(network, size)
    assert chosen.layout == layout


def test_device_that_is_not_there_is_refused() -> None:
    """A device is checked before anything is computed."""
    with pytest.raises(InvalidParameterError, match="cuda:77"):
        resolve("cuda:77", "auto")
    with pytest.raises(InvalidParameterError, match="no device"):
        resolve("abacus", "auto")
    with pytest.raises(InvalidParameterError, match="fp16"):
        resolve("cpu", "fp16")
