"""Names of networks, known without importing torch, so that a misspelt name is reported early.

A test compares the list with the classification networks of the installed torchvision.
"""

import difflib
from pathlib import Path

from trialrun.errors import InvalidModelDirectoryError

ARCHITECTURES = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny
    densenet121 densenet161 densenet169 densenet201
    efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7
    efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
    googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3
    mobilenet_v2 mobilenet_v3_large mobilenet_v3_small
    regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf regnet_x_400mf regnet_x_800mf
    regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf regnet_y_3_2gf
    regnet_y_400mf regnet_y_800mf regnet_y_8gf
    resnet101 resnet152 resnet18 resnet34 resnet50
    resnext101_32x8d resnext101_64x4d resnext50_32x4d
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0
    squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b swin_v2_s swin_v2_t
    vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn
    vit_b_16 vit_b_32 vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()
)

# Azure ML designer's switches, and the network families with such a constructor argument.
SWITCHES = {
    "memory_efficient": ("densenet",),
    "zero_init_residual": ("resnet", "resnext", "wide_resnet"),
}

TIMM_PREFIX = "timm/"  # of timm's names; `timm_zoo` knows which of them exist

DEFAULT_WEIGHTS = "default"  # torchvision's or timm's

DESCRIPTION_FILE = "model.json"
MODEL_CARD = "MODEL_CARD.md"
AZURE_DESCRIPTION_FILE = "model_spec.yaml"


def is_network_name(model: str) -> bool:
    """Whether `model` is the name of a network, of timm's with any name after the prefix."""
    return model in ARCHITECTURES or model.startswith(TIMM_PREFIX)


def check_model_name(model: str) -> None:
    """Check that `model` is the name of a network, or a folder that looks like a model directory.

    Raises:
        InvalidModelDirectoryError: Neither; the hint suggests the nearest name.
    """
    if is_network_name(model):
        return
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_model_directory(folder, model)
        return
    matches = difflib.get_close_matches(model, ARCHITECTURES, n=1)
    suggestion = f"Did you mean {matches[0]}? " if matches else ""
    raise InvalidModelDirectoryError(
        f"{model} is neither a network nor a model directory",
        f"{suggestion}`trialrun model list` lists all networks.",
    )


def check_model_directory(folder: Path, name: str) -> None:
    """Check that `folder`, given by the user as `name`, contains a model description.

    Raises:
        InvalidModelDirectoryError: It contains neither trialrun's nor Azure ML designer's.
    """
    if not any((folder / file).is_file() for file in (DESCRIPTION_FILE, AZURE_DESCRIPTION_FILE)):
        raise InvalidModelDirectoryError(
            f"{name} holds neither {DESCRIPTION_FILE} nor {AZURE_DESCRIPTION_FILE}",
            "Write one with `trialrun model init NAME OUT`.",
        )


def supports_switch(architecture: str, switch: str) -> bool:
    """Whether the network's constructor takes a switch of Azure ML designer."""
    return architecture.startswith(SWITCHES[switch])
