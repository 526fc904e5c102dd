"""Writes torchvision's weights of a network under the names of timm's copy of it.

python timm_weights.py FILE NETWORK OUT

Both have the same layers in the same order, so the names are exchanged by position.
"""

import sys

import timm
import torch


def main(file: str, network: str, out: str) -> None:
    """Write the state dict."""
    theirs = timm.create_model(network).state_dict()
    ours = torch.load(file, weights_only=True)
    renamed = dict(zip(theirs, ours.values(), strict=True))
    for name, values in renamed.items():
        assert values.shape == theirs[name].shape, name
    torch.save(renamed, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
