"""Which places of an image a prediction comes from (Grad-CAM).

Tensor letters: N images, S the image size, H and W the size of a feature map.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from trialrun.models.classifier import ImageClassifier


def compute_heat(
    classifier: ImageClassifier, pixels: Tensor, class_indices: NDArray[np.int64]
) -> NDArray[np.float32] | None:
    """Return the (N, S, S) share from 0 to 1 that each place has in the score of a class.

    None if the network has no feature maps, such as a transformer.

    Args:
        classifier: The network, in fp32 and in eval mode, on the CPU. Its parameters are frozen.
        pixels: (N, 3, S, S) uint8.
        class_indices: (N,), the class of each image to explain.

    Source:
        Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391; computed by captum.
    """
    from captum.attr import LayerGradCam

    inputs = classifier.preprocessing.normalised(pixels)
    layer = _find_last_feature_maps(classifier, inputs[:1])
    if layer is None:
        return None
    classifier.requires_grad_(requires_grad=False)
    cut = layer.register_forward_hook(_start_graph)
    try:
        with torch.enable_grad():
            cam = LayerGradCam(classifier, layer)
            maps = cam.attribute(inputs, torch.from_numpy(class_indices), relu_attributions=True)
    finally:
        cut.remove()
    return _scale_maps(maps.detach().float(), pixels.shape[-1])


def _start_graph(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
    """Let the graph begin behind the feature maps: the gradient of what precedes is not needed."""
    return output.detach().requires_grad_()


def _scale_maps(maps: Tensor, size: int) -> NDArray[np.float32]:
    """(N, 1, H, W) to (N, S, S), with 1 at the largest value of each map."""
    maps = F.interpolate(maps, size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    largest = maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    scaled: NDArray[np.float32] = (maps / largest).numpy()
    return scaled


def _find_last_feature_maps(model: nn.Module, inputs: Tensor) -> nn.Module | None:
    """Return the last module that computes an (N, C, H, W) output with more than one place.

    None if sequences follow it: a transformer mixes the places.
    """
    found: list[nn.Module] = []

    def note_output(module: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        if output.ndim == 3:
            found.clear()
        elif output.ndim == 4 and output[0, 0].numel() > 1:
            found.append(module)

    hooks = [module.register_forward_hook(note_output) for module in model.modules()]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[-1] if found else None
