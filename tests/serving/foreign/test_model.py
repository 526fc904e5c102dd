"""Models logged with MLflow's own flavors, opened and scored."""

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from PIL import Image
from torch import nn

from tests.serving.foreign.conftest import CLASSES, save_code_model
from trialrun.errors import InvalidModelDirectoryError
from trialrun.registry import find_model_folder
from trialrun.scoring.scores import ImageScore, ScoredImages
from trialrun.serving.foreign import ForeignModel, open_foreign_model

Save = Callable[..., Path]
EXPECTED = [name for name in CLASSES for _ in range(3)]
METADATA = {"classes": list(CLASSES)}
LABELS = "return [CLASSES[i] for i in measure(model_input['image']).argmax(1)]"


def open_model(folder: Path) -> ForeignModel:
    """Open a model under a short name."""
    return open_foreign_model(folder, name="models:/colors/1")


def list_labels(scored: ScoredImages) -> list[str]:
    """Return the most probable class of each image, or its error."""
    return [score.error or scored.classes[np.argmax(get_row(score))] for score in scored.scores]


def get_row(score: ImageScore) -> list[float]:
    """Return the probabilities of a score without error."""
    assert score.probabilities is not None, score.error
    return [float(value) for value in score.probabilities]


def test_registered_pyfunc_is_scored(store: str, contents: Sequence[bytes], tmp_path: Path) -> None:
    """A version that `mlflow.pyfunc.log_model` registered returns its own probabilities."""
    body = "return pd.DataFrame(measure(model_input['image']), columns=CLASSES)"
    save_code_model(tmp_path / "saved", body)  # writes the script
    with mlflow.start_run(), warnings.catch_warnings(record=True):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(tmp_path / "saved.py"),
            registered_model_name="colors",
            pip_requirements=["mlflow"],
        )
    model = open_foreign_model(find_model_folder("models:/colors/1"), name="models:/colors/1")
    scored = model.score_images(contents)
    assert (scored.classes, scored.has_probabilities) == (CLASSES, True)
    assert list_labels(scored) == EXPECTED
    channels = np.asarray(Image.open(io.BytesIO(contents[0]))).mean((0, 1))
    assert get_row(scored.scores[0]) == pytest.approx((channels / channels.sum()).tolist())


def test_unreadable_images_have_errors(save: Save, contents: Sequence[bytes]) -> None:
    """The order of the images is kept; the model does not see the unreadable ones."""
    images = [None, contents[0], b"text", *contents[3:5], contents[0][:200]]
    scored = open_model(save(LABELS)).score_images(images)
    labels = list_labels(scored)
    assert (labels[0], labels[1], labels[3:5]) == ("cannot be read", "blue", ["green", "green"])
    assert all(score.probabilities is None and score.error for score in scored.scores[2::3])


def test_no_image_is_readable(save: Save) -> None:
    """The model is not called; its classes are the declared ones."""
    scored = open_model(save("raise RuntimeError", metadata=METADATA)).score_images([None, b""])
    assert scored.classes == CLASSES
    assert all(score.error for score in scored.scores)


def test_labels_are_one_hot(save: Save, contents: Sequence[bytes]) -> None:
    """Classes are the labels that were returned, whatever their batch, in sorted order."""
    images = [contents[-1]] * 40 + [contents[0]] * 40
    scored = open_model(save(LABELS)).score_images(images)
    assert (scored.classes, scored.has_probabilities) == (("blue", "red"), False)
    assert [get_row(score) for score in scored.scores] == [[0, 1]] * 40 + [[1, 0]] * 40


def test_declared_classes_complete_the_labels(save: Save, contents: Sequence[bytes]) -> None:
    """With classes in the metadata, their order is kept and a class may have no image."""
    model = open_model(save(LABELS, metadata={"classes": ["red", "green", "blue"]}))
    assert model.declared_classes == ("red", "green", "blue")
    scored = model.score_images(contents[:3])
    assert get_row(scored.scores[0]) == [0, 0, 1]
    assert scored.classes == ("red", "green", "blue")


def test_images_are_read_in_batches(save: Save, contents: Sequence[bytes]) -> None:
    """Only a bounded number of images is in memory, and predict gets 32 at once."""
    body = "return [str(len(model_input))] * len(model_input)"
    num_read = 0

    def read() -> Iterator[bytes]:
        nonlocal num_read
        for _ in range(300):
            num_read += 1
            yield contents[0]

    scored = open_model(save(body)).score_images(read())
    assert num_read == 300
    assert list_labels(scored) == ["32"] * 288 + ["12"] * 12


