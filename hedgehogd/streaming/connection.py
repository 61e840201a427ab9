"""One stream from its request to its end: WebSocket, SSE and NDJSON.

One task per connection reads from the peer; the outlet writes. The task answers the request,
enters the plane, and reads until the peer leaves or the outlet ends the stream. Then it reads
until the peer has closed the connection or ``FAREWELL_S`` have passed, and the socket is closed.
"""

import socket
from collections import deque

import trio
from wsproto.extensions import Extension
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed
from wsproto.utilities import generate_accept_token

from hedgehogd.domain import limits
from hedgehogd.domain.errors import CLOSE_POLICY, CLOSE_TOO_BIG, CLOSE_UNSUPPORTED
from hedgehogd.engine.health import FeedState
from hedgehogd.fanout.session import Session
from hedgehogd.protocol import coinbase, notices
from hedgehogd.protocol.backoff import TokenBucket
from hedgehogd.protocol.commands import Command, CommandError, parse
from hedgehogd.protocol.deflate import Inflater
from hedgehogd.protocol.frames import encode_close, encode_pong
from hedgehogd.protocol.wire import WireForm
from hedgehogd.streaming.outlet import Outlet
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.streaming.request import StreamRequest

_READ_BYTES = 4096
_NO_CODE = 1005  # RFC 6455 §7.1.5: the peer's close frame had no code
_COMMANDS_ALLOWED = (
    f"the limits are {limits.CLIENT_COMMANDS_BURST} at once and"
    f" {limits.CLIENT_COMMANDS_PER_S:g} a second"
)


def answer_head(request: StreamRequest, session_id: str, cors: bytes) -> bytes:
    """Return the head of the answer: 101 for a WebSocket, 200 for SSE and NDJSON.

    ``session_id`` is empty for the method HEAD, which no stream follows. ``cors`` is header lines,
    which a WebSocket does not get.
    """
    name = f"Hedgehog-Session: {session_id}\r\n".encode() if session_id else b""
    if request.websocket_key:
        extensions = b""
        if request.extensions:
            extensions = b"Sec-WebSocket-Extensions: %b\r\n" % request.extensions
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b%b\r\n"
            % (generate_accept_token(request.websocket_key), extensions, name)
        )
    form: WireForm = request.form
    kind = b"text/event-stream" if form.kind == "sse" else b"application/x-ndjson"
    chunked = b"Transfer-Encoding: chunked\r\n" if form.end() else b""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: %b; charset=utf-8\r\n"
        b"Cache-Control: no-cache, no-transform\r\nX-Accel-Buffering: no\r\n"
        b"Connection: close\r\n%b%b%b\r\n" % (kind, chunked, name, cors)
    )


async def serve_stream(
    plane: StreamingPlane,
    raw: socket.socket,
    sock: trio.socket.SocketType,
    request: StreamRequest,
    early: bytes,
    address: str = "",
) -> None:
    """Serve one stream until it has ended. The caller closes the socket.

    Args:
        plane: the plane to which the stream belongs.
        raw: the non-blocking socket, for writing.
        sock: the same socket, for waiting and reading.
        request: the peer's request; it has been checked, and its turn has come.
        early: bytes that arrived after the request head; they belong to the stream.
        address: the subscriber's address; it is shown, and its share determines the turns of
            commands.
    """
    outlet, session = plane.new_stream(raw, request.form, address)
    outlet.control(answer_head(request, session.id, plane.cors_headers(request.origin)))
    reader = Reader(plane, outlet, request) if request.websocket_key else None
    plane.enter(outlet, session)
    try:
        if request.form.has_notices:
            if request.form.kind != "ndjson":  # the head of an NDJSON answer has the session
                outlet.tell(notices.session(session.id, plane.instance.number))
            _send_stale_notice(plane, outlet)
        if request.command is not None:
            session.apply(request.command)
        with outlet.reading:
            if reader is not None:
                await reader.run(sock, early)
            else:
                await _discard_until_unreachable(outlet, sock)
            outlet.lose("peer_gone")
        await _wait_for_close(outlet, sock)
    finally:
        plane.leave(outlet)


