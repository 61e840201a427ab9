"""One request to the exchange's REST service, and its bounded answer.

The peer is not trusted: its answer may be slow, endless, a proxy's login page, or a small body
that unpacks to gigabytes. ``ask`` returns a body of bounded size that begins like JSON.
"""

import re
import zlib

import httpx
import trio

from hedgehogd import __version__
from hedgehogd.domain import limits
from hedgehogd.feeds.rest_cache import Answer, error_message, failure

Query = tuple[tuple[str, str], ...]

HEADERS = {
    "User-Agent": f"hedgehogd/{__version__}",
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
}

_CURSOR = re.compile(r"[0-9]{1,16}")


class _Unreadable(Exception):
    """The body is too large, truncated, damaged, in another encoding, or not JSON."""


async def ask(client: httpx.AsyncClient, path: str, query: Query) -> tuple[Answer, str]:
    """Send one request and wait for at most ``REST_TIMEOUT_S``.

    Returns:
        The answer, and its label for the error counter; empty for the exchange's 200, 400 and 404.
        Status 429 has the exchange's ``Retry-After`` and no text; any other status of the exchange
        becomes 502. A failure is an answer too: 504 for a time-out, 502 for all else.
    """
    try:
        with trio.fail_after(limits.REST_TIMEOUT_S):
            async with client.stream("GET", path, params=query) as response:
                if response.status_code == 200:
                    return await _whole(response), ""
                return await _error(response)
    except (trio.TooSlowError, httpx.TimeoutException):
        return failure(504, "the exchange did not answer in time"), "timeout"
    except (httpx.HTTPError, OSError) as error:
        reason = str(error) or type(error).__name__
        return failure(502, f"the exchange cannot be reached: {reason}"), "unreachable"
    except _Unreadable as error:
        return failure(502, f"the exchange's answer cannot be read: {error}"), "unreadable"
    finally:
        client.cookies.clear()  # no request needs them, and their number is not bounded


async def _error(response: httpx.Response) -> tuple[Answer, str]:
    """Return the answer for an error status of the exchange, and the error's label."""
    status = response.status_code
    if status == 429:
        return failure(429, "", _retry_after_s(response)), "limited"
    try:
        message = error_message(await _read(response, limits.REST_ERROR_BYTES_MAX))
    except _Unreadable:
        message = ""
    if status == 404:
        return failure(404, message or "NotFound"), ""
    if status == 400:
        return failure(400, message or "Bad Request"), ""
    text = f"the exchange answered HTTP {status} {message}".rstrip()
    return failure(502, text), f"status_{status // 100}xx"


async def _whole(response: httpx.Response) -> Answer:
    body = await _read(response, limits.REST_ANSWER_BYTES_MAX)
    if body[:100].lstrip()[:1] not in (b"{", b"["):
        raise _Unreadable("not JSON")
    cursors = (response.headers.get(name, "") for name in ("cb-before", "cb-after"))
    before, after = (cursor if _CURSOR.fullmatch(cursor) else "" for cursor in cursors)
    return Answer(200, body, before, after)


async def _read(response: httpx.Response, bytes_max: int) -> bytes:
    """Return the whole body, unpacked.

    Raises:
        _Unreadable: it is longer than ``bytes_max`` when unpacked, truncated, damaged, or in an
            encoding that was not requested.
    """
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in {"identity", "gzip"}:
        raise _Unreadable(f"its encoding is {encoding[:20]}")
    body = _Body(bytes_max, is_packed=encoding == "gzip")
    # httpx reads by nested generators. If the loop were left early, the garbage collector would
    # close the inner ones; a cancelled read ends all of them at once.
    with trio.CancelScope() as reading:
        async for part in response.aiter_raw():
            if not body.take(part):
                reading.cancel()
    return body.whole()


class _Body:
    """A body that is being received. Pure."""

    def __init__(self, bytes_max: int, *, is_packed: bool) -> None:
        self._bytes_max = bytes_max
        self._unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS) if is_packed else None
        self._body = bytearray()
        self._error = ""

    def take(self, part: bytes) -> bool:
        """Append the next part; return False once the body is too large or damaged."""
        if self._error:
            return False
        try:
            if self._unpacker is not None:
                room = self._bytes_max - len(self._body)
                part = self._unpacker.decompress(part, room + 1)
            self._body += part
        except zlib.error as error:
            self._error = str(error)
        if len(self._body) > self._bytes_max:
            self._error = f"over {self._bytes_max} bytes"
        return not self._error

    def whole(self) -> bytes:
        """Return the whole body.

        Raises:
            _Unreadable: the body is too large, truncated or damaged.
        """
        if self._unpacker is not None and not self._unpacker.eof:
            self._error = self._error or "truncated"
        if self._error:
            raise _Unreadable(self._error)
        return bytes(self._body)


def _retry_after_s(response: httpx.Response) -> float:
    """Return ``Retry-After`` in seconds, at most ``REST_RETRY_AFTER_MAX_S``.

    It is 0 if the header is absent, a date or invalid.
    """
    text = response.headers.get("retry-after", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return 0.0
    return min(float(text), limits.REST_RETRY_AFTER_MAX_S)
