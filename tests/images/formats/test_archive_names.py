"""Names and links in archives: encodings, separators, links, and what is not unpacked."""

import io
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import write_image
from trialrun.config.data import DataConfig
from trialrun.errors import InvalidArchiveError, InvalidParameterError
from trialrun.images import ImageSet, open_data
from trialrun.images.formats.archives.encodings import CANDIDATES, UTF_8, detect_encoding

NFD = unicodedata.normalize("NFD", "\u00c4pfel")
# Class names, and the bytes that a program writes for each.
ENCODED = {
    "utf-8": [NFD, "Birnen"],
    "cp437": ["\u00c4pfel", "K\u00e4se"],
    "gb18030": ["猫", "狗"],
    "cp932": ["ソース", "表", "りんご"],
    "cp866": ["кошка", "собака"],
}


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return an image file's content."""
    path = tmp_path_factory.mktemp("png") / "1.png"
    write_image(path, (1, 2, 3), size=8)
    return path.read_bytes()


def write_raw_zip(path: Path, names: list[bytes], content: bytes, *, flags: int = 0) -> Path:
    """Write a zip whose names are these bytes, without the UTF-8 flag."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(f"{number:x}" * len(name), content)
    data = path.read_bytes()
    for number, name in enumerate(names):
        data = data.replace(f"{number:x}".encode() * len(name), name)
    path.write_bytes(data)
    return path


def write_links(path: Path, entries: list[tuple[str, bytes | str]], *, hard: bool = False) -> Path:
    """Write a tar of files (bytes) and links (text: their target)."""
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.LNKTYPE if hard else tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def read_set(archive: Path, config: DataConfig | None = None) -> ImageSet:
    """Open an archive with the cache beside it."""
    return open_data(str(archive), archive.parent / "cache", config=config or DataConfig())


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_encoding_of_names_is_detected_and_noted(
    tmp_path: Path, png: bytes, encoding: str, kind: str
) -> None:
    """Classes have the names that were packed in every run, and a note says how they were read."""
    classes = [unicodedata.normalize("NFC", name) for name in ENCODED[encoding]]
    names = [f"{name}/1.png".encode(encoding) for name in ENCODED[encoding]]
    archive = tmp_path / f"set.{kind}"
    if kind == "zip":
        write_raw_zip(archive, names, png)
    else:
        with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT, encoding=encoding) as file:
            for name in ENCODED[encoding]:
                info = tarfile.TarInfo(f"{name}/1.png")
                info.size = len(png)
                file.addfile(info, io.BytesIO(png))
    for _ in range(2):
        images = read_set(archive)
        assert images.classes == tuple(sorted(classes))
        if (kind, encoding) != ("tar", "utf-8"):
            (note,) = images.notes
            assert f"read as {encoding} (detected" in note
            assert "archive_encoding" in note


def test_given_encoding_replaces_the_detected_one(tmp_path: Path, png: bytes) -> None:
    """One ambiguous name is read as the user says; a wrong or unknown encoding is an error."""
    archive = write_raw_zip(tmp_path / "a.zip", ["猫/1.png".encode("gb18030")], png)
    assert read_set(archive).classes == ("\u00e8",)  # also valid UTF-8
    images = read_set(archive, DataConfig(archive_encoding="gbk"))
    assert images.classes == ("猫",)
    assert "by archive_encoding" in images.notes[0]
    with pytest.raises(InvalidArchiveError, match="not in the encoding archive_encoding=ascii"):
        read_set(archive, DataConfig(archive_encoding="ascii"))
    with pytest.raises(InvalidParameterError, match="archive_encoding=klingon"):
        read_set(archive, DataConfig(archive_encoding="klingon"))


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=12), max_size=5))
def test_any_bytes_have_an_encoding(names: list[bytes]) -> None:
    """Detection returns an encoding in which every name can be decoded."""
    encoding = detect_encoding(names)
    assert encoding in (UTF_8, *CANDIDATES)
    assert all(isinstance(name.decode(encoding), str) for name in names)


def test_one_class_of_two_archives_has_one_name(tmp_path: Path, png: bytes) -> None:
    """MacOS writes names decomposed, other systems composed."""
    for number, name in enumerate((unicodedata.normalize("NFC", NFD), NFD)):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr(f"{name}/1.png", png)
    assert read_set(tmp_path / "0.zip").classes == read_set(tmp_path / "1.zip").classes


def test_backslashes_are_separators_but_lead_nowhere_else(tmp_path: Path, png: bytes) -> None:
    """A zip of old Windows programs has its class folders; `..` is still refused."""
    images = read_set(write_raw_zip(tmp_path / "a.zip", [b"cat\\1.png", b"dog\\2.png"], png))
    assert images.count_classes() == {"cat": 1, "dog": 1}
    assert "2 names with backslashes" in images.notes[0]
    with pytest.raises(InvalidArchiveError, match="leads out"):
        read_set(write_raw_zip(tmp_path / "b.zip", [b"cat\\..\\..\\1.png"], png))


@pytest.mark.parametrize("hard", [False, True])
def test_links_to_members_of_a_tar_are_files(tmp_path: Path, png: bytes, hard: bool) -> None:
    """Links before and after their target, chains, and targets without an image's ending work."""
    up = "" if hard else "../"
    entries: list[tuple[str, bytes | str]] = [
        ("cat/early.png", f"{up}blobs/0123"),
        ("blobs/0123", png),
        ("dog/1.png", png),
        ("dog/2.png", f"{up}cat/early.png"),
    ]
    images = read_set(write_links(tmp_path / "a.tar", entries, hard=hard))
    assert images.count_classes() == {"cat": 1, "dog": 2}
    assert {(images.root / item.name).read_bytes() for item in images.items} == {png}


