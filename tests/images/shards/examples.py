"""Shards as other tools write them."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def make_png(seed: int) -> bytes:
    """Return a small PNG file; its pixels depend on the seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    """Write a plain tar, as WebDataset does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_hub_parquet(
    path: Path,
    labels: Sequence[Any],
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Path:
    """Write a Parquet file as Hugging Face's datasets does, with `names` as a ClassLabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [
        {"bytes": make_png(seed + row), "path": f"{seed + row}.png"} for row in range(len(labels))
    ]
    table = pa.table({"image": images, "label": labels, **(columns or {})})
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if names:
        features["label"] = {"names": list(names), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=2)
    return path
