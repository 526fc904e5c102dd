"""Folders with a metadata table."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import write_classes
from trialrun.config.data import DataConfig
from trialrun.errors import DataError, InvalidDatasetError, InvalidParameterError
from trialrun.images import check_trainable, open_data
from trialrun.images.formats import metadata_table

ROWS = [("x/000.png", "3"), ("x/001.png", "4"), ("x/002.png", None)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Create a folder of three images."""
    return write_classes(tmp_path / "set", {"x": 3})


def read_labels(folder: Path) -> list[tuple[str, str | None]]:
    """Return the images' names and labels."""
    return [(item.name, item.label) for item in open_data(str(folder), folder).items]


def test_csv_gives_the_labels(folder: Path) -> None:
    """A CSV file may have a byte order mark, quotes and Windows line ends."""
    (folder / "metadata.csv").write_bytes(
        '\ufefffile_name,label\r\n"x/000.png",3\r\nx/001.png,4\r\n./x/002.png,\r\n'.encode()
    )
    assert read_labels(folder) == ROWS


def test_column_names_may_have_spaces(folder: Path) -> None:
    """A space after a comma in the header is ignored."""
    (folder / "metadata.csv").write_text("file_name, label\nx/000.png,3\nx/001.png,4\nx/002.png,\n")
    assert read_labels(folder) == ROWS


def test_error_of_a_table_without_labels_has_its_columns(folder: Path) -> None:
    """The error shows the columns if the label column has another name."""
    (folder / "metadata.csv").write_text("file_name,klass\nx/000.png,3\n")
    [error] = check_trainable(open_data(str(folder), folder))
    assert "no column label, but ['file_name', 'klass']" in str(error)


def test_json_lines_give_the_labels(folder: Path) -> None:
    """Numbers become text; null means no label."""
    values = [3, 4, None]
    lines = [
        json.dumps({"file_name": n, "label": v}) for (n, _), v in zip(ROWS, values, strict=True)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    assert read_labels(folder) == ROWS


def test_parquet_gives_the_labels(folder: Path) -> None:
    """Integers that pandas stores as floats have no decimal point."""
    import pandas as pd

    table = pd.DataFrame({"file_name": [name for name, _ in ROWS], "label": [3, 4, None]})
    table.to_parquet(folder / "metadata.parquet")
    assert read_labels(folder) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "path,label\nx/000.png,a\n", "no column file_name"),
        ("metadata.csv", "file_name,label\nx/000.png,a\nx/000.png,b\n", "again"),
        ("metadata.csv", "file_name,label\nx/000.png,a\nx//000.png,b\n", "again"),
        ("metadata.csv", "file_name,label\nx/000.png,a\nx/./000.png,b\n", "again"),
        ("metadata.csv", "file_name,label\n/etc/passwd,a\n", "leads out"),
        ("metadata.csv", "file_name,label\n,a\n", "row 1 has no file_name"),
        ("metadata.csv", "file_name,label\nx/000.png,\udce9\n", "not in UTF-8"),
        ("metadata.jsonl", "[1]\n", "damaged"),
        ("metadata.jsonl", '{"file_name": "x/000.png"}\nfile_name', "line 2"),
        ("metadata.jsonl", '{"file_name": "x/000.png", "label": {"a": 1}}', "not text"),
        ("metadata.jsonl", "[" * 100_000, "damaged"),
        (
            "metadata.jsonl",
            '{"file_name": "x/\\ud800.png", "label": "a"}',
            "row 1 has no file_name",
        ),
        ("metadata.jsonl", '{"file_name": "x/000.png", "label": "\\ud800"}', "UTF-8 cannot encode"),
        ("metadata.parquet", "PAR1", "damaged"),
    ],
)
def test_invalid_table_is_rejected(folder: Path, name: str, content: str, message: str) -> None:
    """The error describes the problem."""
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidDatasetError, match=message):
        open_data(str(folder), folder)


@given(content=st.binary(max_size=200), name=st.sampled_from(metadata_table.TABLES))
def test_any_bytes_are_a_table_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    """A damaged table raises nothing but DataError."""
    folder = tmp_path_factory.mktemp("table")
    (folder / name).write_bytes(content)
    try:
        metadata_table.read_images(folder, "set")
    except DataError:
        return


def test_columns_may_have_other_names(folder: Path) -> None:
    """`file_column` and `label_column` name them; a wrong name is an invalid parameter."""
    (folder / "metadata.csv").write_text(
        "path,file_name,kind\nx/000.png,a,3\nx/001.png,b,4\nx/002.png,c,\n"
    )
    config = DataConfig(file_column="path", label_column="kind")
    images = open_data(str(folder), folder, config=config)
    assert [(item.name, item.label) for item in images.items] == ROWS
    for wrong in (DataConfig(file_column="no"), DataConfig(label_column="no")):
        with pytest.raises(InvalidParameterError, match=r"=no is not in metadata\.csv"):
            open_data(str(folder), folder, config=wrong)


def test_names_are_stripped_unless_the_file_has_the_spaces(folder: Path) -> None:
    """Spaces after the commas of a CSV file do not belong to the names."""
    (folder / "x" / "001.png").rename(folder / " y.png")
    (folder / "metadata.csv").write_text(
        "label, file_name\n3, x/000.png\n4, y.png\n,\tx/002.png \n"
    )
    assert read_labels(folder) == [ROWS[0], (" y.png", "4"), ROWS[2]]


def test_folders_have_no_columns(colors: Path) -> None:
    """A column for class folders is an invalid parameter."""
    for wrong in (DataConfig(file_column="a"), DataConfig(label_column="a")):
        with pytest.raises(InvalidParameterError, match=r"=a: .* has no columns"):
            open_data(str(colors), colors, config=wrong)
