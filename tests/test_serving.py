"""A registered model, served by `mlflow models serve` where trialrun is not installed."""

import base64
import json
import os
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest

import trialrun
from trialrun.images import open_data


@pytest.fixture
def environment_without_trialrun(tmp_path: Path) -> Path:
    """A Python that has this one's packages, but not trialrun: its editable install is not seen."""
    folder = tmp_path / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    purelib = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (purelib / "others.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "python"


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def server(
    store: str, colors: Path, environment_without_trialrun: Path, tmp_path: Path
) -> Iterator[str]:
    """The address of a served version 1 of `colors`."""
    trialrun.train(
        train_data=str(colors),
        model="shufflenet_v2_x0_5",
        epochs=1,
        batch_size=8,
        register_as="colors",
    )
    python, port = environment_without_trialrun, free_port()
    missing = subprocess.run([python, "-c", "import trialrun"], capture_output=True, check=False)
    assert missing.returncode != 0
    command = [python, "-m", "mlflow", "models", "serve", "-m", "models:/colors/1"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    path = f"{python.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"  # uvicorn
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        [str(word) for word in command],
        env=os.environ | {"MLFLOW_TRACKING_URI": store, "PATH": path},
        stdout=log,
        stderr=log,
        cwd=tmp_path,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not answers(address + "/ping"):
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def answers(address: str) -> bool:
    """Whether a server is up."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def ask(address: str, images: list[bytes]) -> list[dict[str, object]]:
    """The server's answer for images in base64."""
    rows = [[base64.b64encode(image).decode()] for image in images]
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    request = urllib.request.Request(
        address + "/invocations", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        predictions: list[dict[str, object]] = json.load(answer)["predictions"]
    return predictions


def test_served_answer_is_that_of_score(server: str, colors: Path, tmp_path: Path) -> None:
    """The same columns as `score`, each probability within 1e-6; a bad image is a 400."""
    images = open_data(str(colors), tmp_path)
    contents = [images.path_of(item).read_bytes() for item in images.items]
    answer = pd.DataFrame(ask(server, contents))
    trialrun.score("models:/colors/1", str(colors), str(tmp_path / "scored.csv"))
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert answer["Scored Labels"].tolist() == scored["Scored Labels"].tolist()
    for name in images.classes:
        column = f"Scored Probabilities_{name}"
        assert answer[column].tolist() == pytest.approx(scored[column].tolist(), abs=1e-6)
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(server, [contents[0], b"no picture"])
    with raised.value as response:
        assert response.code == 400
        assert "row 1" in response.read().decode()


def test_model_loads_as_pyfunc_and_runs_no_pickle(
    store: str, colors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With unpickling forbidden, MLflow's own door gives the same classes."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    result = trialrun.train(
        train_data=str(colors), model="shufflenet_v2_x0_5", epochs=1, batch_size=8
    )
    model = mlflow.pyfunc.load_model(str(result.model_uri))
    image = (colors / "red" / "000.png").read_bytes()
    answer = model.predict(pd.DataFrame({"image": [image]}))
    assert answer["Scored Labels"].iloc[0] in {"blue", "green", "red"}
    assert sys.modules["trialrun"] is trialrun
