"""One WebSocket client of the simulated exchange, with full control of its connection.

``protocol.frames`` encodes frames and wsproto decodes them; any trio stream will do. So a
client that stops reading is a task that waits in ``send_all`` and can be cancelled, and faults
can act on the stream: pause it, slow it down, end it, reset it.

Frames wait in a queue; one task writes them, as many as fit into one write, pongs first. If the
queue exceeds its limit, the client gets ``ErrSlowConsume`` and is closed. The real exchange
documents the close (docs/COINBASE.md §11); its wording and close code are not known.
"""

import math
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage

from hedgehogd.domain.errors import (
    CLOSE_POLICY,
    CLOSE_TOO_BIG,
    CLOSE_UNSUPPORTED,
)
from hedgehogd.domain.limits import (
    CLIENT_MESSAGE_BYTES_MAX,
    CONTROL_BYTES_MAX,
    FAREWELL_S,
)
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.frames import encode_close, encode_pong, encode_text


class Resettable(Protocol):
    """A stream that can end like a reset TCP connection (``inprocess``)."""

    def reset(self) -> None:
        """End both directions at once; the peer's reads and writes fail."""


class _Drip(bytes):
    """A frame that is written byte by byte, ``per_s`` bytes a second."""

    per_s: float


_CODE_MISSING = 1005  # RFC 6455 §7.1.5: means a close frame without a code
_WRITE_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024


