"""The image size that training begins with (progressive_resize), checked with the network."""

from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from trialrun.config import TrainConfig
from trialrun.config.settings import OFF_TEXT, ON_TEXT
from trialrun.config.train_checks import check_first_size
from trialrun.engine.image_sizes import (
    SizeSchedule,
    find_half_size,
    find_size_step,
    plan_image_sizes,
)
from trialrun.errors import InvalidParameterError
from trialrun.models.zoo.networks import check_image_size

RESOLVED_SIZES = "resolved_train_image_sizes"


def resolve_first_size(
    config: TrainConfig, network: nn.Module, architecture: str, full: int
) -> TrainConfig:
    """Return the settings with the first size in pixels; `full` is the image size.

    `on` is half the image size, or the smallest larger size that the network takes.

    Raises:
        InvalidParameterError: The network does not take smaller images, or not those of the
            setting; or these are not smaller.
    """
    first = config.progressive_resize
    if first == OFF_TEXT:
        return config
    check_first_size(first, full)
    wanted = find_half_size(full) if first == ON_TEXT else int(first)
    smallest = _find_smallest(network, architecture, wanted, full)
    if smallest is None:
        raise InvalidParameterError(
            f"progressive_resize={first}: {architecture} takes no images below {full} pixels "
            f"(tried in steps of {find_size_step(full)})",
            "Set progressive_resize=off, or a larger image_size.",
        )
    if first not in (ON_TEXT, smallest):
        raise InvalidParameterError(
            f"progressive_resize={first}: {architecture} does not take images of {first} pixels",
            f"Set progressive_resize={smallest}, which it takes.",
        )
    resolved = replace(config, progressive_resize=smallest)
    _check_sizes(network, architecture, plan_image_sizes(resolved, full))
    return resolved


def describe_unused(config: TrainConfig, full: int) -> str | None:
    """Return why no epoch has smaller images although progressive_resize is set; None if one has.

    `config` is resolved.
    """
    if config.progressive_resize == OFF_TEXT or plan_image_sizes(config, full) is not None:
        return None
    if config.freeze == "backbone":
        return "progressive_resize has no effect: freeze=backbone trains the last layer only"
    return (
        "progressive_resize has no effect: all layers train in one epoch only, which has the full "
        "image size"
    )


def _find_smallest(network: nn.Module, architecture: str, wanted: int, full: int) -> int | None:
    """Return `wanted` or the next size that the network takes; None if none is below `full`."""
    for size in _list_sizes(wanted, full):
        if _takes_size(network, architecture, size):
            return size
    return None


def _list_sizes(wanted: int, full: int) -> Iterator[int]:
    step = find_size_step(full)
    yield wanted
    yield from range((wanted // step + 1) * step, full, step)


def _takes_size(network: nn.Module, architecture: str, size: int) -> bool:
    try:
        check_image_size(network, architecture, size)
    except InvalidParameterError:
        return False
    return True


def _check_sizes(network: nn.Module, architecture: str, schedule: SizeSchedule | None) -> None:
    """Check the sizes after the first: some networks take multiples of a number only."""
    for size, epoch in [] if schedule is None else schedule.list_sizes()[1:-1]:
        if not _takes_size(network, architecture, size):
            raise InvalidParameterError(
                f"progressive_resize: {architecture} does not take images of {size} pixels, the "
                f"size in epoch {epoch}",
                "Set progressive_resize=off.",
            )