def _send_stale_notice(plane: StreamingPlane, outlet: Outlet) -> None:
    """Send a new subscriber a notice when the feed is stale."""
    health = plane.instance.health
    if health.state is FeedState.STALE:
        outlet.tell(notices.stale(is_stale=True, reason=health.reason))


async def _wait_for_close(outlet: Outlet, sock: trio.socket.SocketType) -> None:
    """Wait until the farewell is sent, then until the peer closes; both waits are bounded."""
    if outlet.farewell_done is not None:
        with trio.move_on_after(limits.GOODBYE_WRITTEN_S):
            await outlet.farewell_done.wait()
    with trio.move_on_after(limits.FAREWELL_S):
        await _discard_until_closed(sock)


async def _discard_until_closed(sock: trio.socket.SocketType) -> bool:
    """Discard bytes until the peer ends its sending side; return False on a connection error."""
    try:
        while await sock.recv(_READ_BYTES):
            pass
    except OSError:
        return False
    return True


async def _discard_until_unreachable(outlet: Outlet, sock: trio.socket.SocketType) -> None:
    """Discard bytes of an SSE or NDJSON subscriber; return only when the connection breaks.

    A subscriber may end its sending side after its request and still read. A subscriber that has
    closed both sides looks the same until its machine answers a packet with a reset. So keepalives
    are sent at once and between the pauses of ``HALF_CLOSED_PROBES_S``: after a reset the next
    write fails, and the outlet cancels this function. Later data and keepalives detect a
    subscriber with a slower reset.
    """
    if not await _discard_until_closed(sock):
        return
    for pause_s in limits.HALF_CLOSED_PROBES_S:
        outlet.keep_alive()
        await trio.sleep(pause_s)
    await trio.sleep_forever()  # the outlet ends this scope with the stream


