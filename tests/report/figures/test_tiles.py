"""Pictures of several images."""

import pytest
from PIL import Image

from trialrun.report.figures.tiles import Tile, TileLayout, arrange_tiles

LAYOUT = TileLayout(columns=4, side=50, gap=10, line=15)


@pytest.mark.parametrize(("number", "size"), [(1, (60, 75)), (4, (240, 75)), (5, (240, 150))])
def test_picture_has_room_for_all_images(number: int, size: tuple[int, int]) -> None:
    """Images are in rows of four, with their text above them."""
    tiles = [Tile(Image.new("RGB", (8, 4)), ["a long text that does not fit"])] * number
    assert arrange_tiles(tiles, LAYOUT).size == size


def test_picture_needs_an_image() -> None:
    """Nothing to draw is an error of the caller."""
    with pytest.raises(ValueError, match="no images"):
        arrange_tiles([], LAYOUT)