@pytest.mark.parametrize(
    ("spec", "column", "convert"),
    [
        (ColSpec(DataType.binary, "image"), "'image'", "bytes"),
        (ColSpec(DataType.binary, "photo"), "'photo'", "bytes"),
        (ColSpec(DataType.binary), "0", "bytes"),
        (ColSpec(DataType.string, "image"), "'image'", "__import__('base64').b64decode"),
        (ColSpec(DataType.string), "0", "__import__('base64').b64decode"),
    ],
)
def test_columns_of_file_contents(
    save: Save, contents: Sequence[bytes], spec: ColSpec, column: str, convert: str
) -> None:
    """One column of bytes or of base64 text, of any name."""
    body = f"""
        data = [{convert}(x) for x in model_input[{column}]]
        return [CLASSES[i] for i in measure(data).argmax(1)]
        """
    folder = save(body, signature=ModelSignature(inputs=Schema([spec])))
    assert list_labels(open_model(folder).score_images(contents)) == EXPECTED


class ChannelMeans(nn.Module):
    """(N, 3, H, W) float32 to (N, 3) probabilities, one class per channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the softmax of the channels' means."""
        return (images.mean(dim=(2, 3)) * 10).softmax(dim=1)


@pytest.mark.parametrize("num_examples", [1, 2])
def test_pytorch_model(tmp_path: Path, contents: Sequence[bytes], num_examples: int) -> None:
    """A .pt2 model, whose batch size is fixed at 1 if its input example has one image."""
    example = np.zeros((num_examples, 3, 16, 16), dtype=np.float32)
    mlflow.pytorch.save_model(
        ChannelMeans().eval(),
        tmp_path / "model",
        input_example=example,
        signature=ModelSignature(
            inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 3, 16, 16))]),
        ),
        metadata=METADATA,
        pip_requirements=["torch"],
    )
    assert list((tmp_path / "model").rglob("*.pt2"))
    model = open_foreign_model(
        tmp_path / "model", name="models:/colors/1", device=torch.device("cpu")
    )
    scored = model.score_images(contents)
    assert list_labels(scored) == EXPECTED
    assert (scored.classes, scored.has_probabilities) == (CLASSES, True)


@pytest.mark.parametrize("targets", ["text", "numbers"])
def test_sklearn_model_on_pixels(tmp_path: Path, contents: Sequence[bytes], targets: str) -> None:
    """A scikit-learn pipeline returns labels, or numbers that the metadata names."""
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    images = np.zeros((3, 8, 8, 3), dtype=np.uint8)
    images[range(3), ..., range(3)] = 200
    labels = np.array(CLASSES) if targets == "text" else np.arange(3)
    flatten = FunctionTransformer(np.reshape, kw_args={"shape": (-1, 192)}, check_inverse=False)
    pipeline = make_pipeline(flatten, KNeighborsClassifier(1)).fit(images, labels)
    mlflow.sklearn.save_model(
        pipeline,
        tmp_path / "model",
        serialization_format="cloudpickle",
        signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 8, 8, 3))])),
        metadata=None if targets == "text" else METADATA,
        pip_requirements=["scikit-learn"],
    )
    scored = open_model(tmp_path / "model").score_images(contents)
    assert list_labels(scored) == EXPECTED
    assert not scored.has_probabilities


def test_fixed_batch_is_filled_up(save: Save, contents: Sequence[bytes]) -> None:
    """A signature with a batch of 4 gets four images each time; surplus answers are dropped."""
    body = """
        assert len(model_input) == 4
        return [CLASSES[i] for i in model_input.mean(axis=(1, 2)).argmax(1)]
        """
    spec = TensorSpec(np.dtype(np.float64), (4, 8, 8, 3))
    folder = save(body, signature=ModelSignature(inputs=Schema([spec])))
    assert list_labels(open_model(folder).score_images(contents)) == EXPECTED


def test_images_of_their_own_sizes(save: Save, contents: Sequence[bytes]) -> None:
    """A signature without height and width gets one image at a time, in its own size."""
    small = io.BytesIO()
    Image.new("RGB", (7, 5)).save(small, "PNG")
    spec = TensorSpec(np.dtype(np.uint8), (-1, -1, -1, 3))
    body = "return ['x'.join(map(str, model_input.shape))]"
    folder = save(body, signature=ModelSignature(inputs=Schema([spec])))
    scored = open_model(folder).score_images([contents[0], small.getvalue()])
    assert list_labels(scored) == ["1x32x32x3", "1x5x7x3"]