@pytest.mark.parametrize("target", ["../../out.png", "/etc/hostname", "missing.png", "a.png"])
def test_links_that_lead_elsewhere_are_refused(tmp_path: Path, png: bytes, target: str) -> None:
    """A link out of the archive, to nothing or to itself is an error that names it."""
    archive = write_links(tmp_path / "a.tar", [("c/1.png", png), ("c/a.png", target)])
    with pytest.raises(InvalidArchiveError, match=r"leads out of it or nowhere: c/a\.png"):
        read_set(archive)


@pytest.mark.parametrize("kind", ["xz", "zst"])
def test_further_compressions_are_read(tmp_path: Path, png: bytes, kind: str) -> None:
    """.tar.xz and .tar.zst are read; a truncated one is refused."""
    write_links(tmp_path / "a.tar", [("cat/1.png", png), ("dog/1.png", png)])
    path = tmp_path / f"a.tar.{kind}"
    content = (tmp_path / "a.tar").read_bytes()
    if kind == "xz":
        with tarfile.open(path, "w:xz") as archive:
            archive.add(write_tree(tmp_path / "tree", png), arcname=".")
    else:
        path.write_bytes(pa.compress(content, codec="zstd", asbytes=True))
    assert read_set(path).count_classes() == {"cat": 1, "dog": 1}
    cut = tmp_path / f"cut.tar.{kind}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(InvalidArchiveError):
        read_set(cut)


def write_tree(root: Path, png: bytes) -> Path:
    """Write two classes with one image each."""
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        (root / name / "1.png").write_bytes(png)
    return root


@pytest.mark.parametrize("name", ["a.7z", "a.rar", "a.bin"])
def test_other_archives_are_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    """The error names the kind, by suffix or content."""
    (tmp_path / name).write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(64))
    with pytest.raises(InvalidArchiveError, match="archives are not read") as caught:
        read_set(tmp_path / name)
    assert ".tar.zst" in caught.value.hint


def test_files_that_are_not_unpacked_are_noted(tmp_path: Path, png: bytes) -> None:
    """A list in an unknown format is not dropped silently, in no run."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cat/1.png", "dog/1.png", "labels.xlsx"):
            archive.writestr(name, png)
    for _ in range(2):
        (note,) = read_set(tmp_path / "a.zip").notes
        assert note.startswith("1 files of the archive")
        assert "labels.xlsx" in note
