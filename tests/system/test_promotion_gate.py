"""Tests of the promotion gate with versions whose answers are known for each test image.

The versions are registered with plain MLflow: each looks its answer up by the number that is drawn
in the image.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

import trialrun
from trialrun.errors import InvalidModelDirectoryError, TrialrunError
from trialrun.runs.promotion.result import Promotion

if TYPE_CHECKING:
    pass

Answers = Sequence[str]  # the class that a version returns for each image
PROBABILITY = 0.9  # of the returned class

MODEL = """
import io, json
import mlflow, numpy as np, pandas as pd
from PIL import Image

class TableModel(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["answers"]) as file:
            self.answers = json.load(file)

    def predict(self, context, model_input, params=None):
        rows = []
        for data in model_input["image"]:
            high, low, _ = Image.open(io.BytesIO(data)).getpixel((0, 0))
            rows.append(self.answers["rows"][high * 256 + low])
        return pd.DataFrame(rows, columns=self.answers["classes"]){suffix}

mlflow.models.set_model(TableModel())
"""


class Registry:
    """Test images in folders of their classes, and versions with known answers for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "test"
        self.labels: list[str] = []

    def write_images(self, labels: Sequence[str], *, group_size: int = 1) -> None:
        """Write one image per label; the names of a group's images have the same number."""
        for number, label in enumerate(labels):
            path = self.data / label / f"patient{number // group_size:05}_{number:05}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number // 256, number % 256, 0)).save(path)
        self.labels = list(labels)

    def register(
        self,
        answers: Answers,
        *,
        classes: Sequence[str] = (),
        probability: float = PROBABILITY,
        suffix: str = "",
    ) -> str:
        """Register a version of `photos` with these answers, and return its number.

        `suffix` is appended to the expression that the model returns, a table of probabilities.
        """
        import mlflow

        classes = sorted({*self.labels, *answers, *classes})
        rest = (1 - probability) / (len(classes) - 1)
        rows = [[probability if name == answer else rest for name in classes] for answer in answers]
        script, table = self.folder / "table_model.py", self.folder / "answers.json"
        script.write_text(MODEL.replace("{suffix}", suffix))
        table.write_text(json.dumps({"classes": classes, "rows": rows}))
        with mlflow.start_run(), warnings.catch_warnings(record=True):  # advice on type hints
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(script),
                artifacts={"answers": str(table)},
                registered_model_name="photos",
                pip_requirements=["mlflow"],
            )
        return str(logged.registered_model_version)

    def set_champion(self, version: str) -> None:
        """Make `version` the champion by hand."""
        import mlflow

        mlflow.MlflowClient().set_registered_model_alias("photos", "champion", version)

    def judge(self, version: str, **settings: Any) -> Promotion:
        """Judge `version` on the test images, as `trialrun promote` does, and return the result."""
        from trialrun.runs.promotion.promote import promote_version

        allowed = {"allow_overlap": True, "allow_model_code": True}
        return promote_version("photos", version, str(self.data), allowed | settings)


