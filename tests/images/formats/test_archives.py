"""Archives, lines 31 to 34 of the list of faults, and every kind that is read."""

import bz2
import gzip
import io
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.errors import DataError, InvalidArchiveError
from trialrun.images import open_data
from trialrun.images.formats.archives.entries import UnpackLimits
from trialrun.images.formats.archives.tar_files import read_tar_members

KINDS = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tar.bz2": "bztar"}


def refused(archive: Path) -> str:
    """Why an archive is refused; nothing of it is left in the cache, nor beside it."""
    cache = archive.parent / "cache"
    with pytest.raises(InvalidArchiveError) as caught:
        open_data(str(archive), cache)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    left = [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []
    return str(caught.value)


def tar_of(path: Path, *entries: tarfile.TarInfo) -> Path:
    """A tar with such entries, regular ones a byte long."""
    with tarfile.open(path, "w") as archive:
        for entry in entries:
            entry.size = 1 if entry.isreg() else 0
            archive.addfile(entry, io.BytesIO(b"x"))
    return path


def zip_of(path: Path, *names: str) -> Path:
    """A zip with files of such names, a byte each."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_is_read(colors: Path, tmp_path: Path, kind: str, wrapped: bool) -> None:
    """An archive of class folders, wrapped in one top folder or not, is an image set."""
    top = {"root_dir": tmp_path, "base_dir": "colors"} if wrapped else {"root_dir": colors}
    shutil.make_archive(str(tmp_path / "packed"), KINDS[kind], **top)
    images = open_data(str(tmp_path / f"packed.{kind}"), tmp_path / "cache")
    assert images.counts() == {"blue": 12, "green": 12, "red": 12}


def test_an_archive_alone_in_a_folder_is_read(colors: Path, tmp_path: Path) -> None:
    """A folder that holds one archive stands for it, and it is unpacked once."""
    (tmp_path / "download").mkdir()
    shutil.make_archive(str(tmp_path / "download" / "set"), "zip", colors)
    (tmp_path / "download" / ".DS_Store").write_bytes(b"")
    first = open_data(str(tmp_path / "download"), tmp_path / "cache")
    stamp = (first.root / "red" / "000.png").stat().st_mtime_ns
    again = open_data(str(tmp_path / "download"), tmp_path / "cache")
    assert again.counts() == {"blue": 12, "green": 12, "red": 12}
    assert (again.root / "red" / "000.png").stat().st_mtime_ns == stamp


def test_an_archive_of_an_image_list_is_read(tmp_path: Path) -> None:
    """Image lists are unpacked too, and what is neither list nor image is not."""
    folder = write_classes(tmp_path / "set", {"x": 2})
    (folder / "metadata.csv").write_text("file_name,label\nx/000.png,a\nx/001.png,b\n")
    (folder / "run.sh").write_text("echo")
    shutil.make_archive(str(tmp_path / "packed"), "gztar", folder)
    images = open_data(str(tmp_path / "packed.tar.gz"), tmp_path / "cache")
    assert images.counts() == {"a": 1, "b": 1}
    assert not (images.root / "run.sh").exists()


@pytest.mark.parametrize(
    "name", ["../out.png", "/out.png", "a/../../out.png", "C:\\out.png", "..\\out.png"]
)
def test_fault_31_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    """Neither kind of archive writes outside its folder."""
    assert "leads out" in refused(zip_of(tmp_path / "a.zip", "a/1.png", name))
    assert "leads out" in refused(tar_of(tmp_path / "a.tar", tarfile.TarInfo(name)))
    assert not list(tmp_path.rglob("out.png"))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_fault_31_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    """A tar may hold files and folders, nothing else."""
    entry = tarfile.TarInfo("a/1.png")
    entry.type = kind
    entry.linkname = "/etc/passwd"
    assert "link or a device" in refused(tar_of(tmp_path / "a.tar", entry))


def test_fault_31_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    """A zip's links are files with a certain mode."""
    entry = zipfile.ZipInfo("a/1.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
    assert "link or a device" in refused(tmp_path / "a.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["a/1.png", "a/./1.png", "./a//1.png"])
def test_fault_32_a_name_twice_is_refused(tmp_path: Path, again: str) -> None:
    """Two entries of one name are not one file, however the name is written."""
    assert "twice" in refused(zip_of(tmp_path / "a.zip", "a/1.png", again))
    entries = (tarfile.TarInfo("a/1.png"), tarfile.TarInfo(again))
    assert "twice" in refused(tar_of(tmp_path / "a.tar", *entries))


def test_fault_32_a_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    """One name cannot be both."""
    assert "as a file and as a folder" in refused(zip_of(tmp_path / "a.zip", "a", "a/1.png"))


@pytest.mark.parametrize("name", ["1.png", "notes.txt"])
def test_fault_33_a_bomb_is_refused(tmp_path: Path, name: str) -> None:
    """Too much out of too little is refused before the disk fills, in an image or beside one."""
    zeros = bytes(1 << 20)
    with (
        zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(f"a/{name}", "w") as file,
    ):
        for _ in range(160):
            file.write(zeros)
    assert "more than 200 times" in refused(tmp_path / "a.zip")
    entry = tarfile.TarInfo(f"a/{name}")
    entry.size = 160 << 20
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as packed:
        packed.write(entry.tobuf())
        for _ in range(160):
            packed.write(zeros)
    assert "more than 200 times" in refused(tmp_path / "a.tar.gz")


def test_fault_33_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    """What is declared is held against the free space before it is written."""
    entry = tarfile.TarInfo("a/1.png")
    entry.size = 1 << 40
    (tmp_path / "a.tar").write_bytes(entry.tobuf() + bytes(1024))
    allowance = UnpackLimits(tmp_path / "a.tar", archive_bytes=1 << 39, free_bytes=1 << 30)
    with pytest.raises(InvalidArchiveError, match="that are free"):
        list(read_tar_members(tmp_path / "a.tar", allowance))


def test_fault_33_too_many_entries_are_refused(tmp_path: Path) -> None:
    """A count without end ends."""
    allowance = UnpackLimits(tmp_path, 1, 1, num_entries=5_000_000)
    with pytest.raises(InvalidArchiveError, match="5,000,000 entries"):
        allowance.count_entry("one.png", is_folder=False)


@pytest.mark.parametrize("declared", [0, 2, 5_000])
def test_fault_33_false_sizes_are_refused(tmp_path: Path, declared: int) -> None:
    """A zip whose directory says another size than comes out is refused."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(100))
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, declared)
    path.write_bytes(data)
    refused(path)


def test_fault_34_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    """A set flag is enough: no password is asked for."""
    path = zip_of(tmp_path / "a.zip", "a/1.png")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "is encrypted" in refused(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_fault_34_a_truncated_archive_is_refused(
    colors: Path, tmp_path: Path, kind: str, share: float
) -> None:
    """A download that broke off is not half a data set."""
    shutil.make_archive(str(tmp_path / "whole"), KINDS[kind], colors)
    data = (tmp_path / f"whole.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * share)])
    refused(tmp_path / f"cut.{kind}")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2"])
@pytest.mark.parametrize("squeeze", [bytes, gzip.compress, bz2.compress])
def test_fault_34_what_is_no_archive_is_refused(
    tmp_path: Path, name: str, squeeze: Callable[[bytes], bytes]
) -> None:
    """A page saved under an archive's name is refused in one line."""
    (tmp_path / name).write_bytes(squeeze(b"<html>not found</html>" * 100))
    refused(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "said"),
    [("/".join("a" * 70), "more than 64 nested folders"), ("/".join(["b" * 99] * 11), "too long")],
    ids=["deep", "long"],
)
def test_a_name_of_too_many_folders_is_refused(tmp_path: Path, name: str, said: str) -> None:
    """Every folder on the way is counted: 60,000 of them would take a gigabyte and ten seconds."""
    with zipfile.ZipFile(tmp_path / "deep.zip", "w") as archive:
        archive.writestr(name + ".png", b"x")
    assert said in refused(tmp_path / "deep.zip")


SPOILT = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["zip", "tar", "tar.gz"]), spoilt=SPOILT)
def test_a_damaged_archive_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, kind: str, spoilt: list[tuple[float, int]]
) -> None:
    """Whatever bytes are spoilt, there is an image set or one of our errors."""
    folder = tmp_path_factory.mktemp("damaged")
    write_classes(folder / "set", {"a": 1, "b": 1}, size=4)
    shutil.make_archive(str(folder / "packed"), KINDS[kind], folder / "set")
    path = folder / f"packed.{kind}"
    content = bytearray(path.read_bytes())
    for share, value in spoilt:
        content[int(share * len(content))] = value
    path.write_bytes(content)
    with suppress(DataError):
        open_data(str(path), folder / "cache")
