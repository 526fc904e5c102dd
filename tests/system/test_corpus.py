"""Pillow's own thousand test images, with broken and unusual ones: none crashes or hangs.

The tests download 47 MB, so they run only with `pytest -m corpus`.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.conftest import SAFE_EXTRACTION
from tests.system.conftest import skip_unless_ci
from trialrun.images.decoding.decode import decode_image

PILLOW = "pillow==13.0.0"
FETCH_SECONDS = 240
CHECK_SECONDS = 120
# Modes that Pillow converts to RGB without a judgement of its own.
PLAIN_MODES = {"1", "L", "RGB", "CMYK", "YCbCr"}
# Two inverse cosine transforms may differ by a few grays at a pixel, not over a picture.
MAX_MEAN_DIFFERENCE = 2.0

pytestmark = pytest.mark.corpus


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download Pillow's source distribution; return its folder of test images."""
    pip = shutil.which("pip", path=Path(sys.executable).parent) or shutil.which("pip")
    if pip is None:
        skip_unless_ci("there is no pip to fetch Pillow's source distribution with")
    folder = tmp_path_factory.mktemp("pillow")
    options = ["-q", "--no-deps", "--no-binary", "pillow", "-d", str(folder)]
    command = [pip, "download", *options, PILLOW]
    try:
        fetched = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired:
        skip_unless_ci(f"Pillow's source distribution did not come within {FETCH_SECONDS} s")
    archives = list(folder.glob("*.tar.gz"))
    if not archives:
        reason = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
        skip_unless_ci(f"Pillow's source distribution cannot be fetched: {reason}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, **SAFE_EXTRACTION)
    return next(folder.glob("*/Tests/images"))


def check_images(images: Path) -> dict[str, Any]:
    """Return the report of `data check` on the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "trialrun", "data", "check", str(images), "--json"],
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS,
    )
    assert done.returncode == 3, done.stderr  # far more than a tenth is broken on purpose
    assert "Traceback" not in done.stderr
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["sets"][0]
    return values


def test_every_image_has_a_stable_verdict(images: Path) -> None:
    """Nothing crashes or hangs, each skipped image has a reason, a second check is equal."""
    first = check_images(images)
    assert first["num_images"] > 700
    assert first["num_good"] + first["num_warned"] + first["num_skipped"] == first["num_images"]
    assert all(first["skipped"].values())
    assert "took longer" not in " ".join(first["skipped"].values())
    assert check_images(images) == first


def test_decoded_pixels_are_those_of_pillow(images: Path) -> None:
    """Images of plain modes have the pixels that Pillow decodes."""
    num_compared = 0
    wrong = {}
    for path in sorted(images.rglob("*")):
        try:
            with Image.open(path) as image:
                if image.mode not in PLAIN_MODES or image.has_transparency_data:
                    continue
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            pixels = decode_image(path.read_bytes()).permute(1, 2, 0).numpy()
        except Exception:
            continue
        num_compared += 1
        if pixels.shape != expected.shape:
            wrong[path.name] = f"{pixels.shape} for {expected.shape}"
        elif (apart := np.abs(pixels.astype(int) - expected).mean()) > MAX_MEAN_DIFFERENCE:
            wrong[path.name] = f"{apart:.1f} grays apart"
    assert wrong == {}
    assert num_compared > 250
