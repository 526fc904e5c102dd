"""Tests of the groups of test images."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from trialrun.runs.evaluation.groups import LikenessSampler, group_images


def draw_image(seed: int) -> torch.Tensor:
    """Return a smooth random image, (3, 32, 32) uint8."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, 32, mode="bilinear")[0].to(torch.uint8)


def test_different_images_are_independent() -> None:
    """Without groups, copies and look-alikes every image is an observation."""
    grouped = group_images(["a", "b", "c"], ())
    assert (grouped.groups, grouped.num_groups, grouped.num_alike) == (None, None, 0)


def test_copies_are_one_observation() -> None:
    """Files of equal content form a group; files of unknown content do not."""
    grouped = group_images(["a", "b", "a", "", ""], ())
    assert grouped.groups is not None
    assert grouped.groups[0] == grouped.groups[2]
    assert (grouped.num_groups, grouped.num_alike, grouped.is_named) == (4, 2, False)


def test_copies_join_named_groups() -> None:
    """A copy that lies in two groups joins them; an image without a group is its own."""
    grouped = group_images(["a", "b", "c", "b", "d"], ["x", "x", "y", "y", None])
    assert grouped.groups is not None
    assert len(set(grouped.groups[:4])) == 1
    assert (grouped.num_groups, grouped.is_named) == (2, True)


def test_look_alikes_are_one_observation() -> None:
    """Images that differ by little noise are grouped by their perceptual hashes."""
    sampler = LikenessSampler()
    sampler.add(draw_image(1))
    sampler.add("cannot be read")
    sampler.add(draw_image(2))
    sampler.add(draw_image(1) + 1)
    hashes = sampler.compute_hashes()
    assert hashes.shape == (4, 80)
    grouped = group_images(["a", "b", "c", "d"], (), hashes)
    assert grouped.groups is not None
    assert grouped.groups[0] == grouped.groups[3]
    assert (grouped.num_groups, grouped.num_alike) == (3, 2)


@given(st.lists(st.one_of(st.none(), st.sampled_from("abc")), min_size=1, max_size=30))
def test_images_share_a_group_only_by_name(names: list[str | None]) -> None:
    """Two images of different content are in one group exactly if they have the same name."""
    grouped = group_images([str(number) for number in range(len(names))], names)
    groups = np.arange(len(names)) if grouped.groups is None else grouped.groups
    for first, name in enumerate(names):
        for second in range(first):
            is_same = name is not None and name == names[second]
            assert (groups[first] == groups[second]) == is_same
