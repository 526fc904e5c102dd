"""Which models need the user's consent, and what their MLmodel file says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import SMALL, write_model
from trialrun.errors import InvalidModelDirectoryError
from trialrun.serving.foreign import check_code_allowed, is_trialrun_model, open_foreign_model

Save = Callable[..., Path]


def test_own_models_are_recognised(save: Save, tmp_path: Path) -> None:
    """ModelDirectories of trialrun and Azure need no consent; MLflow's models do."""
    write_model(tmp_path / "own", SMALL, ("a", "b"))
    (tmp_path / "azure").mkdir()
    (tmp_path / "azure" / "model_spec.yaml").write_text("flavor: {}\n")
    assert is_trialrun_model(tmp_path / "own")
    assert is_trialrun_model(tmp_path / "azure")
    assert not is_trialrun_model(save("return []"))


def test_code_is_refused_without_consent(save: Save) -> None:
    """The error names the flavors and the option; nothing of the model has run."""
    folder = save("return []")
    next(folder.glob("*.py")).write_text("raise SystemExit")
    with pytest.raises(InvalidModelDirectoryError) as raised:
        check_code_allowed(folder, name="models:/colors/1", is_allowed=False)
    assert str(raised.value) == (
        "models:/colors/1 was registered by plain MLflow (flavors python_function): "
        "loading it runs its code"
    )
    assert raised.value.hint == "Pass --allow-model-code if you trust it."
    check_code_allowed(folder, name="models:/colors/1", is_allowed=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no file MLmodel"),
        ("[1, 2]", "is damaged"),
        ("flavors: {sklearn: {}}", r"no flavor python_function \(flavors sklearn\)"),
        ("flavors: [", "is damaged"),
        ("flavors: {python_function: {}}\nmetadata: {classes: [1, 2]}", "metadata key classes"),
        ("flavors: {python_function: {}}\nmetadata: {classes: [a, a]}", "metadata key classes"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, text: str | None, message: str) -> None:
    """A folder without a usable MLmodel file is an error, with consent too."""
    if text is not None:
        (tmp_path / "MLmodel").write_text(text)
    with pytest.raises(InvalidModelDirectoryError, match=message):
        check_code_allowed(tmp_path, name="models:/colors/1", is_allowed=True)


def test_unmet_requirements_are_notes(save: Save) -> None:
    """The model is opened; missing packages and other versions are named."""
    requirements = ["mlflow", "numpy==1.0", "not-a-package>=2 ; python_version > '3'"]
    folder = save("return []")
    (folder / "requirements.txt").write_text("# pins\n-c other.txt\n" + "\n".join(requirements))
    notes = open_foreign_model(folder, name="models:/colors/1").notes
    assert len(notes) == 2
    assert notes[0].startswith("models:/colors/1 requires numpy==1.0, but ")
    assert "not-a-package>=2" in notes[1]
    assert notes[1].endswith("which is not installed")
