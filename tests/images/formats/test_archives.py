"""Archives: every supported kind, and faults 31 to 34."""

import bz2
import gzip
import io
import json
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.errors import DataError, InvalidArchiveError
from trialrun.images import open_data
from trialrun.images.formats import READERS, UNPACK_VERSION, metadata_table
from trialrun.images.formats.archives.entries import UnpackLimits
from trialrun.images.formats.archives.tar_files import read_tar_members

KINDS = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tar.bz2": "bztar"}


def open_rejected(archive: Path) -> str:
    """Open an archive that is rejected, check that the cache stays empty, return the message."""
    cache = archive.parent / "cache"
    with pytest.raises(InvalidArchiveError) as caught:
        open_data(str(archive), cache)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    files = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert files == []
    return str(caught.value)


def write_tar(path: Path, *entries: tarfile.TarInfo) -> Path:
    """Write a tar with these entries; regular files have one byte."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            entry.size = 1 if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(b"x"))
    return path


def write_zip(path: Path, *names: str) -> Path:
    """Write a zip with files of these names, one byte each."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_is_read(colors: Path, tmp_path: Path, kind: str, wrapped: bool) -> None:
    """Class folders are read from an archive, with or without a top folder."""
    top = {"root_dir": tmp_path, "base_dir": "colors"} if wrapped else {"root_dir": colors}
    shutil.make_archive(str(tmp_path / "packed"), KINDS[kind], **top)
    images = open_data(str(tmp_path / f"packed.{kind}"), tmp_path / "cache")
    assert images.count_classes() == {"blue": 12, "green": 12, "red": 12}


def test_archive_alone_in_a_folder_is_read(colors: Path, tmp_path: Path) -> None:
    """A folder that contains only an archive is read as the archive, which is unpacked once."""
    (tmp_path / "download").mkdir()
    shutil.make_archive(str(tmp_path / "download" / "set"), "zip", colors)
    (tmp_path / "download" / ".DS_Store").write_bytes(b"")
    first = open_data(str(tmp_path / "download"), tmp_path / "cache")
    modified = (first.root / "red" / "000.png").stat().st_mtime_ns
    again = open_data(str(tmp_path / "download"), tmp_path / "cache")
    assert again.count_classes() == {"blue": 12, "green": 12, "red": 12}
    assert (again.root / "red" / "000.png").stat().st_mtime_ns == modified


def test_archive_with_a_metadata_table_is_read(tmp_path: Path) -> None:
    """Images and lists are unpacked, other files are not."""
    folder = write_classes(tmp_path / "set", {"x": 2})
    (folder / "metadata.csv").write_text("file_name,label\nx/000.png,a\nx/001.png,b\n")
    (folder / "run.sh").write_text("echo")
    shutil.make_archive(str(tmp_path / "packed"), "gztar", folder)
    images = open_data(str(tmp_path / "packed.tar.gz"), tmp_path / "cache")
    assert images.count_classes() == {"a": 1, "b": 1}
    assert not (images.root / "run.sh").exists()


ROWS = [("x/000.png", "a"), ("x/001.png", "b")]


def write_csv_table(path: Path) -> None:
    """Write `ROWS` as CSV."""
    path.write_text("file_name,label\n" + "".join(f"{name},{label}\n" for name, label in ROWS))


def write_jsonl_table(path: Path) -> None:
    """Write `ROWS` as one JSON object per line."""
    rows = [{"file_name": name, "label": label} for name, label in ROWS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet_table(path: Path) -> None:
    """Write `ROWS` as Parquet."""
    pd.DataFrame(ROWS, columns=["file_name", "label"]).to_parquet(path)


TABLE_WRITERS = {
    "metadata.csv": write_csv_table,
    "metadata.jsonl": write_jsonl_table,
    "metadata.parquet": write_parquet_table,
}


@pytest.mark.parametrize("table", metadata_table.TABLES)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_metadata_table_is_read_from_an_archive(
    tmp_path: Path, table: str, wrapped: bool
) -> None:
    """Labels are read from a metadata table of every file format."""
    folder = write_classes(tmp_path / "top" / "set", {"x": 2})
    TABLE_WRITERS[table](folder / table)
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder.parent if wrapped else folder)
    images = open_data(str(tmp_path / "packed.zip"), tmp_path / "cache")
    assert [(item.name, item.label) for item in images.items] == ROWS


def test_image_directory_is_read_from_an_archive(azure: Path, tmp_path: Path) -> None:
    """An ImageDirectory's list, schema and meta files are unpacked."""
    folder = azure / "image_directory_train"
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    images = open_data(str(tmp_path / "packed.zip"), tmp_path / "cache")
    assert images.items == open_data(str(folder), tmp_path / "cache").items


@pytest.mark.parametrize(
    "name", [f"list{suffix}" for reader in READERS for suffix in reader.LIST_SUFFIXES]
)
@pytest.mark.parametrize("change_case", [str.lower, str.upper])
def test_list_files_of_every_reader_are_unpacked(
    tmp_path: Path, name: str, change_case: Callable[[str], str]
) -> None:
    """Extraction keeps all files with a list suffix that a reader declares."""
    write_zip(tmp_path / "a.zip", "a/1.png", f"a/{change_case(name)}", "b/1.png")
    images = open_data(str(tmp_path / "a.zip"), tmp_path / "cache")
    assert (images.root / "a" / change_case(name)).read_bytes() == b"x"


def test_unpack_version_belongs_to_the_list_suffixes() -> None:
    """Archives unpacked without a new suffix's lists must not be reused: raise UNPACK_VERSION."""
    suffixes = {suffix for reader in READERS for suffix in reader.LIST_SUFFIXES}
    assert (UNPACK_VERSION, suffixes) == (
        2,
        {".csv", ".json", ".jsonl", ".lst", ".parquet", ".yaml"},
    )


