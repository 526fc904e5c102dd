"""Tests of `trialrun data` and `trialrun cache` through the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

import trialrun
from tests.conftest import write_classes, write_image
from trialrun.cli import run_cli
from trialrun.errors import InvalidDatasetError
from trialrun.image_cache.feature_tables import load_or_compute_features
from trialrun.image_cache.inventory import list_evictable_entries
from trialrun.images import open_data
from trialrun.images.formats.image_directory_writer import write_image_directory
from trialrun.images.scanning.scan import scan_files


def run_json(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run a command with --json; return its exit code and the JSON object that it prints."""
    capsys.readouterr()
    code = run_cli([*map(str, arguments), "--json"])
    printed: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return code, printed


def test_check_accepts_directories_of_azure_ml(
    capsys: pytest.CaptureFixture[str], azure: Path
) -> None:
    """Both are intact and share no image."""
    code, printed = run_json(
        capsys, "data", "check", azure / "image_directory_train", azure / "image_directory_valid"
    )
    assert code == 0
    assert [row["num_good"] for row in printed["sets"]] == [200, 50]
    assert printed["findings"]["leaked_images"] == printed["findings"]["near_duplicates"] == 0
    assert printed["problems"] == []


def test_check_reports_leaks_and_fails_for_untrainable_data(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It names a planted duplicate; for a class that one set lacks it exits with 3."""
    train = write_classes(tmp_path / "train", {"a": 3, "b": 3})
    valid = write_classes(tmp_path / "valid", {"a": 3}, seed=50)
    shutil.copy(train / "b" / "002.png", valid / "a" / "copy.png")
    code, printed = run_json(capsys, "data", "check", train, valid)
    assert code == 3
    assert printed["findings"]["leaked"] == [["b/002.png", "a/copy.png"]]
    assert any("only in training" in problem for problem in printed["problems"])


def test_shard_writes_data_that_the_other_commands_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Counts and classes are those of the folder; errors have their exit codes."""
    root = write_classes(tmp_path / "set", {"a": 6, "b": 4})
    out = tmp_path / "out"
    code, printed = run_json(capsys, "data", "shard", root, out)
    assert (code, printed["num_images"], printed["num_shards"]) == (0, 10, 1)
    assert printed["images_by_class"] == {"a": 6, "b": 4}
    assert run_cli(["data", "shard", str(root), str(out)]) == 6
    code, printed = run_json(capsys, "data", "split", out, tmp_path / "two", "--fraction", "0.5")
    assert (code, printed["train"]["num_images"], printed["valid"]["num_images"]) == (0, 5, 5)
    code, printed = run_json(capsys, "data", "convert", out, tmp_path / "directory")
    assert (code, printed["images_by_class"]) == (0, {"a": 6, "b": 4})
    (out / "index.parquet").unlink()
    shard = next(out.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:5000])
    assert run_cli(["data", "check", str(out)]) == 3
    assert shard.name in capsys.readouterr().err


def test_check_writes_nothing(colors: Path, cache_folder: Path, tmp_path: Path) -> None:
    """No file appears beside the data or in the cache, even for an archive."""
    shutil.make_archive(str(tmp_path / "set"), "zip", colors)
    before = sorted(cache_folder.rglob("*")), sorted(tmp_path.rglob("*"))
    assert run_cli(["data", "check", str(tmp_path / "set.zip"), str(colors)]) == 0
    assert (sorted(cache_folder.rglob("*")), sorted(tmp_path.rglob("*"))) == before


def test_convert_writes_the_same_files_as_azure_ml(
    capsys: pytest.CaptureFixture[str], azure: Path, tmp_path: Path
) -> None:
    """Converting a directory of Azure ML reproduces its files."""
    source, out = azure / "image_directory_train", tmp_path / "out"
    assert run_json(capsys, "data", "convert", source, out)[1]["num_images"] == 200
    for name in ("_meta.yaml", "images.lst"):
        assert (out / name).read_text() == (source / name).read_text()
    for name in ("_schema.json", "_samples.json"):
        ours, theirs = (json.loads((folder / name).read_text()) for folder in (out, source))
        assert ours == theirs
    for path in (source / "image").iterdir():
        assert (out / "image" / path.name).read_bytes() == path.read_bytes()


