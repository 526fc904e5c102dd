"""Parser of multipart/form-data in memory: every part is one image file."""

from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from trialrun.serving.http.requests.problems import (
    BAD_REQUEST,
    TOO_LARGE,
    UNPROCESSABLE,
    RequestError,
)

FIELD = "images"
_MAX_HEADERS, _MAX_HEADER_BYTES = 16, 8192  # per part


@dataclass(frozen=True, slots=True)
class Upload:
    """An image file in a request: its name, empty for a raw body, and its content."""

    name: str
    data: bytes


def parse_multipart(body: bytes, content_type: str, max_parts: int) -> list[Upload]:
    """Return the parts of a body in their order.

    Raises:
        RequestError: The body is not multipart (400), has too many parts (413), or one with another
            name than `images` (422).
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise RequestError(BAD_REQUEST, "the content type has no boundary")
    collector = _Collector(max_parts)
    try:
        parser: Any = MultipartParser(boundary, collector.list_callbacks())
        parser.write(body)
        parser.finalize()
    except (MultipartParseError, ValueError) as error:
        raise RequestError(BAD_REQUEST, f"the body is not multipart/form-data: {error}") from None
    if not collector.has_ended:
        raise RequestError(BAD_REQUEST, "the multipart body ends early")
    return collector.uploads


@dataclass(slots=True)
class _Collector:
    """Receives the callbacks of the parser."""

    max_parts: int
    uploads: list[Upload] = field(default_factory=list)
    has_ended: bool = False
    _field: bytes = b""
    _value: bytes = b""
    _disposition: bytes = b""
    _num_headers: int = 0
    _chunks: list[bytes] = field(default_factory=list)

    def list_callbacks(self) -> Any:
        """Return the callbacks by the names that the parser uses."""
        return {
            "on_part_begin": self._begin_part,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": self._add_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin_part(self) -> None:
        if len(self.uploads) == self.max_parts:
            reason = f"more than {self.max_parts} images in one request"
            raise RequestError(TOO_LARGE, reason)
        self._disposition, self._num_headers = b"", 0
        self._chunks = []

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]
        self._check_header()

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._field) + len(self._value) > _MAX_HEADER_BYTES:
            raise RequestError(BAD_REQUEST, "a header of a part is too long")

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""
        self._num_headers += 1
        if self._num_headers > _MAX_HEADERS:
            raise RequestError(BAD_REQUEST, "a part has too many headers")

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        self._chunks.append(data[start:end])

    def _end_part(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if options.get(b"name") != FIELD.encode():
            raise RequestError(UNPROCESSABLE, f"every part must be named {FIELD}")
        name = options.get(b"filename", b"").decode("utf-8", "replace")
        self.uploads.append(Upload(name, b"".join(self._chunks)))

    def _end(self) -> None:
        self.has_ended = True
