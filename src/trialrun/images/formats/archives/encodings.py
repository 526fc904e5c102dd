"""Encodings of names in archives that do not say which one they use.

Zip names without the UTF-8 flag, and names in older tars, are bytes in the encoding of the system
that wrote them. `detect_encoding` decides from all names of an archive together. It is written for
names, which are too short for charset-normalizer (decision 14).
"""

import codecs
import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise

from trialrun.errors import InvalidParameterError

UTF_8 = "utf-8"
# Encodings that Windows and older Unix systems write, by preference in case of a tie.
CANDIDATES = ("cp437", "cp850", "cp1252", "gb18030", "cp932", "cp866")

_MAX_NAMES = 2000  # that are decoded for detection: class names repeat
_FOLDER_SEPARATORS = re.compile(rb"/+")
# Ranges of bytes of the frequent characters: GB 2312 level 1, and JIS level 1.
_GB_FREQUENT, _JIS_FREQUENT = (0xB0A1, 0xD7F9), (0x889F, 0x9872)
_IMPLAUSIBLE, _RARE = 1.0, 0.5
# ASCII characters that are more likely the second byte of a character than beside a letter.
_SECOND_BYTES = frozenset("[\\]^`{|}~@")


def check_encoding(name: str) -> str:
    """Return the normalized name of an encoding that Python knows.

    Raises:
        InvalidParameterError: The encoding is unknown, or does not encode text as bytes.
    """
    try:
        info = codecs.lookup(name)
        b"a".decode(info.name)
    except (LookupError, ValueError, AssertionError):
        raise InvalidParameterError(
            f"archive_encoding={name} is not an encoding of text",
            "Give one such as utf-8, cp437, gb18030 or cp932 (Shift-JIS), or auto.",
        ) from None
    return info.name


def detect_encoding(names: Iterable[bytes]) -> str:
    """Return the encoding in which the names are most plausible; UTF-8 if all are valid UTF-8."""
    words = sorted(
        {part for name in names for part in _FOLDER_SEPARATORS.split(name) if not part.isascii()}
    )[:_MAX_NAMES]
    if _try_decode(words, UTF_8) is not None:
        return UTF_8
    penalties = {
        encoding: _rate_words(decoded, encoding)
        for encoding in CANDIDATES
        if (decoded := _try_decode(words, encoding)) is not None
    }
    return min(penalties, key=penalties.__getitem__)  # cp437 decodes every byte


def _try_decode(words: Iterable[bytes], encoding: str) -> list[str] | None:
    try:
        return [word.decode(encoding) for word in words]
    except UnicodeDecodeError:
        return None


def _rate_words(words: Iterable[str], encoding: str) -> float:
    """Return the mean penalty per non-ASCII character: 0 if all are plausible."""
    total, num_characters = 0.0, 0
    for word in words:
        num_characters += sum(not char.isascii() for char in word)
        total += sum(_rate_character(char, encoding) for char in word if not char.isascii())
        total += sum(_rate_pair(left, right) for left, right in pairwise(word))
    return total / max(num_characters, 1)


def _rate_character(char: str, encoding: str) -> float:
    """Return a penalty for a character that names in this encoding seldom contain."""
    if not unicodedata.category(char).startswith(("L", "N", "M")):
        return _IMPLAUSIBLE  # box drawings, signs, control characters
    if "\uff61" <= char <= "\uff9f":
        return _IMPLAUSIBLE  # half-width katakana: what other encodings look like in Shift-JIS
    if _is_ideograph(char):
        low, high = _JIS_FREQUENT if encoding == "cp932" else _GB_FREQUENT
        return 0.0 if low <= int.from_bytes(char.encode(encoding), "big") <= high else _RARE
    return 0.0


def _rate_pair(left: str, right: str) -> float:
    """Return a penalty for two adjacent characters that are seldom in one word."""
    if left.isascii() and right.isascii():
        return 0.0
    if left in _SECOND_BYTES or right in _SECOND_BYTES:
        return _IMPLAUSIBLE
    scripts = _find_script(left), _find_script(right)
    if None in scripts:
        return 0.0
    if scripts[0] != scripts[1] or (left.islower() and right.isupper()):
        return _IMPLAUSIBLE
    both_marked = scripts[0] == "Latin" and not left.isascii() and not right.isascii()
    return _RARE if both_marked else 0.0


def _find_script(char: str) -> str | None:
    """Return the script of a letter, None for other characters."""
    if not char.isalpha():
        return None
    if char < "\u0250":
        return "Latin"
    return "East Asian" if char >= "\u3040" else "other"


def _is_ideograph(char: str) -> bool:
    return "\u3400" <= char <= "\u9fff"
