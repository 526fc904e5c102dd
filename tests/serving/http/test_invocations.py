"""`POST /invocations`: the same responses as MLflow's own server."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.pyfunc import scoring_server

from tests.serving.http.servers import Server, encode_image
from trialrun.models.directory import read_model_directory
from trialrun.serving.package import add_serving_files

IMAGES = [encode_image(seed=number) for number in range(3)]
TEXTS = [base64.b64encode(image).decode() for image in IMAGES]
RECORDS = [{"image": text} for text in TEXTS]


def format_parquet() -> bytes:
    """Return the images as a Parquet file."""
    file = io.BytesIO()
    pd.DataFrame({"image": IMAGES}).to_parquet(file)
    return file.getvalue()


BODIES: dict[str, tuple[bytes, str]] = {
    name: (json.dumps(values).encode(), "application/json")
    for name, values in {
        "split": {"dataframe_split": {"columns": ["image"], "data": [[text] for text in TEXTS]}},
        "records": {"dataframe_records": RECORDS},
        "inputs": {"inputs": TEXTS},
        "inputs as columns": {"inputs": {"image": TEXTS}},
        "inputs as records": {"inputs": RECORDS},
        "instances": {"instances": TEXTS},
        "instances as records": {"instances": RECORDS},
    }.items()
} | {
    "csv": (pd.DataFrame({"image": TEXTS}).to_csv(index=False).encode(), "text/csv; charset=utf-8"),
    "parquet": (format_parquet(), "application/vnd.apache.parquet"),
}


@pytest.fixture(scope="module")
def pyfunc(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same model as MLflow's server loads it."""
    folder = tmp_path_factory.mktemp("pyfunc") / "model"
    folder.mkdir()
    for path in small_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    description = read_model_directory(folder).description
    add_serving_files(folder, description, model_id="m-0", run_id="0")
    return mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize("name", BODIES)
def test_response_equals_that_of_mlflows_server(server: Server, pyfunc: Any, name: str) -> None:
    """Every format that MLflow takes has the same rows; probabilities differ by rounding alone."""
    body, kind = BODIES[name]
    schema = pyfunc.metadata.get_input_schema()
    expected = json.loads(scoring_server.invocations(body, kind, pyfunc, schema).response)
    status, answer = server.request("/invocations", body, kind)
    assert status == 200
    assert list(answer) == list(expected)
    assert len(answer["predictions"]) == len(IMAGES)
    for row, expected_row in zip(answer["predictions"], expected["predictions"], strict=True):
        assert list(row) == list(expected_row)
        assert row.pop("Scored Labels") == expected_row.pop("Scored Labels")
        assert row == pytest.approx(expected_row, abs=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"inputs": ["no base64"]},
        {"inputs": [TEXTS[0], "/etc/passwd"]},
        {"inputs": ["http://127.0.0.1/a.png"]},
        {"inputs": [1]},
        {"inputs": {"other": TEXTS}},
        {"dataframe_split": {"columns": ["other"], "data": [[TEXTS[0]]]}},
        {"dataframe_split": 3},
        {"unknown": TEXTS},
        {"inputs": TEXTS, "instances": TEXTS},
        [],
        {"messages": [{"role": "user", "content": "x"}]},
    ],
)
def test_invalid_input_is_a_400_without_a_traceback(server: Server, values: Any) -> None:
    """The response has MLflow's code and message, and no trace of the code."""
    status, answer = server.request("/invocations", json.dumps(values), "application/json")
    assert status == 400
    assert set(answer) == {"error_code", "message"}
    assert "Traceback" not in answer["message"]


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff", "text/csv", 400),
        (b"no parquet", "application/vnd.apache.parquet", 400),
        (b'{"dataframe_split": {"columns": ["image"], "data": {}}}', "application/json", 400),
        (b"{}", "text/html", 415),
        (b"{}", "application/json; charset=latin-1", 415),
        (b"{}", None, 415),
        (b" " * 200_001, "application/json", 413),
        (json.dumps({"inputs": [""] * 65}).encode(), "application/json", 413),
    ],
)
def test_refused_bodies_have_their_code(
    server: Server, body: bytes, kind: str | None, status: int
) -> None:
    """Other content types, broken bodies and large ones are refused."""
    assert server.request("/invocations", body, kind)[0] == status