@pytest.mark.parametrize(
    ("body", "message", "hint"),
    [
        ("return measure(model_input['image'])", "metadata has no class names", "metadata="),
        ("return [0] * len(model_input)", "metadata has no names", "metadata="),
        ("return ['a']", "returns 1 rows for 9 images", "one row per image"),
        ("return pd.DataFrame([[3.0, -1.0]] * 9, columns=['a', 'b'])", "negative", "softmax"),
        ("raise ValueError('no\\nweights')", "predict failed: ValueError: no", "requirements.txt"),
        ("import missing_package", "No module named 'missing_package'", "requirements.txt"),
        ("raise SystemExit(3)", "predict failed: SystemExit: 3", "requirements.txt"),
    ],
)
def test_unusable_answers_are_refused(
    save: Save, contents: Sequence[bytes], body: str, message: str, hint: str
) -> None:
    """The error has one line, begins with the model's name, and the hint says what to change."""
    with pytest.raises(InvalidModelDirectoryError) as raised:
        open_model(save(body)).score_images(contents)
    assert str(raised.value).startswith("models:/colors/1")
    assert message in str(raised.value)
    assert hint in raised.value.hint
    assert "\n" not in str(raised.value) + raised.value.hint


def test_batches_with_other_classes_are_refused(save: Save, contents: Sequence[bytes]) -> None:
    """Columns that change from batch to batch cannot be compared."""
    body = """
        names = ["a", "b"] if len(model_input) == 32 else ["a", "c"]
        return pd.DataFrame([[0.5, 0.5]] * len(model_input), columns=names)
        """
    with pytest.raises(InvalidModelDirectoryError, match="other classes for some batches"):
        open_model(save(body)).score_images([contents[0]] * 33)


def test_failing_code_while_loading_is_an_error(save: Save) -> None:
    """A package that is not installed is named; nothing is printed as a traceback."""
    folder = save(LABELS)
    script = next(folder.glob("*.py"))
    script.write_text("import missing_package\n" + script.read_text())
    with pytest.raises(InvalidModelDirectoryError, match=r"cannot be loaded.*missing_package"):
        open_model(folder)


@pytest.mark.filterwarnings("default:saved by")
def test_warnings_while_loading_are_notes(save: Save) -> None:
    """A library's warning, such as scikit-learn's about another version, is not lost."""
    folder = save(LABELS)
    script = next(folder.glob("*.py"))
    script.write_text("import warnings\nwarnings.warn('saved by 1.0\\nsee')\n" + script.read_text())
    assert open_model(folder).notes == ("models:/colors/1 warns: saved by 1.0",)


def test_device_variable_is_restored(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a PyTorch model on a device leaves MLflow's variable as it was."""
    folder = save("return []")
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(mlmodel.read_text().replace("flavors:", "flavors:\n  pytorch: {}", 1))
    script = next(folder.glob("*.py"))
    script.write_text(
        "import os\nassert os.environ['MLFLOW_DEFAULT_PREDICTION_DEVICE'] == 'meta'\n"
        + script.read_text()
    )
    for text in (None, "cuda:1"):
        if text is not None:
            monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", text)
        open_foreign_model(folder, name="models:/colors/1", device=torch.device("meta"))
        assert os.environ.get("MLFLOW_DEFAULT_PREDICTION_DEVICE") == text


def test_model_of_other_inputs_is_refused_before_it_is_loaded(save: Save) -> None:
    """A table of numbers is not an image; the model's code does not run."""
    inputs = Schema([ColSpec(DataType.double, "width"), ColSpec(DataType.double, "height")])
    folder = save(LABELS, signature=ModelSignature(inputs=inputs))
    next(folder.glob("*.py")).write_text("raise SystemExit")
    with pytest.raises(InvalidModelDirectoryError, match=r"takes 2 inputs \(width, height\)"):
        open_model(folder)


def test_scores_equal_those_of_pyfunc(save: Save, contents: Sequence[bytes]) -> None:
    """`Scored Probabilities_<class>` columns come back as `mlflow.pyfunc` returns them."""
    body = """
        table = pd.DataFrame(measure(model_input['image']))
        table.columns = [f"Scored Probabilities_{name}" for name in CLASSES]
        table["Scored Labels"] = [CLASSES[i] for i in table.to_numpy().argmax(1)]
        return table
        """
    folder = save(body)
    with warnings.catch_warnings(record=True):
        pyfunc = mlflow.pyfunc.load_model(str(folder))
    expected = pyfunc.predict(pd.DataFrame({"image": contents}))
    scored = open_model(folder).score_images(contents)
    probabilities = expected.drop(columns="Scored Labels").to_numpy(np.float32)
    assert [get_row(score) for score in scored.scores] == probabilities.tolist()
    assert scored.classes == CLASSES