class Client:
    """The exchange's end of one connection.

    Attributes:
        number: number of the connection on its server, from 1.
        backlog_bytes_max: bytes that may wait for it before it is closed.
        has_subscribed: set by the exchange at the client's first subscribe; until then the
            deadline of 5 s applies (docs/COINBASE.md §3.1).
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        backlog_bytes_max: int,
        number: int = 0,
    ) -> None:
        self.number = number
        self.has_subscribed = False
        self._stream = stream
        self.backlog_bytes_max = backlog_bytes_max
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._writing_bytes = 0
        self._pongs: deque[bytes] = deque()
        self._wake = trio.Event()
        self._written = trio.Event()
        self._is_leaving = False
        self._ends_bare = False
        self._silent_until = -math.inf
        self._farewell_written = trio.Event()
        self._scope = trio.CancelScope()
        self._text = ""

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were sent and that the socket has not accepted yet."""
        return self._waiting_bytes + self._writing_bytes

    @property
    def is_leaving(self) -> bool:
        """True once the connection is closing; frames sent from then on are dropped."""
        return self._is_leaving

    def send(self, frame: bytes) -> None:
        """Queue one whole frame; while the connection is closing, drop it instead.

        If the queue exceeds its limit, report the error to the client and close.
        """
        if self._is_leaving:
            return
        self._waiting.append(frame)
        self._waiting_bytes += len(frame)
        self._wake.set()
        if self.waiting_bytes > self.backlog_bytes_max:
            self.close_slow()

    def close_slow(self) -> None:
        """Drop the queue, report ``ErrSlowConsume``, and close: the client reads too slowly."""
        reason = f"{self.waiting_bytes} bytes were waiting for this connection"
        self.leave(CLOSE_POLICY, "ErrSlowConsume", coinbase.error("ErrSlowConsume", reason))

    def leave(self, code: int | None, reason: str = "", error: bytes = b"") -> None:
        """Drop the queue, send ``error``, if any, and a close frame; its code may be None.

        The connection ends after ``FAREWELL_S`` at the latest. Once it is closing, this does
        nothing.
        """
        if self._is_leaving:
            return
        self._is_leaving = True
        self._waiting.clear()
        if error:
            self._waiting.append(encode_text(error))
        self._waiting.append(encode_close(code, reason))
        self._waiting_bytes = sum(map(len, self._waiting))
        self._wake.set()
        self._scope.deadline = trio.current_time() + FAREWELL_S

    def drip(self, frame: bytes, bytes_per_s: float) -> None:
        """Queue one frame that is written byte by byte, ``bytes_per_s`` of them a second."""
        drip = _Drip(frame)
        drip.per_s = bytes_per_s
        self.send(drip)

    def pause_writes(self, seconds: float) -> None:
        """Write nothing for ``seconds``, pongs included; frames sent meanwhile are queued."""
        self._silent_until = trio.current_time() + seconds

    def end(self) -> None:
        """Write the queue, then end the byte stream without a close frame."""
        self._is_leaving = self._ends_bare = True
        self._wake.set()
        self._scope.deadline = trio.current_time() + FAREWELL_S

    def reset(self) -> None:
        """Reset the connection: no close frame, no end of the stream."""
        self._is_leaving = True
        if isinstance(self._stream, trio.SocketStream):
            # Linger with a timeout of 0: closing sends RST (socket(7)).
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif hasattr(self._stream, "reset"):
            cast("Resettable", self._stream).reset()
        self._scope.cancel()

    async def wait_written(self) -> None:
        """Wait until the socket has accepted all bytes, or the connection is closing."""
        while self.waiting_bytes and not self._is_leaving:
            await self._written.wait()
        await trio.lowlevel.checkpoint()

    async def run(
        self, early: bytes, on_text: Callable[[str], None], *, first_subscribe_s: float
    ) -> None:
        """Serve the connection until it ends; the caller does the handshake and closes the stream.

        Args:
            early: bytes that followed the request head; they belong to the client's frames.
            on_text: called with each text message of the client.
            first_subscribe_s: seconds in which the client has to subscribe; else it is closed.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write)
                    nursery.start_soon(self._watch_deadline, first_subscribe_s)
                    await self._read(early, on_text)
                    nursery.cancel_scope.cancel()
        finally:
            self._is_leaving = True
            self._written.set()

    async def _watch_deadline(self, first_subscribe_s: float) -> None:
        await trio.sleep(first_subscribe_s)
        if not self.has_subscribed:
            self.leave(CLOSE_POLICY, f"no subscribe within {first_subscribe_s:g} s")

    async def _write(self) -> None:
        """Write the queue, pongs first; return when the farewell is written.

        If the connection breaks, end it (``_scope``).
        """
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._pongs or self._waiting:
                    if self._silent_until > trio.current_time():
                        await trio.sleep_until(self._silent_until)
                    data = self._next_bytes()
                    self._writing_bytes = len(data)
                    await self._send_all(data)
                    self._writing_bytes = 0
                    self._written.set()
                    self._written = trio.Event()
                if self._is_leaving:
                    if self._ends_bare:
                        await self._stream.send_eof()
                    self._farewell_written.set()
                    return
        except trio.BrokenResourceError:
            self._scope.cancel()

    async def _send_all(self, data: bytes) -> None:
        if not isinstance(data, _Drip):
            await self._stream.send_all(data)
            return
        for at in range(len(data)):
            await self._stream.send_all(data[at : at + 1])
            await trio.sleep(1 / data.per_s)

    def _next_bytes(self) -> bytes:
        """Return the next bytes to write: whole frames, and about ``_WRITE_BYTES`` of them."""
        if not self._pongs and isinstance(self._waiting[0], _Drip):
            self._waiting_bytes -= len(self._waiting[0])
            return self._waiting.popleft()
        frames = list(self._pongs)
        self._pongs.clear()
        size = 0
        while self._waiting and size < _WRITE_BYTES and not isinstance(self._waiting[0], _Drip):
            frames.append(self._waiting.popleft())
            size += len(frames[-1])
        self._waiting_bytes -= size
        return b"".join(frames)

    async def _read(self, early: bytes, on_text: Callable[[str], None]) -> None:
        """Read until the peer closes, disappears or violates the protocol."""
        connection = Connection(ConnectionType.SERVER, trailing_data=early)
        while True:
            for event in connection.events():
                if isinstance(event, CloseConnection):
                    # The peer's close, its reply to our close, or a protocol error.
                    self.leave(None if event.code == _CODE_MISSING else event.code)
                    await self._farewell_written.wait()
                    return
                self._handle(event, on_text)
            try:
                data = await self._stream.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                return
            if not data:
                return
            connection.receive_data(bytes(data))

    def _handle(self, event: Event, on_text: Callable[[str], None]) -> None:
        if self._is_leaving:
            return
        if isinstance(event, TextMessage):
            self._text += event.data
            if len(self._text) > CLIENT_MESSAGE_BYTES_MAX:
                self.leave(CLOSE_TOO_BIG, "Message too big", coinbase.error("Message too big"))
            elif event.message_finished:
                text, self._text = self._text, ""
                on_text(text)
        elif isinstance(event, BytesMessage):
            self.leave(CLOSE_UNSUPPORTED, "messages are text")
        elif isinstance(event, Ping) and sum(map(len, self._pongs)) < CONTROL_BYTES_MAX:
            self._pongs.append(encode_pong(bytes(event.payload)))
            self._wake.set()
