"""Settings of how images and labels are read from a source, and of `trialrun data`."""

from dataclasses import dataclass

from trialrun.config.settings import AUTO_TEXT, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """How the files of a source are read."""

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
        pattern_help="an encoding such as utf-8",
        suggestions=(AUTO_TEXT, "utf-8", "cp437", "gb18030", "cp932"),
        searchable=False,
    )


DEFAULT_DATA_CONFIG = DataConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig(DataConfig):
    """Settings of `trialrun data check`; `build_config` builds and checks it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig(DataConfig):
    """Settings of `trialrun data convert`; `build_config` builds and checks it."""