@pytest.fixture
def registry(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return an empty registry."""
    monkeypatch.chdir(tmp_path)
    return Registry(tmp_path)


def list_refused(result: Promotion) -> dict[str, str]:
    """Return what the failed gates found, by name."""
    return {gate.name: gate.found for gate in result.verdict.failed}


def spoil(answers: Answers, wrong: range, answer: str = "wrong") -> list[str]:
    """Return the answers with those in `wrong` replaced."""
    return [answer if number in wrong else label for number, label in enumerate(answers)]


def alternate(num_images: int) -> list[str]:
    """Return labels of two classes in turn."""
    return ["cat" if number % 2 else "dog" for number in range(num_images)]


def test_class_without_test_images_is_refused(registry: Registry) -> None:
    """Both versions know `red`, the test set has none: nothing can be said about it."""
    registry.write_images(alternate(600))
    champion, challenger = (registry.register(registry.labels, classes=["red"]) for _ in range(2))
    registry.set_champion(champion)
    settings = {"max_class_drop": 0.05}
    result = registry.judge(challenger, **settings)
    assert list_refused(result) == {"classes": "without test images: red"}
    assert registry.judge(challenger, allow_class_change=True, **settings).promoted


@pytest.mark.slow
def test_rare_class_cannot_tell(registry: Registry) -> None:
    """Three images of a class do not show that its recall is not worse."""
    registry.write_images([*alternate(1000), "owl", "owl", "owl"])
    champion, challenger = (registry.register(registry.labels) for _ in range(2))
    registry.set_champion(champion)
    refused = list_refused(registry.judge(challenger, metric="balanced_accuracy"))
    assert list(refused) == ["balanced_accuracy not-worse"]
    guarded = list_refused(registry.judge(challenger, max_class_drop=0.05))
    assert guarded == {"images of each class": "cannot tell: owl 3"}


@pytest.mark.slow
def test_group_counts_as_one_observation(registry: Registry) -> None:
    """Better on 18 patients and worse on 10 is chance, though 360 images stand against 200."""
    registry.write_images(alternate(2000), group_size=20)
    champion = registry.register(spoil(registry.labels, range(360)))
    challenger = registry.register(spoil(registry.labels, range(360, 560)))
    registry.set_champion(champion)
    settings = {"require": "better", "allow_class_change": True, "dry_run": True}
    assert registry.judge(challenger, **settings).verdict.passed
    grouped = registry.judge(challenger, group_pattern=r"(patient\d+)_", **settings)
    assert list(list_refused(grouped)) == ["accuracy better"]
    assert grouped.comparison is not None
    assert grouped.comparison.num_groups == 100


@pytest.mark.slow
def test_copies_need_groups(registry: Registry) -> None:
    """Test images that are copies of each other are not independent."""
    registry.write_images(alternate(1000))
    for path in sorted((registry.data / "cat").iterdir())[:40]:
        (path.parent / f"copy of {path.name}").write_bytes(path.read_bytes())
    champion, challenger = (registry.register(registry.labels) for _ in range(2))
    registry.set_champion(champion)
    refused = list_refused(registry.judge(challenger))
    assert refused == {
        "independent test images": "80 test images are copies of others or look like them"
    }
    assert registry.judge(challenger, allow_ungrouped=True).promoted


def test_minimum_is_the_lower_end(registry: Registry) -> None:
    """Two test images do not show an accuracy of 0.99, unless the estimate is asked for."""
    registry.write_images(["cat", "dog"])
    version = registry.register(registry.labels)
    assert list(list_refused(registry.judge(version, min="accuracy=0.99"))) == ["accuracy"]
    assert registry.judge(version, min_estimate="accuracy=0.99").promoted


@pytest.mark.parametrize("num_images", [2, 5, 10])
def test_few_losses_are_no_evidence(registry: Registry, num_images: int) -> None:
    """A lower log loss on each of a few images is no evidence of a better version."""
    registry.write_images(alternate(num_images))
    champion = registry.register(registry.labels, probability=0.6)
    challenger = registry.register(registry.labels, probability=0.95)
    registry.set_champion(champion)
    refused = list_refused(registry.judge(challenger, metric="log_loss", require="better"))
    assert list(refused) == ["log_loss better"]


@pytest.mark.slow
def test_small_losses_do_not_add_up(registry: Registry) -> None:
    """Versions that are each 0.3 points worse pass only until the sum exceeds the margin."""
    registry.write_images(alternate(2000))
    versions = [registry.register(spoil(registry.labels, range(6 * n))) for n in range(5)]
    first = registry.judge(versions[0], min="accuracy=0.9", allow_class_change=True)
    assert first.promoted
    results = [registry.judge(version, allow_class_change=True) for version in versions[1:]]
    promoted = [result.promoted for result in results]
    assert promoted[0]
    assert not any(promoted[2:])
    refused = next(result for result in results if not result.promoted)
    assert "accuracy not-worse than version 1" in list_refused(refused)


@pytest.mark.slow
def test_pinned_baseline_is_compared_too(registry: Registry) -> None:
    """A version better than the champion is refused if it is worse than the named baseline."""
    registry.write_images(alternate(1000))
    baseline = registry.register(registry.labels)
    champion = registry.register(spoil(registry.labels, range(200)))
    challenger = registry.register(spoil(registry.labels, range(100)))
    registry.set_champion(champion)
    settings = {"require": "better", "allow_class_change": True}
    refused = list_refused(registry.judge(challenger, baseline=baseline, **settings))
    assert list(refused) == [f"accuracy not-worse than version {baseline}"]
    assert registry.judge(challenger, **settings).promoted


@pytest.mark.slow
def test_second_attempt_needs_stronger_evidence(registry: Registry) -> None:
    """14 images against 4 pass the first attempt on a test set and fail the second."""
    registry.write_images(alternate(500))
    champion = registry.register(spoil(registry.labels, range(14)))
    lucky = registry.register(spoil(registry.labels, range(14, 18)))
    equal = registry.register(spoil(registry.labels, range(14)))
    registry.set_champion(champion)
    settings = {"require": "better", "allow_class_change": True, "dry_run": True}
    first = registry.judge(lucky, **settings)
    assert (first.attempt, first.verdict.passed, first.promoted) == (1, True, False)
    registry.judge(equal, **settings)
    again = registry.judge(lucky, **settings)
    assert (again.attempt, list(list_refused(again))) == (2, ["accuracy better"])
    assert "attempt 2 on these images" in again.verdict.failed[0].asked


@pytest.mark.slow
def test_evaluation_of_a_candidate_is_an_attempt(registry: Registry) -> None:
    """An evaluation on the test set may have chosen the version."""
    registry.write_images(alternate(500))
    versions = [registry.register(registry.labels) for _ in range(3)]
    registry.set_champion(versions[0])
    for number in versions:
        trialrun.evaluate(f"models:/photos/{number}", str(registry.data), allow_model_code=True)
    assert registry.judge(versions[1], dry_run=True).attempt == 2


@pytest.mark.slow
def test_rolled_back_version_returns_with_a_warning(registry: Registry) -> None:
    """The result names the reason of the earlier rollback."""
    registry.write_images(alternate(600))
    versions = [registry.register(registry.labels) for _ in range(2)]
    registry.judge(versions[0], min="accuracy=0.9")
    registry.judge(versions[1])
    trialrun.rollback("photos", "confuses cats outdoors")
    result = registry.judge(versions[1])
    assert result.promoted
    assert any("was rolled back" in note and "outdoors" in note for note in result.notes)


def test_code_of_a_foreign_model_needs_a_flag(registry: Registry) -> None:
    """A version of plain MLflow is refused by name unless its code may run."""
    registry.write_images(alternate(20))
    version = registry.register(registry.labels)
    with pytest.raises(InvalidModelDirectoryError) as caught:
        registry.judge(version, min="accuracy=0", allow_model_code=False)
    assert "allow-model-code" in caught.value.hint


@pytest.mark.slow
def test_labels_have_no_log_loss(registry: Registry) -> None:
    """A version that returns only labels is compared by accuracy and refused for log_loss."""
    registry.write_images(alternate(500))
    champion, challenger = (
        registry.register(registry.labels, suffix=".idxmax(axis=1).tolist()") for _ in range(2)
    )
    registry.set_champion(champion)
    with pytest.raises(TrialrunError, match="returns only labels"):
        registry.judge(challenger, metric="log_loss")
    assert registry.judge(challenger).promoted


def test_class_metrics_are_metrics_of_the_run(registry: Registry) -> None:
    """Recall, precision and F1 of each class can be charted and sorted in MLflow."""
    import mlflow

    registry.write_images(["b#1" if number % 2 else "dog" for number in range(20)])
    version = registry.register(spoil(registry.labels, range(2)))
    result = registry.judge(version, min="accuracy=0", allow_class_change=True)
    metrics = mlflow.MlflowClient().get_run(result.run_id).data.metrics
    assert (metrics["recall/dog"], metrics["recall/b_1"]) == (0.9, 0.9)
    assert metrics["precision/dog"] == 1.0


def test_malformed_baseline_is_named(registry: Registry) -> None:
    """The error names the setting that is wrong."""
    registry.write_images(alternate(20))
    version = registry.register(registry.labels)
    with pytest.raises(TrialrunError, match="baseline=best is neither a number nor @alias"):
        registry.judge(version, baseline="best")
