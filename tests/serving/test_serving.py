"""A registered model, served by `mlflow models serve` in an environment of its requirements."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

import trialrun
from tests.conftest import write_classes
from tests.system.conftest import skip_unless_ci
from trialrun.errors import InvalidModelDirectoryError
from trialrun.images import open_data
from trialrun.models.manifest import add_code_to_manifest
from trialrun.scoring.pipeline import BatchPlan
from trialrun.serving.bundle import rename_imports

CLASSES = ("blue", "green", "red")
SETTINGS: dict[str, Any] = {"model": "shufflenet_v2_x0_5", "epochs": 1, "batch_size": 8}


@dataclass(frozen=True, slots=True)
class Registered:
    """Version 1 of the model `colors`: its store, its training images, its downloaded folder."""

    store: str
    images: Path
    folder: Path

    def contents(self) -> list[bytes]:
        """Return the bytes of three images, one per class."""
        return [(self.images / name / "000.png").read_bytes() for name in CLASSES]

    def base64(self) -> list[str]:
        """Return the same images as base64 text."""
        return [base64.b64encode(data).decode() for data in self.contents()]


@pytest.fixture(scope="module")
def registered(
    initialised_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registered]:
    """A model that is trained and registered once for the tests of this file."""
    folder = tmp_path_factory.mktemp("registered")
    shutil.copy(initialised_store, folder / "mlflow.db")
    images = write_classes(folder / "colors", dict.fromkeys(CLASSES, 12))
    with pytest.MonkeyPatch.context() as patch:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "serving")
        mlflow.MlflowClient(uri).create_experiment("serving", str(folder / "artifacts"))
        trialrun.train(train_data=str(images), register_as="colors", **SETTINGS)
        model = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/colors/1"))
        yield Registered(uri, images, model)


@pytest.fixture(scope="module")
def own_environment(registered: Registered, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the model's own requirements and nothing else, made by uv."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        skip_unless_ci("uv is not installed (make .venv/.installed)")
    folder = tmp_path_factory.mktemp("env")
    python = folder / "bin" / "python"
    requirements = registered.folder / "requirements.txt"
    install = ["pip", "install", "--link-mode=symlink", f"--python={python}", "-r", requirements]
    for command in (["venv", "--clear", f"--python={sys.executable}", folder], install):
        subprocess.run([str(word) for word in (uv, *command)], check=True, env=copy_environment())
    trial = [str(python), "-c", "import trialrun"]
    missing = subprocess.run(trial, capture_output=True, check=False, env=copy_environment())
    assert missing.returncode != 0
    return python


def copy_environment() -> dict[str, str]:
    """Copy the environment variables without PYTHONPATH."""
    return {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}


def find_free_port() -> int:
    """Return an unused port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(
    registered: Registered,
    own_environment: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The address of a server of version 1 of `colors`."""
    python, port = own_environment, find_free_port()
    folder = tmp_path_factory.mktemp("log")
    command = [python, "-m", "mlflow", "models", "serve", "-m", "models:/colors/1"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1"]
    path = f"{python.parent}:/usr/bin:/bin"
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        [str(word) for word in command],
        env=copy_environment() | {"MLFLOW_TRACKING_URI": registered.store, "PATH": path},
        stdout=log,
        stderr=log,
        cwd=folder,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not is_up(address + "/ping"):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        log.close()


def is_up(address: str) -> bool:
    """Whether a server responds."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except OSError:
        return False


def request_scores(address: str, body: str | bytes, kind: str = "application/json") -> pd.DataFrame:
    """Return the server's response to a request."""
    data = body if isinstance(body, bytes) else body.encode()
    request = urllib.request.Request(address + "/invocations", data, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as response:
        return pd.DataFrame(json.load(response)["predictions"])


def request_error(address: str, body: object) -> str:
    """Return the text of the server's response with status 400."""
    with pytest.raises(urllib.error.HTTPError) as raised:
        request_scores(address, json.dumps(body))
    with raised.value as response:
        text = response.read().decode()
        assert response.code == 400, text
    return text


def format_split(images: list[str]) -> dict[str, object]:
    """Format images as `dataframe_split`."""
    return {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}


@pytest.mark.slow
def test_served_scores_equal_those_of_score(
    server: str, registered: Registered, tmp_path: Path
) -> None:
    """The columns are the same, and each probability within 1e-6 in batches of the same size."""
    images = open_data(str(registered.images), tmp_path)
    contents = [images.path_of(item).read_bytes() for item in images.items]
    scores = request_scores(
        server, json.dumps(format_split([base64.b64encode(data).decode() for data in contents]))
    )
    output = str(tmp_path / "scored.csv")
    batch_size = BatchPlan().batch_size
    trialrun.score("models:/colors/1", str(registered.images), output, batch_size=batch_size)
    scored = pd.read_csv(output)
    assert scores["Scored Labels"].tolist() == scored["Scored Labels"].tolist()
    for name in images.classes:
        column = f"Scored Probabilities_{name}"
        assert scores[column].tolist() == pytest.approx(scored[column].tolist(), abs=1e-6)


def list_bodies(images: list[str]) -> dict[str, object]:
    """Return a request in every JSON format and variant that MLflow documents for its server."""
    records = [{"image": image} for image in images]
    return {
        "records": {"dataframe_records": records},
        "inputs as a list": {"inputs": images},
        "inputs as columns": {"inputs": {"image": images}},
        "inputs as records": {"inputs": records},
        "instances as a list": {"instances": images},
        "instances as columns": {"instances": {"image": images}},
        "instances as records": {"instances": records},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list_bodies([]))
def test_server_takes_every_json_format(server: str, registered: Registered, name: str) -> None:
    """The scores equal those of a `dataframe_split` request bit for bit."""
    expected = request_scores(server, json.dumps(format_split(registered.base64())))
    pd.testing.assert_frame_equal(
        request_scores(server, json.dumps(list_bodies(registered.base64())[name])),
        expected,
        check_exact=True,
    )


@pytest.mark.slow
def test_server_takes_csv_and_parquet(server: str, registered: Registered) -> None:
    """CSV contains base64, Parquet bytes, both in a column named image."""
    expected = request_scores(server, json.dumps(format_split(registered.base64())))
    csv = pd.DataFrame({"image": registered.base64()}).to_csv(index=False)
    parquet = io.BytesIO()
    pd.DataFrame({"image": registered.contents()}).to_parquet(parquet)
    pd.testing.assert_frame_equal(
        request_scores(server, csv, "text/csv"), expected, check_exact=True
    )
    scores = request_scores(server, parquet.getvalue(), "application/vnd.apache.parquet")
    pd.testing.assert_frame_equal(scores, expected, check_exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["dataframe_split", "inputs", "instances"])
@pytest.mark.parametrize("bad", ["bm8gcGljdHVyZQ==", "iVBORw0KGgo="])
def test_invalid_image_is_a_400_that_names_the_formats(
    server: str, registered: Registered, field: str, bad: str
) -> None:
    """The response names the row and every supported format."""
    images = [registered.base64()[0], bad]
    text = request_error(
        server, format_split(images) if field == "dataframe_split" else {field: images}
    )
    assert "row 1: " in text
    assert "row 0: " not in text
    for name in ("dataframe_split", "dataframe_records", "inputs", "instances", "text/csv"):
        assert name in text.rpartition("Send each image")[2]


@pytest.mark.slow
def test_server_opens_no_file_named_in_text(server: str, registered: Registered) -> None:
    """The path of an existing image is refused like any other text."""
    path = str(registered.images / "red" / "000.png")
    text = request_error(server, {"inputs": [path]})
    assert "row 0: not an image" in text


@pytest.fixture(scope="module")
def pyfunc(registered: Registered) -> Any:
    """Version 1 as MLflow loads it in this process."""
    return mlflow.pyfunc.load_model("models:/colors/1")


@pytest.mark.parametrize("kind", ["bytearray", "base64", "text array", "dict", "dict of texts"])
def test_pyfunc_takes_images_in_any_form(pyfunc: Any, registered: Registered, kind: str) -> None:
    """Bytes, base64 text and other inputs allowed by MLflow's schema give the same scores."""
    contents, texts = registered.contents(), registered.base64()
    forms: dict[str, Any] = {
        "bytearray": pd.DataFrame({"image": [bytearray(data) for data in contents]}),
        "base64": pd.DataFrame({"image": texts}),
        "text array": {"image": np.array(texts, dtype=object)},
        "dict": {"image": contents},
        "dict of texts": {"image": texts},
    }
    expected = pyfunc.predict(pd.DataFrame({"image": contents}))
    pd.testing.assert_frame_equal(pyfunc.predict(forms[kind]), expected, check_exact=True)


def test_wrapped_model_takes_lists(pyfunc: Any, registered: Registered) -> None:
    """Without a schema, lists of bytes, texts and records are scored like a DataFrame."""
    predict, contents = pyfunc._model_impl.predict, registered.contents()
    expected = predict(pd.DataFrame({"image": contents}))
    records = [{"image": text} for text in registered.base64()]
    for images in (contents, np.array(contents, dtype=object), registered.base64(), records):
        pd.testing.assert_frame_equal(predict(images), expected, check_exact=True)
    assert predict(contents[0])["Scored Labels"].tolist() == expected["Scored Labels"].tolist()[:1]


def test_pyfunc_keeps_the_index(pyfunc: Any, registered: Registered) -> None:
    """The rows of a filtered DataFrame can be joined with their scores."""
    frame = pd.DataFrame({"image": registered.contents()}, index=[7, 9, 9])
    assert pyfunc.predict(frame).index.tolist() == [7, 9, 9]
    assert pyfunc.predict(frame.iloc[:0]).index.tolist() == []


def test_text_image_is_not_taken_for_base64(pyfunc: Any, registered: Registered) -> None:
    """A plain PPM consists of base64 characters but is read as an image."""
    ppm = b"P3\n1 1\n255\n255 0 0\n"
    scores = pyfunc.predict(pd.DataFrame({"image": [ppm, base64.b64encode(ppm)]}))
    assert scores.iloc[0].tolist() == scores.iloc[1].tolist()


def test_pyfunc_refuses_a_missing_value(pyfunc: Any) -> None:
    """None in place of an image is an error that names the row."""
    with pytest.raises(MlflowException, match="row 0: NoneType instead of an image"):
        pyfunc.predict(pd.DataFrame({"image": pd.Series([None], dtype=object)}))


def test_model_loads_as_pyfunc_and_runs_no_pickle(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow loads the model with unpickling forbidden."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model("models:/colors/1")
    scores = model.predict(pd.DataFrame({"image": registered.contents()[:1]}))
    assert scores["Scored Labels"].iloc[0] in CLASSES
    assert sys.modules["trialrun"] is trialrun


def run_python(code: str, python: Path | str = sys.executable, **environment: str) -> str:
    """Return what a program prints in a new process."""
    result = subprocess.run(
        [str(python), "-W", "ignore", "-c", code],
        env=(os.environ if python == sys.executable else copy_environment()) | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_loaded_model_does_not_hide_trialrun(registered: Registered, tmp_path: Path) -> None:
    """After MLflow has loaded a model, `import trialrun` is the installed package and works."""
    code = f"""
import mlflow
model = mlflow.pyfunc.load_model("models:/colors/1")
import trialrun
trialrun.load_model("models:/colors/1")
print(trialrun.score("models:/colors/1", {str(registered.images)!r}, "scored.csv").num_images)
print(trialrun.train(train_data={str(registered.images)!r}, **{SETTINGS}).status)
"""
    assert run_python(f"import os; os.chdir({str(tmp_path)!r})\n{code}").split() == [
        "36",
        "FINISHED",
    ]


def find_served_package(folder: Path) -> str:
    """Return the name of the package in a model directory's `code/`."""
    (package,) = (folder / "code").iterdir()
    return package.name


def copy_renamed(registered: Registered, target: Path, package: str) -> Path:
    """Copy the model with another name for its package, without the bytecode of the old one."""
    old = find_served_package(registered.folder)
    shutil.copytree(registered.folder, target, ignore=shutil.ignore_patterns("__pycache__"))
    (target / "code" / old).rename(target / "code" / package)
    for path in [target / "MLmodel", *(target / "code").rglob("*.py")]:
        path.write_text(path.read_text().replace(f"{old}.", f"{package}."))
    return target


@pytest.mark.slow
def test_models_of_two_versions_load_in_one_process(registered: Registered, tmp_path: Path) -> None:
    """Each model runs its own copy of the code."""
    package = "trialrun_served_0123456789ab"
    other = copy_renamed(registered, tmp_path / "other", package)
    scoring = other / "code" / package / "scoring" / "scores.py"
    scoring.write_text(scoring.read_text().replace('"Scored Labels"', '"Labels of old"'))
    add_code_to_manifest(other)
    code = f"""
import base64, mlflow, pandas, sys
frame = pandas.DataFrame({{"image": [base64.b64decode({registered.base64()[0]!r})]}})
for folder in ({str(registered.folder)!r}, {str(other)!r}, {str(registered.folder)!r}):
    print(mlflow.pyfunc.load_model(folder).predict(frame).columns[-1])
assert "trialrun" not in sys.modules
"""
    assert run_python(code).splitlines() == ["Scored Labels", "Labels of old", "Scored Labels"]
    assert trialrun.load_model(other).classes == CLASSES


def test_model_with_a_package_called_trialrun_still_opens(
    registered: Registered, tmp_path: Path
) -> None:
    """Old models, which have a copy named `trialrun`, are loaded and score images."""
    old = copy_renamed(registered, tmp_path / "old", "trialrun")
    manifest = json.loads((old / "manifest.json").read_text())
    del manifest["code"]  # those manifests listed the data files only
    (old / "manifest.json").write_text(json.dumps(manifest))
    assert "loader_module: trialrun.serving\n" in (old / "MLmodel").read_text()
    result = trialrun.score(str(old), str(registered.images), str(tmp_path / "scored.csv"))
    assert (result.num_images, result.num_errors) == (36, 0)


@pytest.mark.parametrize(
    "loader",
    [
        "os",
        "trialrun.serving.package",
        "trialrun_served_0123456789ab",
        "trialrun_served_0123456789ab.models",
        "trialrun_served_0123456789ABC.serving",
        "xtrialrun_served_0123456789ab.serving",
        "'trialrun_served_0123456789ab.serving\\n'",
    ],
)
def test_any_other_loader_is_refused(registered: Registered, tmp_path: Path, loader: str) -> None:
    """Only the names of trialrun's serving modules are accepted."""
    folder = shutil.copytree(registered.folder, tmp_path / "model")
    lines = (folder / "MLmodel").read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if "loader_module" in line)
    lines[index] = f"    loader_module: {loader}"
    (folder / "MLmodel").write_text("\n".join(lines))
    with pytest.raises(InvalidModelDirectoryError, match="to be imported"):
        trialrun.load_model(folder)


@pytest.mark.slow
def test_copied_code_imports_without_trialrun(
    registered: Registered, own_environment: Path
) -> None:
    """Every module of the copy can be imported, without MLflow or modules that are not copied."""
    package = find_served_package(registered.folder)
    modules = sorted(
        ".".join(path.relative_to(registered.folder / "code").with_suffix("").parts)
        for path in (registered.folder / "code").rglob("*.py")
    )
    assert f"{package}.runs.__init__" not in modules
    code = f"""
import importlib, sys
sys.path.insert(0, {str(registered.folder / "code")!r})
for name in {modules!r}:
    importlib.import_module(name.removesuffix(".__init__"))
assert not {{"mlflow", "trialrun", "optuna", "typer"}} & sys.modules.keys()
"""
    run_python(code, own_environment)


def test_imports_of_the_copy_are_renamed_and_texts_are_not() -> None:
    """Only import statements change; `import trialrun...` is an error."""
    text = '"""from trialrun.a import b"""\n'
    source = f"{text}from trialrun import c\nfrom trialrun.d import (\n    e,\n)\n"
    expected = f"{text}from p import c\nfrom p.d import (\n    e,\n)\n"
    assert rename_imports(source, "p") == expected
    nested = """
class A:
    def f(self):
        try:
            pass
        except OSError:
            match self:
                case 1:
                    from trialrun.a import b
        finally:
            if self:
                from trialrun import c
"""
    assert "trialrun" not in rename_imports(nested, "p")
    with pytest.raises(ValueError, match="line 1"):
        rename_imports("import trialrun.errors\n", "p")


def test_pyfunc_uses_mlflows_prediction_device(
    registered: Registered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cpu` works; a missing device is an error that names the variable."""
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cpu")
    served = mlflow.pyfunc.load_model("models:/colors/1")
    assert len(served.predict(pd.DataFrame({"image": registered.contents()}))) == 3
    for device in ("cuda:999", "0"):
        monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", device)
        with pytest.raises(Exception, match=f"MLFLOW_DEFAULT_PREDICTION_DEVICE={device} is"):
            mlflow.pyfunc.load_model("models:/colors/1")
