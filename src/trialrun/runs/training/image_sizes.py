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


def resolve_image_sizes(
    config: TrainConfig, network: nn.Module, architecture: str, full: int
) -> tuple[TrainConfig, str | None]:
    """Return the settings with the first size in pixels, and why it is `off` if it was not.

    `config` is resolved otherwise; `full` is the image size. `on` becomes half the image size, or
    the smallest larger size that the network takes.

    Raises:
        InvalidParameterError: The network does not take smaller images, or not those of the
            setting; or these are not smaller.
    """
    if config.progressive_resize == OFF_TEXT:
        return config, None
    off = replace(config, progressive_resize=OFF_TEXT)
    if config.progressive_resize == ON_TEXT and find_half_size(full) >= full:
        return off, (
            f"progressive_resize=on has no effect: images of {full} pixels hardly train faster if "
            "they are made smaller; a number of pixels does it anyway"
        )
    resolved = replace(
        config, progressive_resize=_find_first_size(config, network, architecture, full)
    )
    schedule = plan_image_sizes(resolved, full)
    if schedule is None:
        return off, f"progressive_resize has no effect: {_describe_epochs(config)}"
    _check_sizes(network, architecture, schedule)
    return resolved, None


def _describe_epochs(config: TrainConfig) -> str:
    if config.freeze == "backbone":
        return "freeze=backbone trains the last layer only"
    return "all layers train in one epoch only, which has the full image size"


def _find_first_size(config: TrainConfig, network: nn.Module, architecture: str, full: int) -> int:
    """Return the first size in pixels, which the network takes."""
    first = config.progressive_resize
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
    return smallest


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


def _check_sizes(network: nn.Module, architecture: str, schedule: SizeSchedule) -> None:
    """Check the sizes between the first and the last: some networks take multiples of 32 only."""
    for size, epoch in schedule.list_sizes()[1:-1]:
        if not _takes_size(network, architecture, size):
            raise InvalidParameterError(
                f"progressive_resize: {architecture} does not take images of {size} pixels, the "
                f"size in epoch {epoch}",
                "Set progressive_resize=off.",
            )