@pytest.mark.parametrize(
    "name", ["../out.png", "/out.png", "a/../../out.png", "C:\\out.png", "..\\out.png"]
)
def test_fault_31_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    """No archive writes outside its folder."""
    assert "leads out" in open_rejected(write_zip(tmp_path / "a.zip", "a/1.png", name))
    assert "leads out" in open_rejected(write_tar(tmp_path / "a.tar", tarfile.TarInfo(name)))
    assert not list(tmp_path.rglob("out.png"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_fault_31_links_out_of_a_tar_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A tar may contain only files, folders, and links to its own files."""
    entry = tarfile.TarInfo("a/1.png")
    entry.type = kind
    entry.linkname = "/etc/passwd"
    message = open_rejected(write_tar(tmp_path / "a.tar", entry))
    assert "has a link that leads out" in message or "link or a device" in message


def test_fault_31_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    """A link in a zip is a file with a special mode."""
    entry = zipfile.ZipInfo("a/1.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert "link or a device" in open_rejected(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["a/1.png", "a/./1.png", "./a//1.png"])
def test_fault_32_a_name_twice_is_refused(tmp_path: Path, again: str) -> None:
    """Different spellings of one path count as the same name."""
    assert "twice" in open_rejected(write_zip(tmp_path / "a.zip", "a/1.png", again))
    entries = (tarfile.TarInfo("a/1.png"), tarfile.TarInfo(again))
    assert "twice" in open_rejected(write_tar(tmp_path / "a.tar", *entries))


def test_fault_32_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    """A name cannot be both a file and a folder."""
    assert "as a file and as a folder" in open_rejected(
        write_zip(tmp_path / "a.zip", "a", "a/1.png")
    )


@pytest.mark.parametrize("name", ["1.png", "notes.txt"])
def test_fault_33_a_bomb_is_refused(tmp_path: Path, name: str) -> None:
    """An archive that expands too much is rejected, even if the large file is not an image."""
    zeros = bytes(1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"a/{name}", "w") as file,
    ):
        for _ in range(160):
            file.write(zeros)
    assert "more than 200 times" in open_rejected(tmp_path / "a.zip")
    entry = tarfile.TarInfo(f"a/{name}")
    entry.size = 160 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as packed:
        packed.write(entry.tobuf())
        for _ in range(160):
            packed.write(zeros)
    assert "more than 200 times" in open_rejected(tmp_path / "a.tar.gz")


def test_fault_33_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    """Declared sizes are compared with the free space before anything is written."""
    entry = tarfile.TarInfo("a/1.png")
    entry.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(entry.tobuf() + bytes(1024))
    limits = UnpackLimits(tmp_path / "a.tar", archive_bytes=1 << 39, free_bytes=1 << 30)
    with pytest.raises(InvalidArchiveError, match="that are free"):
        list(read_tar_members(tmp_path / "a.tar", limits))


def test_fault_33_too_many_entries_are_refused(tmp_path: Path) -> None:
    """The number of entries is limited."""
    limits = UnpackLimits(tmp_path, 1, 1, num_entries=5_000_000)
    with pytest.raises(InvalidArchiveError, match="5,000,000 entries"):
        limits.count_entry("one.png", is_folder=False)


@pytest.mark.parametrize("declared", [0, 2, 5_000])
def test_fault_33_wrong_sizes_are_refused(tmp_path: Path, declared: int) -> None:
    """A zip whose directory declares another size than the content has is rejected."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(100))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, declared)
    path.write_bytes(data)
    open_rejected(path)


def test_fault_34_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """A zip with the encryption flag is rejected."""
    path = write_zip(tmp_path / "a.zip", "a/1.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted" in open_rejected(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_fault_34_a_truncated_archive_is_refused(
    colors: Path, tmp_path: Path, kind: str, share: float
) -> None:
    """A truncated download is not read as a smaller dataset."""
    shutil.make_archive(str(tmp_path / "whole"), KINDS[kind], colors)
    data = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * share)])
    open_rejected(tmp_path / f"cut.{kind}")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
def test_fault_34_other_files_are_refused(
    tmp_path: Path, name: str, squeeze: Callable[[bytes], bytes]
) -> None:
    """An HTML page with an archive's name is rejected with a one-line message."""
    (tmp_path / name).write_bytes(squeeze(b"<html>not found</html>" * 100))
    open_rejected(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "message"),
    [("/".join("a" * 70), "more than 64 nested folders"), ("/".join(["b" * 99] * 11), "too long")],
    ids=["deep", "long"],
)
def test_name_with_too_many_folders_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """Every parent folder is stored: 60,000 of them would take a gigabyte and ten seconds."""
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr(name + ".png", b"x")
    assert message in open_rejected(tmp_path / "deep.zip")


CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1)


@settings(max_examples=60)
@given(kind=st.sampled_from(["zip", "tar", "tar.gz"]), changes=CHANGES)
def test_damaged_archive_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]]
) -> None:
    """With any bytes changed, the result is an image set or a DataError."""
    folder = tmp_path_factory.mktemp("damaged")
    write_classes(folder / "set", {"a": 1, "b": 1}, size=4)
    shutil.make_archive(str(folder / "packed"), KINDS[kind], folder / "set")
    path = folder / f"packed.{kind}"
    content = bytearray(path.read_bytes())
    for share, value in changes:
        content[int(share * len(content))] = value
    path.write_bytes(content)
    with suppress(DataError):
        open_data(str(path), folder / "cache")
