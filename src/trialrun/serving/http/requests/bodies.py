"""Reading of a request's body within the limits; a body that is too large is never in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.requests import ClientDisconnect, Request

from trialrun.serving.http.requests.admission import Admission
from trialrun.serving.http.requests.problems import BAD_REQUEST, TIMEOUT, TOO_LARGE, RequestError

_BODY_SECONDS = 60.0
# Of a refused body, so much is read and dropped: a client that is still sending reads the response
# only afterwards, and loses it if the connection is closed before.
_MAX_DROPPED_BYTES, _DROP_SECONDS = 64 << 20, 2.0
_CLOSE = {"Connection": "close"}


@asynccontextmanager
async def receive_body(request: Request, admission: Admission) -> AsyncIterator[bytes]:
    """Read the body; it counts as held until the end of the block.

    Raises:
        RequestError: It is larger than the limit (413), the server holds too many bytes (429), or
            it takes too long (408).
    """
    held = 0
    chunks: list[bytes] = []
    chunk_stream = request.stream()
    try:
        _check_declared(request, admission.max_request_bytes)
        async with asyncio.timeout(_BODY_SECONDS):
            async for chunk in chunk_stream:
                if held + len(chunk) > admission.max_request_bytes:
                    raise _refuse_large(admission.max_request_bytes)
                admission.add_bytes(len(chunk))
                held += len(chunk)
                chunks.append(chunk)
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        yield body
    except TimeoutError:
        raise RequestError(
            TIMEOUT, f"the body took longer than {_BODY_SECONDS:g} seconds", _CLOSE
        ) from None
    except ClientDisconnect:
        raise RequestError(BAD_REQUEST, "the client closed the connection", _CLOSE) from None
    except RequestError:
        if request.headers.get("expect") is None:  # such a client has not sent it yet
            await _drop_rest(chunk_stream)
        raise
    finally:
        admission.remove_bytes(held)


def _check_declared(request: Request, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > max_bytes:
        raise _refuse_large(max_bytes)


def _refuse_large(max_bytes: int) -> RequestError:
    return RequestError(TOO_LARGE, f"the body is larger than {max_bytes:,} bytes", _CLOSE)


async def _drop_rest(chunk_stream: AsyncIterator[bytes]) -> None:
    """Read the rest of a body without keeping it, up to a limit."""
    num_dropped = 0
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DROP_SECONDS):
            async for chunk in chunk_stream:
                num_dropped += len(chunk)
                if num_dropped > _MAX_DROPPED_BYTES:
                    return
