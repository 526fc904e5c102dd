"""The modules of a model do not leak into the process, nor into another model."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trialrun.serving.foreign import open_foreign_model

Save = Callable[..., Path]
# One import at load, one at the first prediction.
BODY = """
    from coloring.late import check
    check()
    return [coloring.NAME] * len(model_input)
    """


def save_with_package(save: Save, tmp_path: Path, name: str) -> Path:
    """Save a model that brings a package `coloring`, in which NAME is the model's name."""
    package = tmp_path / f"{name}_code" / "coloring"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"NAME = {name!r}\n")
    (package / "late.py").write_text(
        f"import coloring\ndef check():\n    assert coloring.NAME == {name!r}\n"
    )
    folder = save(BODY, name, code_paths=[str(package)])
    script = next(folder.glob("*.py"))
    script.write_text("import coloring\n" + script.read_text())
    return folder


def test_two_models_use_their_own_code(
    save: Save, tmp_path: Path, contents: Sequence[bytes]
) -> None:
    """Champion and challenger bring packages of the same name, loaded and called in any order."""
    folders = [save_with_package(save, tmp_path, name) for name in ("first", "second")]
    models = [open_foreign_model(folder, name=folder.name) for folder in folders]
    for model in [*models, *reversed(models)]:
        assert model.score_images(contents[:1]).classes == (model.name,)


def test_process_is_left_as_it_was(
    save: Save, tmp_path: Path, contents: Sequence[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An imported package of the same name is hidden from the model only, and comes back."""
    installed = tmp_path / "installed" / "coloring"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("NAME = 'installed'\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    import coloring  # type: ignore[import-not-found]

    try:
        folder = save_with_package(save, tmp_path, "own")
        path, entries = sys.path, list(sys.path)
        model = open_foreign_model(folder, name="own")
        assert model.score_images(contents[:1]).classes == ("own",)
        assert sys.path is path
        assert sys.path == entries
        assert sys.modules["coloring"] is coloring
        assert "coloring.late" not in sys.modules
        files = [str(getattr(module, "__file__", None)) for module in sys.modules.values()]
        assert not [file for file in files if file.startswith(f"{folder}/")]
    finally:
        del sys.modules["coloring"]


def test_compiled_and_loading_packages_are_not_hidden(
    save: Save, tmp_path: Path, contents: Sequence[bytes]
) -> None:
    """A model that brings `numpy`, `json` or `mlflow` gets those of the process."""
    before = {name: sys.modules[name] for name in ("numpy", "json", "mlflow", "trialrun")}
    paths = []
    for name in before:
        path = tmp_path / f"{name}.py"
        path.write_text("raise RuntimeError('replaced')\n")
        paths.append(str(path))
    folder = save("import numpy, json, mlflow, trialrun\nreturn ['a'] * len(model_input)")
    code = folder / "code"
    code.mkdir()
    for path_text in paths:
        (code / Path(path_text).name).write_text("raise RuntimeError('replaced')\n")
    mlmodel = folder / "MLmodel"
    mlmodel.write_text(
        mlmodel.read_text().replace("python_function:", "python_function:\n    code: code", 1)
    )
    model = open_foreign_model(folder, name="own")
    assert model.score_images(contents[:1]).classes == ("a",)
    assert {name: sys.modules[name] for name in before} == before


def test_failing_load_restores_the_process(save: Save, tmp_path: Path) -> None:
    """`sys` is restored after an error too."""
    folder = save_with_package(save, tmp_path, "own")
    next(folder.glob("*.py")).write_text("import coloring\nraise RuntimeError('no')\n")
    entries = list(sys.path)
    with pytest.raises(Exception, match="no"):
        open_foreign_model(folder, name="own")
    assert sys.path == entries
    assert "coloring" not in sys.modules
