"""JPEG photos for benchmarks: random crops of the two photographs in scikit-learn.

About 400 by 350 pixels and 20 to 50 kB each, like photos scaled down for the web.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

_CLASSES = ("china", "flower")
_JPEG_QUALITY = 90


def write_photos(folder: Path, num_images: int, *, seed: int) -> Path:
    """Write `num_images` photos of two classes to `folder`; the same seed gives the same photos."""
    random = np.random.default_rng(seed)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    for number in range(num_images):
        label = number % len(_CLASSES)
        path = folder / _CLASSES[label] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        _crop(sources[label], random).save(path, quality=_JPEG_QUALITY)
    return folder


def encode_large_photo(index: int) -> bytes:
    """Return a JPEG of 12 megapixels: photo `index`, enlarged, with the noise of a camera."""
    image = Image.fromarray(load_sample_images().images[index]).resize(
        (4000, 3000), Image.Resampling.BICUBIC
    )
    noise = np.random.default_rng(index).normal(0, 4, (3000, 4000, 1))
    noisy = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()


def _crop(source: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = (int(random.integers(low, high)) for low, high in ((380, 420), (330, 370)))
    left = int(random.integers(0, source.width - width))
    top = int(random.integers(0, source.height - height))
    return source.crop((left, top, left + width, top + height))
