"""`POST /predict` and the other paths: responses, and the codes of what is refused."""

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import trialrun
from tests.serving.http.servers import (
    CLASSES,
    Server,
    encode_bomb,
    encode_image,
    encode_multipart,
    run_server,
    write_small_model,
)
from trialrun.scoring.labels import UNKNOWN

PNG = encode_image()
JPEG = encode_image("JPEG")
BROKEN = PNG[:100] + bytes(200) + PNG[300:]
CUT = JPEG[: len(JPEG) // 2]
BOMB = encode_bomb(2_000_000)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_image_is_scored_as_by_score(
    server: Server, small_model: Path, tmp_path: Path, kind: str
) -> None:
    """Label and probabilities equal those of `trialrun score`."""
    folder = tmp_path / "images"
    folder.mkdir()
    path = folder / f"image.{kind.lower()}"
    path.write_bytes(encode_image(kind))
    trialrun.score(str(small_model), str(folder), str(tmp_path / "scored.csv"))
    row = pd.read_csv(tmp_path / "scored.csv").iloc[0]
    result = server.predict(path.read_bytes())
    assert result["label"] == row["Scored Labels"]
    assert list(result["probabilities"]) == list(CLASSES)
    for name, probability in result["probabilities"].items():
        assert probability == pytest.approx(row[f"Scored Probabilities_{name}"], abs=1e-6)
    assert result["confidence"] == max(result["probabilities"].values())


def test_answer_names_the_model(server: Server) -> None:
    """A folder's name is that of its last part, without a version."""
    _, answer = server.request("/predict", PNG, "image/png")
    assert answer["model"] == {"name": "colors", "version": ""}


def test_top_returns_the_best_classes_first(server: Server) -> None:
    """Probabilities fall, and the first is the label's."""
    result = server.predict(PNG, "?top=2")
    assert next(iter(result["probabilities"])) == result["label"]
    values = list(result["probabilities"].values())
    assert len(values) == 2
    assert values == sorted(values, reverse=True)


def test_several_images_keep_their_order_and_names(server: Server) -> None:
    """Each part has its own result, equal to that of a request of its own."""
    files = {f"{number} ü.png": encode_image(seed=number) for number in range(5)}
    status, answer = server.request("/predict", *encode_multipart(files))
    assert status == 200
    assert [image["name"] for image in answer["images"]] == list(files)
    for image, data in zip(answer["images"], files.values(), strict=True):
        assert image["confidence"] == pytest.approx(server.predict(data)["confidence"], abs=1e-6)


def test_bad_images_among_good_ones_have_their_reason(server: Server) -> None:
    """Each bad image has the status that it would have alone; the first is that of the response."""
    files = {"good": PNG, "broken": CUT, "text": b"hello", "bomb": BOMB}
    status, answer = server.request("/predict", *encode_multipart(files))
    assert status == 422
    assert [image.get("status") for image in answer["images"]] == [None, 422, 415, 422]
    assert all(image["reason"] for image in answer["images"][1:])
    assert answer["images"][0]["label"] in CLASSES


def test_parts_of_other_names_are_refused(server: Server) -> None:
    """The reason names the field."""
    body, kind = encode_multipart({"a.png": PNG})
    status, answer = server.request("/predict", body.replace(b'"images"', b'"file"'), kind)
    assert (status, answer["reason"]) == (422, "every part must be named images")


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (CUT, "image/jpeg", 422, "damaged"),
        (BROKEN, "image/png", 422, "damaged"),
        (b"", "image/png", 422, "empty"),
        (BOMB, "image/png", 422, "2,000,000 pixels; the limit is 1,000,000"),
        (b"hello", "image/png", 415, "not an image"),
        (b"<svg></svg>", "image/svg+xml", 415, "SVG"),
        (b"/etc/passwd", "application/octet-stream", 415, "not an image"),
        (b"http://127.0.0.1/image.png", "image/png", 415, "not an image"),
        (PNG, "text/plain", 415, "send image/*"),
        (PNG, None, 415, "no content type"),
        (bytes(200_001), "image/png", 413, "larger than 200,000 bytes"),
        (b"x", "multipart/form-data", 400, "no boundary"),
        (b"x", "multipart/form-data; boundary=limit", 400, "multipart"),
        (b"--limit--\r\n", "multipart/form-data; boundary=limit", 422, "no images"),
    ],
)
def test_refused_body_has_its_code_and_reason(
    server: Server, body: bytes, kind: str | None, status: int, reason: str
) -> None:
    """The reason says what is wrong, and the server goes on."""
    found, answer = server.request("/predict", body, kind)
    assert (found, answer["status"]) == (status, status)
    assert reason in answer["reason"]
    assert server.predict(PNG)["label"] in CLASSES


def test_more_images_than_the_queue_takes_are_refused(server: Server) -> None:
    """Such a request could never be taken, so the code is 413 and not 429."""
    status, _ = server.request("/predict", *encode_multipart({str(n): b"x" for n in range(65)}))
    assert status == 413


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        ("/predict", "GET", 405),
        ("/predict?top=-1", "POST", 422),
        ("/predict?top=x", "POST", 422),
    ],
)
def test_wrong_paths_and_parameters_have_reasons(
    server: Server, path: str, method: str, status: int
) -> None:
    """The body has the same form as for every other refusal."""
    body = PNG if method == "POST" else None
    found, answer = server.request(path, body, method=method)
    assert found == status
    assert set(answer) == {"status", "reason"}


def test_probes_and_metrics_respond(server: Server) -> None:
    """Metrics count responses by path and status, and images by outcome."""
    assert server.request("/health") == (200, {"status": "alive"})
    assert server.request("/ready") == (200, {"status": "ready"})
    before = server.read_metric('trialrun_images_total{outcome="scored"}')
    server.predict(PNG)
    assert server.read_metric('trialrun_images_total{outcome="scored"}') == before + 1
    assert server.read_metric('trialrun_requests_total{path="/predict",status="200"}') > 0
    assert server.read_metric("trialrun_model_info{") == 1


def test_openapi_describes_the_refusals(server: Server) -> None:
    """Every code of `/predict` is in the description."""
    description: Any = server.request("/openapi.json")[1]
    described = set(description["paths"]["/predict"]["post"]["responses"])
    assert {"200", "413", "415", "422", "429", "503"} <= described
    assert "detail" not in json.dumps(description["components"]["schemas"])


def test_model_that_abstains_answers_unknown(tmp_path: Path) -> None:
    """Both paths give the label `unknown` below the threshold, and the probabilities as before."""
    folder = write_small_model(tmp_path / "model", threshold=0.999)
    with run_server(folder, tmp_path / "server") as running:
        result = running.predict(PNG)
        body = json.dumps({"instances": [base64.b64encode(PNG).decode()]})
        _, answer = running.request("/invocations", body, "application/json")
    assert (result["label"], answer["predictions"][0]["Scored Labels"]) == (UNKNOWN, UNKNOWN)
    assert 0 < result["confidence"] == max(result["probabilities"].values()) < 0.999
