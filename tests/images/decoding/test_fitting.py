"""Fitting of an image into a square: crop, squash or pad."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trialrun.images.decoding.fitting import FITS, place_image
from trialrun.images.decoding.preprocessing import Preprocessing


def make_edges(width: int, height: int) -> torch.Tensor:
    """Return a gray image whose left sixth is red and whose right sixth is blue."""
    pixels = np.full((height, width, 3), 128, dtype=np.uint8)
    pixels[:, : width // 6] = (255, 0, 0)
    pixels[:, -(width // 6) :] = (0, 0, 255)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def test_crop_resizes_the_central_square() -> None:
    """The pixels are those of torch's antialiased resize of the square."""
    noise = np.random.default_rng(1).integers(0, 256, (61, 90, 3), dtype=np.uint8)
    image = torch.from_numpy(noise).permute(2, 0, 1)
    square = image[None, :, 4:57, 18:71].contiguous(memory_format=torch.channels_last)
    expected = F.interpolate(square, size=(32, 32), mode="bilinear", antialias=True)[0]
    assert torch.equal(Preprocessing(32, crop_fraction=0.875).prepare(image), expected)


def test_squash_and_pad_keep_both_sides_of_a_wide_image() -> None:
    """Crop loses them; pad keeps the aspect ratio, with borders of the mean color."""
    image = make_edges(192, 64)
    crop, squash, pad = (Preprocessing(48, fit=fit).prepare(image) for fit in FITS)
    assert crop.unique().tolist() == [128]
    for fitted in (squash, pad):
        assert fitted.shape == (3, 48, 48)
        assert fitted[:, 24, 2].tolist() == [255, 0, 0]
        assert fitted[:, 24, -3].tolist() == [0, 0, 255]
    assert squash[:, 0, 24].tolist() == [128] * 3
    assert pad[:, 15, 0].tolist() == pad[:, 32, 40].tolist() == [124, 116, 104]
    assert pad[:, 16, 24].tolist() == pad[:, 31, 24].tolist() == [128] * 3


def test_padding_is_zero_after_normalization() -> None:
    """The borders' color is the mean, up to rounding."""
    preprocessing = Preprocessing(48, fit="pad")
    inputs = preprocessing.normalised(preprocessing.prepare(make_edges(192, 64))[None])
    assert inputs[0, :, 0, 0].abs().max() < 0.01


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.integers(1, 600),
    st.sampled_from(FITS),
    st.floats(0.05, 1),
)
@settings(max_examples=100)
def test_a_place_lies_in_the_image_and_in_the_square(
    width: int, height: int, size: int, fit: str, fraction: float
) -> None:
    """Boxes have at least one pixel; only pad leaves a border."""
    place = place_image(width, height, size, fit, fraction)
    assert 0 <= place.left < place.left + place.width <= width
    assert 0 <= place.top < place.top + place.height <= height
    assert 0 <= place.out_left < place.out_left + place.out_width <= size
    assert 0 <= place.out_top < place.out_top + place.out_height <= size
    assert fit == "pad" or (place.out_width, place.out_height) == (size, size)


def test_fit_and_value_range_are_recorded_and_read() -> None:
    """Models without the keys crop; versions without them read the default's description."""
    changed = Preprocessing(8, fit="pad", value_range=(-1000, 400))
    assert Preprocessing.from_json(json.loads(json.dumps(changed.to_json()))) == changed
    default = Preprocessing(8).to_json()
    assert set(default) == {"image_size", "mean", "std"}
    assert Preprocessing.from_json(default).fit == "crop"


@pytest.mark.parametrize("invalid", [{"fit": "stretch"}, {"value_range": [9, 9]}, {"gamma": 2}])
def test_unknown_fits_ranges_and_keys_are_refused(invalid: dict[str, object]) -> None:
    """A description that this version cannot follow is an error, not ignored."""
    with pytest.raises(ValueError, match=next(iter(invalid))):
        Preprocessing.from_json({**Preprocessing(8).to_json(), **invalid})


@pytest.mark.parametrize("fit", FITS)
def test_a_stored_image_is_fitted_as_the_image_itself(fit: str) -> None:
    """Squashing first and fitting then gives about the pixels of fitting alone."""
    preprocessing, image = Preprocessing(48, fit=fit), make_edges(192, 96)
    stored = Preprocessing(96, fit="squash").prepare(image)
    fitted = preprocessing.fit_stored(stored[None], [2.0])[0]
    assert (fitted.float() - preprocessing.prepare(image).float()).abs().mean() < 3
