"""One stream, from its request to its end: WebSocket, SSE and NDJSON.

A connection is one task that reads from the peer; writing is the outlet's. Its life:
answer the request, enter the plane, read until the peer leaves or the outlet ends the
stream, then read on until the peer has hung up or ``FAREWELL_S`` is over, then close.
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
_NO_CODE = 1005  # RFC 6455 §7.1.5: the peer's close frame had none
_COMMANDS_ALLOWED = (
    f"{limits.CLIENT_COMMANDS_BURST} at once and {limits.CLIENT_COMMANDS_PER_S:g} a second"
    " are the most allowed"
)


def answer_head(request: StreamRequest, session_id: str, cors: bytes) -> bytes:
    """Return the answer's head: 101 for a WebSocket, 200 for SSE and NDJSON.

    ``session_id`` is empty where no stream follows: the method was HEAD.
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
    """Serve one stream until it is over. The caller closes the socket.

    Args:
        plane: where it belongs.
        raw: the non-blocking socket, for writing.
        sock: the same socket, for waiting and reading.
        request: what the peer asked for; it has been checked, and its turn has come.
        early: bytes that came behind the request's head; they belong to the stream.
        address: where the peer is, for people.
    """
    outlet = Outlet(raw, request.form, plane.settings)
    session = plane.new_session(outlet, request.form, address)
    outlet.control(answer_head(request, session.id, plane.cors_headers(request.origin)))
    reader = Reader(plane, outlet, request) if request.websocket_key else None
    plane.enter(outlet, session)
    try:
        if request.form.has_notices:
            if request.form.kind != "ndjson":  # its head says so; lines are for what happens
                outlet.tell(notices.session(session.id, plane.instance.number))
            _introduce(plane, outlet)
        if request.command is not None:
            session.apply(request.command)
        with outlet.reading:
            if reader is not None:
                await reader.run(sock, early)
            else:
                await _until_unreachable(outlet, sock)
            outlet.lose("peer_gone")
        await _part(outlet, sock)
    finally:
        plane.leave(outlet)


def _introduce(plane: StreamingPlane, outlet: Outlet) -> None:
    """Send a new subscriber a notice when the feed is stale."""
    health = plane.instance.health
    if health.state is FeedState.STALE:
        outlet.tell(notices.stale(is_stale=True, reason=health.reason))


async def _part(outlet: Outlet, sock: trio.socket.SocketType) -> None:
    """Let the goodbye be written, then let the peer hang up; neither for ever."""
    if outlet.farewell_done is not None:
        with trio.move_on_after(limits.GOODBYE_WRITTEN_S):
            await outlet.farewell_done.wait()
    with trio.move_on_after(limits.FAREWELL_S):
        await _until_gone(sock)


async def _until_gone(sock: trio.socket.SocketType) -> bool:
    """Read and forget until the peer sends no more; return False when its connection broke."""
    try:
        while await sock.recv(_READ_BYTES):
            pass
    except OSError:
        return False
    return True


async def _until_unreachable(outlet: Outlet, sock: trio.socket.SocketType) -> None:
    """Read and forget until an SSE or NDJSON subscriber cannot be written to any more.

    A subscriber may end its own side after its request, and still reads. One that has closed
    both sides looks the same until its machine answers what we send: so something is sent at
    once, and again when the answer must have arrived. Afterwards data and the keep-alive show it.
    """
    if not await _until_gone(sock):
        return
    for pause_s in limits.HALF_CLOSED_PROBES_S:
        outlet.keep_alive()
        await trio.sleep(pause_s)
    await trio.sleep_forever()  # the outlet ends this scope with the stream


class Reader:
    """What a WebSocket client says: control frames and commands.

    Wrong frames are answered with the close code RFC 6455 names; wrong commands with
    Coinbase's errors, and the stream goes on.
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
        """Read until the peer hangs up; what it says may end the stream before.

        On strict endpoints a client has five seconds to subscribe, itself or by REST
        (FEED §3.1).
        """
        if self._is_strict:
            with trio.move_on_after(limits.FIRST_SUBSCRIBE_S) as first:
                await self._read(sock, early)
            if not first.cancelled_caught:
                return
            early = b""
            await self._carry_out()  # it may have said it in time and waits for its turn
            session = self._outlet.session
            if session is not None and not session.has_subscribed:
                self._outlet.end(CLOSE_POLICY, "no_subscribe", "no subscribe in time")
        await self._read(sock, early)

    async def _read(self, sock: trio.socket.SocketType, data: bytes) -> None:
        """Read until the peer hangs up. Waits only for bytes, so it can be taken up again."""
        if data:
            self._hear(data)
            await self._carry_out()
        try:
            while data := await sock.recv(_READ_BYTES):
                self._hear(data)
                if self._commands:
                    await self._carry_out()
        except OSError:
            pass  # hung up, the other way

    async def _carry_out(self) -> None:
        """Carry out the commands, each in its turn; the peer's further bytes wait meanwhile."""
        outlet, session = self._outlet, self._outlet.session
        while self._commands and session is not None and not outlet.is_ending:
            count, weight = self._next_commands(session)
            async with self._plane.instance.turns.turn(session.share, weight):
                for _ in range(count):  # not before: the wait for a turn may be cancelled
                    self._answer(session, self._commands.popleft())

    def _next_commands(self, session: Session) -> tuple[int, int]:
        """Return how many commands are carried out in one turn, and their weight."""
        count = weight = 0
        for command in self._commands:
            more = session.weight(command) if isinstance(command, Command) else 0
            if count and weight + more > limits.COMMAND_TOPICS_SMALL_MAX:
                break
            count, weight = count + 1, weight + more
        return count, weight

    def _hear(self, data: bytes) -> None:
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
        """Return the command, or the error that answers it in its turn."""
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
        if self._is_strict:  # Coinbase knows no positions
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
