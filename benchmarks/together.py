"""Whole small networks trained together: `python -m benchmarks.together`.

Four networks of one architecture take one SGD step each, on batches of their own: one after the
other, and as one call with `torch.func` (`functional_call` under `vmap`). Batch norm uses the
statistics of the batch in both cases. In bf16 the weights are bf16 too, because torch's batch norm
under `vmap` has no gradient with autocast (torch 2.15). The measurements alternate; the shortest
processor time of eight counts, on one thread, because other processes may use the cores.
"""

import copy
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime

import torch
import torchvision
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state
from torch.func import vmap as map_over_networks
from torch.nn.functional import cross_entropy

NUM_NETWORKS, BATCH_SIZE, SIZE, NUM_CLASSES = 4, 16, 32, 10
NUM_STEPS, NUM_ROUNDS = 3, 8
LEARNING_RATE = 0.01


def main() -> None:
    """Print one line per network and precision."""
    print(f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, torch {torch.__version__}")
    load = os.getloadavg()[0]
    print(f"machine   {platform.machine()}, {os.cpu_count()} processors, load {load:.1f}")
    for name, build in {"ResNet-18": build_resnet, "small CNN": build_small}.items():
        for precision, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
            apart, together = compare(build, dtype)
            print(
                f"{name}, {precision}: {apart * 1e3:.0f} ms apart, {together * 1e3:.0f} ms "
                f"together, gain {apart / together:.2f} (1.5 would be worth it)",
                flush=True,
            )


def build_resnet() -> nn.Module:
    """Return torchvision's ResNet-18."""
    network: nn.Module = torchvision.models.resnet18(num_classes=NUM_CLASSES)
    return network


def build_small() -> nn.Module:
    """Return a network of three convolutions."""
    layers: list[nn.Module] = []
    for num_in, num_out in ((3, 32), (32, 64), (64, 128)):
        conv = nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(num_out), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, NUM_CLASSES))


def compare(build: Callable[[], nn.Module], dtype: torch.dtype) -> tuple[float, float]:
    """Return the shortest seconds of a step of all networks, apart and together."""
    networks = [replace_all_batch_norm_modules_(build()).to(dtype) for _ in range(NUM_NETWORKS)]
    images = torch.randn(NUM_NETWORKS, BATCH_SIZE, 3, SIZE, SIZE, dtype=dtype)
    labels = torch.randint(NUM_CLASSES, (NUM_NETWORKS, BATCH_SIZE))
    apart, together = make_apart(networks, images, labels), make_together(networks, images, labels)
    seconds: dict[str, list[float]] = {"apart": [], "together": []}
    for number in range(1 + NUM_ROUNDS):  # the first one warms up
        for name, step in {"apart": apart, "together": together}.items():
            started = time.process_time()
            for _ in range(NUM_STEPS):
                step()
            if number:
                seconds[name].append((time.process_time() - started) / NUM_STEPS)
    return min(seconds["apart"]), min(seconds["together"])


def make_apart(networks: list[nn.Module], images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that takes a step of each network, one after the other."""
    optimizers = [torch.optim.SGD(n.parameters(), LEARNING_RATE, fused=True) for n in networks]

    def step() -> None:
        for index, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            optimizer.zero_grad()
            cross_entropy(network(images[index]).float(), labels[index]).backward()
            optimizer.step()

    return step


def make_together(networks: list[nn.Module], images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that takes a step of all networks at once."""
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to("meta")

    def compute_loss(
        own: dict[str, Tensor], own_buffers: dict[str, Tensor], batch: Tensor, targets: Tensor
    ) -> Tensor:
        logits = functional_call(base, (own, own_buffers), (batch,))
        return cross_entropy(logits.float(), targets)

    compute_gradients = map_over_networks(grad(compute_loss))

    def step() -> None:
        gradients = compute_gradients(parameters, buffers, images, labels)
        with torch.no_grad():
            for name, gradient in gradients.items():
                parameters[name].sub_(gradient, alpha=LEARNING_RATE)

    return step


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
