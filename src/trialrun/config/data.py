"""Settings of how images and labels are read from a source, and of `trialrun data`."""

from dataclasses import dataclass

from trialrun.config.settings import AUTO_TEXT, group_pattern_setting, setting

CLASSES_LAYOUT, SPLITS_LAYOUT = "classes", "splits"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How the files and the layout of a source are read, and where its labels come from."""

    data_layout: str = setting(
        AUTO_TEXT,
        "Meaning of the top folders: classes, or splits (train, val and test). auto decides by "
        "their names, and fails if both readings are possible.",
        choices=(AUTO_TEXT, CLASSES_LAYOUT, SPLITS_LAYOUT),
        searchable=False,
    )
    file_column: str | None = setting(
        None,
        "Column of the metadata table with the names of the image files; none is file_name.",
        searchable=False,
    )
    label_column: str | None = setting(
        None,
        "Column of the image list with the labels; none is label, or the annotation column of an "
        "ImageDirectory.",
        searchable=False,
    )
    label_pattern: str | None = setting(
        None,
        "Regular expression searched in image names; its group (?P<label>...) is the label. It "
        "replaces folders and columns.",
        searchable=False,
    )
    classes: str | None = setting(
        None,
        "File that lists the classes in order (.txt, .csv or .json); it can rename, merge and "
        "leave out labels.",
        searchable=False,
        path=True,
    )
    follow_links: bool = setting(
        False,
        "Follow symbolic links that lead out of the dataset, as those of a snapshot in Hugging "
        "Face's cache do. Otherwise a note counts them.",
        searchable=False,
    )
    archive_encoding: str = setting(
        AUTO_TEXT,
        "Encoding of names in archives that do not declare it, such as gb18030, cp932 (Shift-JIS) "
        "or cp437; auto detects it, and a note names it.",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,39}",
        pattern_help="auto | an encoding such as utf-8",
        suggestions=(AUTO_TEXT, "utf-8", "cp437", "gb18030", "cp932"),
        searchable=False,
    )


DEFAULT_DATA_CONFIG = DataConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelConfig(DataConfig):
    """The settings of `DataConfig`, and which labels count as different classes."""

    case_sensitive_labels: bool = setting(
        False,
        "Accept classes whose names differ in case only, such as A and a.",
        searchable=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig(LabelConfig):
    """Settings of `trialrun data check`; `build_config` builds and checks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig(DataConfig):
    """Settings of `trialrun data convert`; `build_config` builds and checks it."""

    group_pattern: str | None = group_pattern_setting("get the same value in the field group")
