"""Groups of test images that are not independent: of one patient, for example, or alike."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from trialrun.image_cache.perceptual_hash import (
    PerceptualHashes,
    Sample,
    compute_hashes,
    find_near_duplicates,
    sample_image,
    shrink_to_grays,
)
from trialrun.report.intervals import Groups

_CHUNK_IMAGES = 512

_Pairs = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class ImageGroups:
    """The groups of N test images.

    `groups` is (N,); None if every image is a group of its own. `is_named` says whether the user
    named groups. `num_alike` counts images that are copies of others or look like them.
    """

    groups: Groups | None = None
    is_named: bool = False
    num_alike: int = 0

    @property
    def num_groups(self) -> int | None:
        """The number of groups; None if every image is a group of its own."""
        return None if self.groups is None else int(self.groups.max()) + 1


class LikenessSampler:
    """Collects what perceptual hashes are computed from, while images are decoded for scoring."""

    def __init__(self) -> None:
        self._grays = bytearray()
        self._samples: list[Sample | None] = []  # of the images that are not yet in `_grays`

    def add(self, pixels: Tensor | str) -> None:
        """Add the (3, S, S) uint8 pixels of the next image, or the reason why it has none."""
        is_square = isinstance(pixels, Tensor) and pixels.shape[1] == pixels.shape[2]
        self._samples.append(
            sample_image(pixels.permute(1, 2, 0).contiguous().numpy())
            if isinstance(pixels, Tensor) and is_square
            else None
        )
        if len(self._samples) == _CHUNK_IMAGES:
            self._shrink_samples()

    def compute_hashes(self) -> PerceptualHashes:
        """Return the (N, 80) hashes; zeros for an image without pixels."""
        self._shrink_samples()
        return compute_hashes(bytes(self._grays))

    def _shrink_samples(self) -> None:
        """Reduce the samples to their grays, which take a sixteenth of the memory."""
        self._grays += shrink_to_grays(self._samples)
        self._samples.clear()


def group_images(
    sha256: Sequence[str],
    names: Sequence[str | None],
    hashes: PerceptualHashes | None = None,
) -> ImageGroups:
    """Group N images by their named groups, equal content and likeness.

    Args:
        sha256: The hash of each image's content; empty if unknown.
        names: The named group of each image; empty if no image has one.
        hashes: (N, 80) perceptual hashes; None to group by equal content only.
    """
    alike = _pair_equal([value or None for value in sha256])
    if hashes is not None:
        near = find_near_duplicates(hashes, hashes)
        alike += [(left, right) for left, right in near.pairs if left < right]
    components = _connect(_pair_equal(names) + alike, len(sha256))
    num_components = len(np.unique(components))
    return ImageGroups(
        groups=None if num_components == len(sha256) else components,
        is_named=any(name is not None for name in names),
        num_alike=len({row for pair in alike for row in pair}),
    )


def _pair_equal(keys: Sequence[str | None]) -> _Pairs:
    """Pair each row with the first row of the same key; None equals nothing."""
    first: dict[str, int] = {}
    return [
        (first[key], row)
        for row, key in enumerate(keys)
        if key is not None and first.setdefault(key, row) != row
    ]


def _connect(pairs: _Pairs, num_rows: int) -> Groups:
    """Return (N,) the number of the connected component of each row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    edges = coo_array((np.ones(len(pairs)), (left, right)), shape=(num_rows, num_rows))
    _, components = connected_components(edges, directed=False)
    return np.asarray(components, dtype=np.int64)
