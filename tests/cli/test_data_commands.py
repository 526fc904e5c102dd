"""`trialrun data`: check, convert, split, pack, as a person or a script calls them."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest

import trialrun
from tests.conftest import write_classes, write_image
from trialrun.cli import run_cli
from trialrun.errors import InvalidDatasetError
from trialrun.images import open_data
from trialrun.images.formats.image_directory_writer import write_image_directory
from trialrun.images.scanning.scan import scan_files


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON object that a command prints."""
    capsys.readouterr()
    code = run_cli([*map(str, arguments), "--json"])
    said: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return code, said


def test_check_of_the_ancestors_directories(
    capsys: pytest.CaptureFixture[str], azure: Path
) -> None:
    """Both are whole, and no image is in both."""
    code, said = answer(
        capsys, "data", "check", azure / "image_directory_train", azure / "image_directory_valid"
    )
    assert code == 0
    assert [each["num_good"] for each in said["sets"]] == [200, 50]
    assert said["findings"]["leaked_images"] == said["findings"]["near_duplicates"] == 0
    assert said["problems"] == []


def test_check_tells_leaks_and_fails_for_what_cannot_be_trained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A planted duplicate is named; a class that one set lacks makes it exit 3, report and all."""
    train = write_classes(tmp_path / "train", {"a": 3, "b": 3})
    valid = write_classes(tmp_path / "valid", {"a": 3}, seed=50)
    shutil.copy(train / "b" / "002.png", valid / "a" / "copy.png")
    code, said = answer(capsys, "data", "check", train, valid)
    assert code == 3
    assert said["findings"]["leaked"] == [["b/002.png", "a/copy.png"]]
    assert any("only in training" in problem for problem in said["problems"])


def test_check_writes_nothing(colors: Path, cache_folder: Path, tmp_path: Path) -> None:
    """Neither beside the data nor in the cache, not even for an archive."""
    shutil.make_archive(str(tmp_path / "set"), "zip", colors)
    before = sorted(cache_folder.rglob("*")), sorted(tmp_path.rglob("*"))
    assert run_cli(["data", "check", str(tmp_path / "set.zip"), str(colors)]) == 0
    assert (sorted(cache_folder.rglob("*")), sorted(tmp_path.rglob("*"))) == before


def test_convert_writes_what_the_ancestor_wrote(
    capsys: pytest.CaptureFixture[str], azure: Path, tmp_path: Path
) -> None:
    """Converting one of the ancestor's own directories gives the same files back."""
    source, out = azure / "image_directory_train", tmp_path / "out"
    assert answer(capsys, "data", "convert", source, out)[1]["num_images"] == 200
    for name in ("_meta.yaml", "images.lst"):
        assert (out / name).read_text() == (source / name).read_text()
    for name in ("_schema.json", "_samples.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (out, source))
        assert ours == theirs
    for path in (source / "image").iterdir():
        assert (out / "image" / path.name).read_bytes() == path.read_bytes()


def test_what_convert_wrote_reads_as_the_source_did(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Labels of any script and images of no label survive; a bad file stands in the manifest."""
    folder = write_classes(tmp_path / "set", {"caf\u00e9 \u732b": 2, "b,\n": 2})
    write_image(folder / "stray.png", (3, 3, 3))
    (folder / "b,\n" / "bad.png").write_bytes(b"<html>")
    code, said = answer(capsys, "data", "convert", folder, tmp_path / "out")
    assert (code, said["num_images"], said["num_skipped"]) == (0, 5, 1)
    before, after = (open_data(str(p), tmp_path) for p in (folder, tmp_path / "out"))
    labels = [i.label for i in before.items if not i.name.endswith("bad.png")]
    assert [item.label for item in after.items] == labels
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["reason"] for row in rows if row["verdict"] == "skipped"] == ["an HTML page"]
    assert (
        run_cli(["data", "convert", str(folder), str(tmp_path / "out")]) == 6
    )  # it is there already


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_what_is_written_is_what_was_judged(tmp_path: Path, change: str) -> None:
    """A file that is replaced or vanishes before it is copied is an error that names it."""
    folder = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    scan = scan_files(open_data(str(folder), tmp_path), threads=1)
    path = folder / "b" / "000.png"
    path.unlink() if change == "gone" else path.write_bytes(b"<html>")
    with pytest.raises(InvalidDatasetError, match=r"b/000\.png could be read at first"):
        write_image_directory(scan, [""] * 4, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_is_told(colors: Path) -> None:
    """The home of a user that there is not: a wrong parameter, no fault of ours."""
    assert run_cli(["data", "convert", str(colors), "~nosuchuser/out"]) == 2


def test_names_that_are_written_are_ascii(tmp_path: Path) -> None:
    """Whatever a list calls its images."""
    folder = write_classes(tmp_path / "set", {"a": 1})
    (folder / "a" / "000.png").rename(folder / "a" / "1.p\u00f1g")
    (folder / "metadata.csv").write_text("file_name,label\na/1.p\u00f1g,\u00e9\n", "utf-8")
    scan = scan_files(open_data(str(folder), tmp_path), threads=1)
    write_image_directory(scan, [""], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "image").iterdir()] == ["0_0"]


def test_split_keeps_classes_and_groups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """OUT/train and OUT/valid share no group, and the same call writes the same again."""
    for number in range(40):
        path = tmp_path / "set" / "ab"[number % 2] / f"p{number // 4}_{number}.png"
        write_image(path, (9, 99, 199), seed=number)
    call = ["--fraction", 0.8, "--group-pattern", r"p(\d+)_"]
    code, said = answer(capsys, "data", "split", tmp_path / "set", tmp_path / "one", *call)
    assert code == 0
    assert said["train"]["images_by_class"] == {"a": 16, "b": 16}
    answer(capsys, "data", "split", tmp_path / "set", tmp_path / "two", *call)
    sources = {}
    for part in ("train", "valid"):
        texts = [(tmp_path / out / part / "manifest.jsonl").read_text() for out in ("one", "two")]
        assert texts[0] == texts[1]
        names = [json.loads(line)["source"] for line in texts[0].splitlines()]
        sources[part] = {Path(name).name.split("_")[0] for name in names}
    assert not sources["train"] & sources["valid"]


@pytest.mark.parametrize("fraction", [0, 1, -1, 2])
def test_split_refuses_a_share_that_is_none(colors: Path, tmp_path: Path, fraction: int) -> None:
    """Exit 2, nothing written."""
    out = tmp_path / "out"
    assert run_cli(["data", "split", str(colors), str(out), "--fraction", str(fraction)]) == 2
    assert not out.exists()


def bad_files(folder: Path) -> list[str]:
    """Put one of each bad file into a class; their names."""
    good = (folder / "red" / "000.png").read_bytes()
    bad = {
        "empty.png": b"",
        "cut.png": good[: len(good) // 2],
        "flipped.png": good[:60] + bytes([good[60] ^ 4]) + good[61:],
        "page.jpg": b"<!doctype html><html></html>",
        "drawing.svg": b"<svg/>",
    }
    for name, data in bad.items():
        (folder / "red" / name).write_bytes(data)
    return sorted(f"red/{name}" for name in bad)


def test_a_run_skips_bad_files_lists_them_and_decodes_once(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each bad file: trained, listed, leaks recorded; the second run decodes nothing."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    folder = write_classes(tmp_path / "set", {"green": 30, "red": 30})
    bad = bad_files(folder)
    shutil.copy(folder / "green" / "001.png", folder / "red" / "twin.png")
    settings: dict[str, Any] = {
        "train_data": str(folder),
        "model": "shufflenet_v2_x0_5",
        "epochs": 1,
        "augment": "standard",
        "precision": "fp32",
    }
    client = mlflow.MlflowClient(store)
    decoded = []
    for _ in range(2):
        result = trialrun.train(**settings)
        assert result.status == "FINISHED"
        run_id = result.run_id
        decoded.append(client.get_run(run_id).data.tags["decoded_images"])
    assert decoded == ["66", "0"]
    tags = client.get_run(run_id).data.tags
    assert (tags["skipped_images"], tags["conflicting_labels"]) == ("5", "1")
    local = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="manifest.jsonl", dst_path=str(tmp_path)
    )
    rows = [json.loads(line) for line in Path(local).read_text().splitlines()]
    assert sorted(row["name"] for row in rows if row["verdict"] == "skipped") == bad
    packs = answer(capsys, "data", "pack", "--list")[1]["packs"]
    assert sorted(pack["image_size"] for pack in packs) == [32, 37]
    assert answer(capsys, "data", "pack", "--clear")[1]["num_packs"] == 2
    assert answer(capsys, "data", "pack", "--list")[1]["packs"] == []


def test_a_set_in_the_artifact_store_is_downloaded(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DATA may be what an earlier run logged."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    client.log_artifacts(run_id, str(colors), "set")
    code, said = answer(capsys, "data", "check", f"runs:/{run_id}/set")
    assert code == 0
    assert said["sets"][0]["images_by_class"] == {"blue": 12, "green": 12, "red": 12}
    assert run_cli(["data", "check", f"runs:/{run_id}/none"]) == 5


@pytest.mark.parametrize("command", ["convert", "split"])
def test_output_among_the_images_is_refused(
    colors: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be read as further classes of the set."""
    assert run_cli(["data", command, str(colors), str(colors / "out")]) == 2
    assert "outside" in capsys.readouterr().err
    assert not (colors / "out").exists()
