"""Settings of how DATA is read, which every command that reads images has."""

from dataclasses import dataclass
from typing import Protocol

from trialrun.config.settings import AUTO_TEXT, setting


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How links out of DATA and names in archives are read."""

    follow_links: bool = False
    archive_encoding: str = AUTO_TEXT


class HasReadOptions(Protocol):
    """A config with the settings of `ReadOptions`."""

    @property
    def follow_links(self) -> bool:
        """The setting `follow_links`."""
        ...

    @property
    def archive_encoding(self) -> str:
        """The setting `archive_encoding`."""
        ...


def select_read_options(config: HasReadOptions) -> ReadOptions:
    """Return the settings of `config` that say how DATA is read."""
    return ReadOptions(config.follow_links, config.archive_encoding)


def follow_links_setting() -> bool:
    """Declare the setting `follow_links`."""
    declared: bool = setting(
        False,
        "Read images and folders behind symbolic links that lead out of the dataset, as in a "
        "snapshot of Hugging Face's hub. Otherwise a note counts them.",
        searchable=False,
    )
    return declared


def archive_encoding_setting() -> str:
    """Declare the setting `archive_encoding`."""
    declared: str = setting(
        AUTO_TEXT,
        "Encoding of names in archives that do not declare it, such as gb18030, cp932 (Shift-JIS) "
        "or cp437; auto detects it, and a note names it.",
        pattern=r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,39}",
        pattern_help="an encoding such as utf-8",
        suggestions=("utf-8", "cp437", "gb18030", "cp932"),
        searchable=False,
    )
    return declared
