"""Models of colours that plain MLflow saved: the largest channel of an image is its class."""

import textwrap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pytest

CLASSES = ("blue", "green", "red")  # the classes of the fixture `colors`, in the order of channels

HEADER = """
import io
import mlflow
import numpy as np
import pandas as pd
from PIL import Image

CLASSES = ["blue", "green", "red"]

def measure(contents):
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in contents]
    channels = np.array([np.asarray(image).mean((0, 1)) for image in images])
    return channels / channels.sum(axis=1, keepdims=True)

class ColorModel(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
"""


def save_code_model(folder: Path, body: str, **options: Any) -> Path:
    """Save a pyfunc from code, with `body` as its `predict`; return the model's folder."""
    script = folder.with_suffix(".py")
    footer = "\nmlflow.models.set_model(ColorModel())\n"
    script.write_text(HEADER + textwrap.indent(textwrap.dedent(body), " " * 8) + footer)
    options = {"pip_requirements": ["mlflow"], **options}
    with warnings.catch_warnings(record=True):  # MLflow's advice on hints and examples
        warnings.simplefilter("always")  # pytest would raise it
        mlflow.pyfunc.save_model(folder, python_model=str(script), **options)
    return folder


@pytest.fixture
def contents(colors: Path) -> Sequence[bytes]:
    """Three images of each class: blue, green, red."""
    return [(colors / name / f"{n:03}.png").read_bytes() for name in CLASSES for n in range(3)]


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a pyfunc from code in a new folder: `save(body, name=..., **options)`."""

    def save_model(body: str, name: str = "model", **options: Any) -> Path:
        return save_code_model(tmp_path / name, body, **options)

    return save_model