def test_converted_dataset_reads_like_its_source(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Labels in any script and unlabelled images survive; the manifest lists a bad file."""
    folder = write_classes(tmp_path / "set", {"caf\u00e9 \u732b": 2, "b,\n": 2})
    write_image(folder / "stray.png", (3, 3, 3))
    (folder / "b,\n" / "bad.png").write_bytes(b"<html>")
    code, printed = run_json(capsys, "data", "convert", folder, tmp_path / "out")
    assert (code, printed["num_images"], printed["num_skipped"]) == (0, 5, 1)
    before, after = (open_data(str(p), tmp_path) for p in (folder, tmp_path / "out"))
    labels = [i.label for i in before.items if not i.name.endswith("bad.png")]
    assert [item.label for item in after.items] == labels
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["reason"] for row in rows if row["verdict"] == "skipped"] == ["an HTML page"]
    existing = tmp_path / "out"
    assert run_cli(["data", "convert", str(folder), str(existing)]) == 6


@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_files_that_change_before_the_copy_are_an_error(tmp_path: Path, change: str) -> None:
    """The error names a file that was replaced or deleted after the scan."""
    folder = write_classes(tmp_path / "set", {"a": 2, "b": 2})
    scan = scan_files(open_data(str(folder), tmp_path), threads=1)
    path = folder / "b" / "000.png"
    path.unlink() if change == "gone" else path.write_bytes(b"<html>")
    with pytest.raises(InvalidDatasetError, match=r"b/000\.png was readable at first"):
        write_image_directory(scan, [""] * 4, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_output_in_an_unknown_home_is_an_invalid_parameter(colors: Path) -> None:
    """`~nosuchuser` does not exist; the command exits with 2."""
    assert run_cli(["data", "convert", str(colors), "~nosuchuser/out"]) == 2


def test_written_file_names_are_ascii(tmp_path: Path) -> None:
    """The names in the image list may be in any script."""
    folder = write_classes(tmp_path / "set", {"a": 1})
    (folder / "a" / "000.png").rename(folder / "a" / "1.p\u00f1g")
    (folder / "metadata.csv").write_text("file_name,label\na/1.p\u00f1g,\u00e9\n", "utf-8")
    scan = scan_files(open_data(str(folder), tmp_path), threads=1)
    write_image_directory(scan, [""], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "image").iterdir()] == ["0_0"]


def test_split_keeps_classes_and_groups(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """OUT/train and OUT/valid share no group, and a repeated call writes the same files."""
    for number in range(40):
        path = tmp_path / "set" / "ab"[number % 2] / f"p{number // 4}_{number}.png"
        write_image(path, (9, 99, 199), seed=number)
    call = ["--fraction", 0.8, "--group-pattern", r"p(\d+)_"]
    code, printed = run_json(capsys, "data", "split", tmp_path / "set", tmp_path / "one", *call)
    assert code == 0
    assert printed["train"]["images_by_class"] == {"a": 16, "b": 16}
    run_json(capsys, "data", "split", tmp_path / "set", tmp_path / "two", *call)
    sources = {}
    for part in ("train", "valid"):
        texts = [(tmp_path / out / part / "manifest.jsonl").read_text() for out in ("one", "two")]
        assert texts[0] == texts[1]
        names = [json.loads(line)["source"] for line in texts[0].splitlines()]
        sources[part] = {Path(name).name.split("_")[0] for name in names}
    assert not sources["train"] & sources["valid"]


def test_converted_and_split_tables_keep_their_columns(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The groups of a table, or of a pattern, can be used again after both commands."""
    rows = [f"x/{n:03}.png,{'ab'[n % 2]},p{n // 4},{n}" for n in range(40)]
    root = write_classes(tmp_path / "set", {"x": 40})
    (root / "metadata.csv").write_text("\n".join(["file_name,label,patient,id", *rows]))
    run_json(capsys, "data", "convert", root, tmp_path / "out")
    call = ["--fraction", 0.8, "--group-column", "patient"]
    assert run_json(capsys, "data", "split", tmp_path / "out", tmp_path / "cut", *call)[0] == 0
    parts = [
        open_data(str(tmp_path / "cut" / part), tmp_path, group_column="patient")
        for part in ("train", "valid")
    ]
    groups = [{item.group for item in part.items} for part in parts]
    assert groups[0] | groups[1] == {f"p{n}" for n in range(10)}
    assert not groups[0] & groups[1]
    run_json(capsys, "data", "convert", root, tmp_path / "by", "--group-pattern", r"(\d)\d\.png")
    images = open_data(str(tmp_path / "by"), tmp_path, group_column="group")
    assert {item.group for item in images.items} == {"0", "1", "2", "3"}


def test_check_reports_all_parts_of_a_root(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Test images that are training images are found; the labels are read as told."""
    for seed, part in enumerate(("train", "val", "test")):
        write_classes(tmp_path / part, {"A": 3, "a": 3}, seed=5000 * seed)
    shutil.copy(tmp_path / "train" / "A" / "000.png", tmp_path / "test" / "A" / "copy.png")
    code, printed = run_json(capsys, "data", "check", tmp_path, "--case-sensitive-labels")
    assert code == 0
    assert [Path(row["source"]).name for row in printed["sets"]] == ["train", "val", "test"]
    assert printed["data_layout"] == "splits (train=train; valid=val; not used: test)"
    assert printed["findings"]["leaked"] == []
    assert printed["test_findings"]["leaked"] == [["A/000.png", "A/copy.png"]]
    assert run_cli(["data", "check", str(tmp_path)]) == 3  # A and a
    assert "1 test images are also training images" in capsys.readouterr().out
    for command in ("split", "convert"):
        assert run_cli(["data", command, str(tmp_path), str(tmp_path / "out")]) == 3
        assert f"Give {tmp_path}/" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0, 1, -1, 2])
def test_split_rejects_an_invalid_fraction(colors: Path, tmp_path: Path, fraction: int) -> None:
    """It exits with 2 and writes nothing."""
    out = tmp_path / "out"
    assert run_cli(["data", "split", str(colors), str(out), "--fraction", str(fraction)]) == 2
    assert not out.exists()


def write_bad_files(folder: Path) -> list[str]:
    """Write one file of each bad kind into a class and return their names."""
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


def test_run_skips_and_lists_bad_files_and_decodes_once(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad files are listed and leaks recorded; a second run decodes nothing."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    folder = write_classes(tmp_path / "set", {"green": 30, "red": 30})
    bad = write_bad_files(folder)
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
    assert decoded == ["62", "0"]  # 4 files have no readable header
    tags = client.get_run(run_id).data.tags
    assert (tags["skipped_images"], tags["conflicting_labels"]) == ("5", "1")
    local = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="manifest.jsonl", dst_path=str(tmp_path)
    )
    rows = [json.loads(line) for line in Path(local).read_text().splitlines()]
    assert sorted(row["name"] for row in rows if row["verdict"] == "skipped") == bad
    packs = run_json(capsys, "cache", "list")[1]["packs"]
    assert sorted(pack["image_size"] for pack in packs) == [32, 37]
    assert run_json(capsys, "cache", "clear")[1]["num_packs"] == 2
    assert run_json(capsys, "cache", "list")[1]["packs"] == []


def test_dataset_in_the_artifact_store_is_downloaded(
    store: str, colors: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DATA may be an artifact of an earlier run."""
    client = mlflow.MlflowClient(store)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    client.log_artifacts(run_id, str(colors), "set")
    code, printed = run_json(capsys, "data", "check", f"runs:/{run_id}/set")
    assert code == 0
    assert printed["sets"][0]["images_by_class"] == {"blue": 12, "green": 12, "red": 12}
    assert run_cli(["data", "check", f"runs:/{run_id}/none"]) == 5


@pytest.mark.parametrize("command", ["convert", "split"])
def test_output_inside_the_dataset_is_rejected(
    colors: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be read as another class of the dataset."""
    assert run_cli(["data", command, str(colors), str(colors / "out")]) == 2
    assert "outside" in capsys.readouterr().err
    assert not (colors / "out").exists()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], ["cache list", "cache clear"]),
        (["--list", "--json"], ["cache list"]),
        (["--clear"], ["cache clear"]),
        (["--limit", "3", "more"], ["cache list", "cache clear"]),
        (["--help"], ["cache list", "cache clear"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_data_pack_names_the_commands_that_replaced_it(
    options: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits with 2 and prints two lines, whatever its options; the help does not list it."""
    assert run_cli(["data", "pack", *options]) == 2
    printed = capsys.readouterr()
    error, hint = printed.err.splitlines()
    assert printed.out == ""
    assert error.startswith("Error: InvalidParameterError: ")
    assert re.findall(r"`trialrun (.*?)`", hint) == named
    assert run_cli(["data", "--help"]) == 0
    assert "pack" not in capsys.readouterr().out


def test_cache_commands_print_text_for_people(
    colors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without --json each entry of the cache is a line."""
    monkeypatch.setenv("TRIALRUN_CACHE", str(tmp_path / "cache"))
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", colors)
    open_data(archive, tmp_path / "cache")
    load_or_compute_features("0" * 32, lambda: np.zeros((2, 3), np.float32), list_evictable_entries)
    assert run_cli(["cache", "list"]) == 0
    printed = capsys.readouterr()
    assert archive in printed.out
    assert "1 files of frozen backbones" in printed.out
    assert "0 segments of decoded images and 1 unpacked archives in" in printed.err
    assert run_cli(["cache", "clear"]) == 0
    printed = capsys.readouterr()
    deleted = "Deleted 0 segments of decoded images, 0 unpacked archives and 1 files of features"
    assert deleted in printed.out
    assert not (tmp_path / "cache/features" / ("0" * 32)).exists()
    assert "1 unpacked archives are in use and were kept" in printed.err
