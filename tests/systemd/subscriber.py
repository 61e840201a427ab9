"""One subscriber of any kind, on a real socket; and single requests."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
import trio

from tests.e2e.harness import unchunked
from tests.systemd.stream_bytes import TEXT_HEAD, Ending, Events, Frames, Lines, masked

KINDS = ("ws", "strict", "sse", "ndjson")
PUBLIC_PORT = 80
HEAD_BYTES_MAX = 16_384
ANSWER_S = 15.0
READ_BYTES = 65_536
_UPGRADE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
_ACCEPT = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}
RESTART_CODE = 1012


class Refused(Exception):
    """The connection was refused, or it ended before an answer."""


class BadAnswer(Exception):
    """The answer is not the expected one.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status


class Subscriber:
    """An open stream.

    Attributes:
        kind: one of ``KINDS``.
        session: its id; empty when it is not hedgehogd's.
        ending: its end.
    """

    def __init__(self, kind: str, stream: trio.SocketStream) -> None:
        self.kind = kind
        self.session = ""
        self.ending = Ending()
        self._stream = stream
        self._bytes: Frames | Lines | Events
        if kind == "sse":
            self._bytes = Events(self.ending, b"\n\n")
        elif kind == "ndjson":
            self._bytes = Lines(self.ending, b"\n")
        else:
            self._bytes = Frames(self.ending)
        self._first = b""

    @property
    def instance(self) -> int:
        """The number of the instance that serves it."""
        return int(self.session.partition(".")[0])

    @property
    def has_ended(self) -> bool:
        """True when its end has arrived completely."""
        return self.ending.last_chunk or self.ending.close_code != 0

    @classmethod
    async def open(
        cls, kind: str, pairs: Sequence[str], channels: Sequence[str], port: int = PUBLIC_PORT
    ) -> Self:
        """Open a stream that is subscribed to ``channels`` of ``pairs``.

        Raises:
            Refused: there is no answer.
            BadAnswer: it is not a stream.
        """
        target = "/ws" if kind == "ws" else "/ws-feed"
        rows: tuple[str, ...] = _UPGRADE
        if kind in _ACCEPT:
            target = f"/api/v1/stream?pairs={','.join(pairs)}&channels={','.join(channels)}"
            target += "&notices=none" * (kind == "ndjson")
            rows = (f"Accept: {_ACCEPT[kind]}",)
        stream, status, headers, rest = await _ask(port, "GET", target, rows)
        if status != (200 if kind in _ACCEPT else 101):
            await trio.aclose_forcefully(stream)
            raise BadAnswer(status, rest.decode(errors="replace")[:300])
        self = cls(kind, stream)
        self.session, self._first = headers.get("hedgehog-session", ""), rest
        if kind not in _ACCEPT:
            command = {"type": "subscribe", "product_ids": pairs, "channels": channels}
            await stream.send_all(masked(TEXT_HEAD, msgspec.json.encode(command)))
        return self

    async def receive(self) -> list[bytes] | None:
        """Return the received messages; None at any kind of end.

        The last chunk is an end: HAProxy keeps the connection open for another request.
        """
        messages: list[bytes] = []
        while not messages:
            if self.has_ended:
                return None
            data, self._first = self._first, b""
            try:
                data = data or await self._stream.receive_some(READ_BYTES)
                if not data:
                    return None
                messages = self._bytes.feed(data)
                if isinstance(self._bytes, Frames) and self._bytes.replies:
                    replies, self._bytes.replies = self._bytes.replies, bytearray()
                    await self._stream.send_all(replies)
            except trio.BrokenResourceError:
                return messages or None
        self.ending.closing |= b'"type":"closing"' in messages[-1]
        return messages

    async def read_to_the_end(self) -> None:
        """Read until any kind of end."""
        while await self.receive() is not None:
            pass

    def farewell_missing(self) -> str:
        """Return the missing part of its kind's farewell; empty when it is complete."""
        ending, missing = self.ending, []
        if self.kind in ("ws", "sse") and not ending.closing:
            missing.append("closing notice")
        if self.kind in _ACCEPT and not ending.last_chunk:
            missing.append("last chunk")
        if self.kind not in _ACCEPT and ending.close_code != RESTART_CODE:
            missing.append(f"close code {RESTART_CODE} (it was {ending.close_code})")
        return ", ".join(missing)

    async def aclose(self) -> None:
        """Close the connection without a close frame."""
        await trio.aclose_forcefully(self._stream)

    async def __aenter__(self) -> Self:
        """Return the open stream."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection."""
        await self.aclose()


async def _ask(
    port: int, method: str, target: str, rows: Sequence[str]
) -> tuple[trio.SocketStream, int, dict[str, str], bytes]:
    """Send a request without a body; return the connection and the answer's head.

    Raises:
        Refused: there is no answer.
    """
    lines = (f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *rows, "", "")
    try:
        with trio.fail_after(ANSWER_S):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all("\r\n".join(lines).encode())
            raw = b""
            while b"\r\n\r\n" not in raw:
                data = await stream.receive_some(READ_BYTES)
                if not data or len(raw) > HEAD_BYTES_MAX:
                    raise Refused(f"no answer to {method} {target} on port {port}: {raw!r}")
                raw += data
    except (OSError, trio.BrokenResourceError, trio.TooSlowError) as error:
        raise Refused(f"{method} {target} on port {port}: {error!r}") from error
    head, _, rest = raw.partition(b"\r\n\r\n")
    first, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    return stream, int(first.split()[1]), headers, rest


async def request(
    method: str, target: str, *rows: str, port: int = PUBLIC_PORT
) -> tuple[int, bytes]:
    """Make one request without a body; return status and body of the answer.

    Raises:
        Refused: there is no answer.
    """
    rows = (*rows, "Content-Length: 0", "Connection: close")
    stream, status, headers, body = await _ask(port, method, target, rows)
    async with stream:
        try:
            with trio.fail_after(ANSWER_S):
                while data := await stream.receive_some(READ_BYTES):
                    body += data
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            raise Refused(f"half an answer to {method} {target} on port {port}") from error
    return status, unchunked(body) if "transfer-encoding" in headers else body
