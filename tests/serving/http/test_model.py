"""Which network the server computes: the certified engine of a version, or torch."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.serving.http.servers import encode_image, register_versions, run_server
from trialrun.config.engines import ONNX_RUNTIME
from trialrun.models.directory import read_model_directory, write_model_directory
from trialrun.models.manifest import WEIGHTS
from trialrun.scoring.engines.build import build_engine

pytestmark = pytest.mark.slow


def write_certified(source: Path, folder: Path) -> Path:
    """Write a copy of a model directory that is certified for ONNX Runtime."""
    stored = read_model_directory(source)
    files = build_engine(ONNX_RUNTIME, stored.build_classifier(), [])
    described = replace(stored.description, engine=ONNX_RUNTIME)
    folder.mkdir()
    write_model_directory(folder, described, (source / WEIGHTS).read_bytes(), files)
    return folder


def test_certified_engine_computes(small_model: Path, store: str, tmp_path: Path) -> None:
    """A version with an engine is served with it, unless torch is asked for; scores are equal."""
    register_versions(store, [write_certified(small_model, tmp_path / "certified")])
    results = {}
    for engine in ("auto", "torch"):
        flags = ("--engine", engine)
        with run_server("models:/colors/1", tmp_path / engine, *flags) as server:
            results[engine] = server.predict(encode_image())
            name = ONNX_RUNTIME if engine == "auto" else "torch-fp32"
            label = f'trialrun_model_info{{engine="{name}",model="colors",version="1"}}'
            assert server.read_metric(label) == 1
    assert results["auto"]["confidence"] == pytest.approx(results["torch"]["confidence"], abs=1e-4)