class Reader:
    """Reader of a WebSocket client's frames: control frames and commands.

    An invalid frame ends the stream with the close code of RFC 6455. An invalid command gets
    Coinbase's error message, and the stream continues.
    """

    __slots__ = (
        "_bucket",
        "_commands",
        "_frames",
        "_is_strict",
        "_outlet",
        "_plane",
        "_size",
        "_text",
    )

    def __init__(self, plane: StreamingPlane, outlet: Outlet, request: StreamRequest) -> None:
        self._plane = plane
        self._outlet = outlet
        self._is_strict = request.is_strict
        extensions: list[Extension] = []
        if request.extensions:
            extensions.append(Inflater(limits.CLIENT_MESSAGE_BYTES_MAX))
        self._frames = FrameProtocol(client=False, extensions=extensions)
        self._text: list[str] = []
        self._commands: deque[Command | bytes] = deque()
        self._size = 0
        self._bucket: TokenBucket | None = None

    async def run(self, sock: trio.socket.SocketType, early: bytes) -> None:
        """Read until the peer closes the connection; its frames may end the stream earlier.

        On strict endpoints a client has ``FIRST_SUBSCRIBE_S`` to subscribe, over the stream or by
        REST (COINBASE §3.1); otherwise the stream ends with ``CLOSE_POLICY``.
        """
        if self._is_strict:
            with trio.move_on_after(limits.FIRST_SUBSCRIBE_S) as first:
                await self._read(sock, early)
            if not first.cancelled_caught:
                return
            early = b""
            await self._carry_out()  # a command received in time may still wait for its turn
            session = self._outlet.session
            if session is not None and not session.has_subscribed:
                self._outlet.end(CLOSE_POLICY, "no_subscribe", "no subscribe in time")
        await self._read(sock, early)

    async def _read(self, sock: trio.socket.SocketType, data: bytes) -> None:
        """Read frames and answer commands until the peer closes or the connection breaks.

        ``data`` are bytes received before. After a cancellation call ``_carry_out`` for the
        commands still waiting, then this again, with empty ``data``: no received bytes are lost.
        """
        if data:
            self._on_bytes(data)
            await self._carry_out()
        try:
            while data := await sock.recv(_READ_BYTES):
                self._on_bytes(data)
                if self._commands:
                    await self._carry_out()
        except OSError:
            pass  # the connection broke

    async def _carry_out(self) -> None:
        """Wait for turns and answer all received commands; no further bytes are read meanwhile."""
        outlet, session = self._outlet, self._outlet.session
        while self._commands and session is not None and not outlet.is_ending:
            count, weight = self._next_commands(session)
            async with self._plane.instance.turns.turn(session.share, weight):
                for _ in range(count):  # removed here, because the wait for a turn is cancellable
                    self._answer(session, self._commands.popleft())

    def _next_commands(self, session: Session) -> tuple[int, int]:
        """Return how many of the waiting commands to answer in one turn, and their weight."""
        count = weight = 0
        for command in self._commands:
            more = session.weight(command) if isinstance(command, Command) else 0
            if count and weight + more > limits.COMMAND_TOPICS_SMALL_MAX:
                break
            count, weight = count + 1, weight + more
        return count, weight

    def _on_bytes(self, data: bytes) -> None:
        outlet = self._outlet
        outlet.silent_rounds = 0
        try:
            self._frames.receive_bytes(data)
            for frame in self._frames.received_frames():
                if outlet.is_ending:
                    return
                self._on_frame(frame.opcode, frame.payload, is_last=frame.message_finished)
        except ParseFailed as error:
            code = int(error.code)
            reason = "big_message" if code == CLOSE_TOO_BIG else "bad_frame"
            self._refuse(code, reason, str(error))

    def _refuse(self, code: int, reason: str, detail: str) -> None:
        self._plane.counts.refusals[reason] += 1
        self._outlet.end(code, reason, detail)

    def _on_frame(self, opcode: Opcode, payload: object, *, is_last: bool) -> None:
        if opcode is Opcode.PING and isinstance(payload, (bytes, bytearray)):
            self._outlet.control(encode_pong(bytes(payload)))
        elif opcode is Opcode.CLOSE and isinstance(payload, tuple):
            code = int(payload[0])
            self._outlet.answer_close(encode_close(None if code == _NO_CODE else code))
        elif opcode is Opcode.TEXT and isinstance(payload, str):
            self._on_text_part(payload, is_last=is_last)
        elif opcode is Opcode.BINARY:
            self._refuse(CLOSE_UNSUPPORTED, "binary", "commands are text")

    def _on_text_part(self, part: str, *, is_last: bool) -> None:
        self._size += len(part.encode())
        if self._size > limits.CLIENT_MESSAGE_BYTES_MAX:
            self._refuse(CLOSE_TOO_BIG, "big_message", "message too big")
            return
        if part:
            self._text.append(part)
        if is_last:
            text, self._text, self._size = "".join(self._text), [], 0
            self._commands.append(self._read_command(text))

    def _read_command(self, text: str) -> Command | bytes:
        """Return the command; for an invalid one or one too many, the error to send in its turn.

        Such a command is counted as a refusal.
        """
        refusals = self._plane.counts.refusals
        if self._bucket is None:
            self._bucket = TokenBucket(limits.CLIENT_COMMANDS_PER_S, limits.CLIENT_COMMANDS_BURST)
        if not self._bucket.try_take(trio.current_time()):
            refusals["too_many_commands"] += 1
            return coinbase.error("Too many messages", _COMMANDS_ALLOWED)
        try:
            command = parse(text)
        except CommandError as error:
            refusals["bad_command"] += 1
            return coinbase.error(error.message, error.reason)
        if self._is_strict:  # Coinbase's protocol has no positions
            command = command._replace(since={})
        return command

    def _answer(self, session: Session, command: Command | bytes) -> None:
        if self._outlet.is_ending:
            return
        if isinstance(command, bytes):
            self._outlet.tell(command)
            return
        answers = session.answer(command)
        self._plane.counts.refusals["refused"] += len(answers) - 1
        self._outlet.tell_all(answers)
