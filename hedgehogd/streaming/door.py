"""The door: one port, two planes.

Each connection shows the head of its first request here. A stream stays and is fed by
us; everything else is handed to Hypercorn, head and all, through a stream that replays
what was read. Control answers end their connection, so every request is the first of its
connection and a stream always lands in the streaming plane (DESIGN §1).

Bad heads get a short, clear answer and are counted; nobody gets a traceback.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import msgspec
import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.streaming.address import Network, client_address
from hedgehogd.streaming.connection import serve_stream
from hedgehogd.streaming.head import HEAD_END, BadHead, is_not_http, read_head, without_upgrade
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.streaming.request import (
    Plane,
    StreamRequest,
    headers_of,
    plane_of,
    read_stream_request,
)
from hedgehogd.streams import ReplayStream

log = structlog.get_logger("door")

_READ_BYTES = 8192
_ACCEPTS_PER_TURN_MAX = 64
_ACCEPT_PAUSE_S = 0.1
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


ControlHandler = Callable[[ReplayStream], Awaitable[None]]


class Door:
    """Accepts connections and decides who serves them."""

    def __init__(
        self, plane: StreamingPlane, control: ControlHandler, trusted: Sequence[Network] = ()
    ) -> None:
        """``trusted`` are the proxies that are believed who a subscriber is."""
        self._plane = plane
        self._counts = plane.counts
        self._control = control
        self._trusted = trusted
        # Who has not shown a whole head yet, in the order in which they came.
        self._headless: dict[trio.CancelScope, None] = {}
        self._visitors = 0  # this door's; who besieges one must not close the other

    def _count_visitor(self, change: int) -> None:
        self._visitors += change
        self._counts.visitors += change

    async def run(
        self,
        listener: socket.socket,
        streams: trio.Nursery,
        *,
        task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept until the scope that ``started`` hands out is cancelled.

        Connections live on in ``streams``. What is queued in the kernel when the scope is
        cancelled is accepted still; then the listener is closed, and whoever has not said
        what it wants has a moment left to do so.
        """
        with listener:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                while True:
                    await trio.lowlevel.wait_readable(listener)
                    if not self._accept_some(listener, streams):
                        await trio.sleep(_ACCEPT_PAUSE_S)
                    await trio.lowlevel.checkpoint()
            self._accept_some(listener, streams, count_max=limits.VISITORS_MAX)
        last_moment = trio.current_time() + limits.FAREWELL_S / 4
        for reading in self._headless:
            reading.deadline = min(reading.deadline, last_moment)

    def _accept_some(
        self, listener: socket.socket, streams: trio.Nursery, count_max: int = _ACCEPTS_PER_TURN_MAX
    ) -> bool:
        """Accept what is there; return False when the machine has no room for more."""
        for _ in range(count_max):
            try:
                raw, peer = listener.accept()
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    self._counts.accept_pauses += 1
                    if self._counts.accept_pauses == 1:
                        log.error("cannot accept", reason=str(error))
                    return False
                continue  # that peer is gone already
            raw.setblocking(False)
            if self._visitors >= limits.VISITORS_MAX:
                self._counts.refusals["too_many_visitors"] += 1
                if not self._headless:
                    raw.close()
                    continue
                oldest = next(iter(self._headless))
                del self._headless[oldest]
                oldest.cancel()
            self._count_visitor(1)
            reading = trio.CancelScope(deadline=trio.current_time() + limits.HEAD_TIMEOUT_S)
            self._headless[reading] = None
            where = peer[0] if isinstance(peer, tuple) else ""  # nameless on a unix socket
            streams.start_soon(self._serve, raw, where, reading)
        return True

    async def _serve(self, raw: socket.socket, peer: str, reading: trio.CancelScope) -> None:
        """Serve one connection; a bug while doing so ends that connection alone.

        A stream lives for weeks and so does this frame: heads are left in ``_welcome``'s.
        """
        sock = trio.socket.from_stdlib_socket(raw)
        is_visitor = True
        try:
            stream = await self._welcome(sock, peer, reading)
            del reading
            if stream is not None:
                is_visitor = False
                self._count_visitor(-1)
                try:
                    await serve_stream(self._plane, raw, sock, *stream)
                except SubscriberError as error:
                    await self._refuse(sock, stream[0].origin, error.status, error.code, str(error))
        except Exception:
            self._counts.refusals["bug"] += 1
            log.exception("bug while serving one peer")
        finally:
            if is_visitor:
                self._count_visitor(-1)
            sock.close()

    async def _welcome(
        self, sock: trio.socket.SocketType, peer: str, reading: trio.CancelScope
    ) -> tuple[StreamRequest, bytes, str] | None:
        """Read a connection's first head and answer it, unless it asks for a stream.

        Returns:
            The stream that was asked for, which may be had, the bytes that came behind the
            head, and where the subscriber is; None when everything has been said.
        """
        origin = ""
        try:
            opened = await self._receive_head(sock, reading)
            if opened is None:
                return None
            data, head_end = opened
            request = read_head(data)
            headers = headers_of(request)
            origin = headers.get(b"origin", b"").decode("latin-1")
            if plane_of(request) is Plane.CONTROL:
                replay = without_upgrade(data, head_end)
                await self._control(ReplayStream(trio.SocketStream(sock), replay))
                return None
            stream = read_stream_request(request, self._plane.instance.pipe.wall_us())
            if stream.command is not None:
                self._plane.instance.check(stream.command.requests)
                self._plane.instance.check_replay(stream.command)
            self._plane.check_room()
        except (BadHead, SubscriberError) as error:
            await self._refuse(sock, origin, error.status, error.code, str(error))
            return None
        return stream, data[head_end:], client_address(peer, headers, self._trusted)

    async def _receive_head(
        self, sock: trio.socket.SocketType, reading: trio.CancelScope
    ) -> tuple[bytes, int] | None:
        """Return what was read and where the head ends; None when there is nobody to answer.

        Raises:
            BadHead: too large (431) or too slow (408).
        """
        data = b""
        try:
            with reading:
                while True:
                    try:
                        more = await sock.recv(_READ_BYTES)
                    except OSError:
                        return None
                    if not more:
                        return None
                    data = data + more if data else more.lstrip(b"\r\n")
                    end = HEAD_END.search(data)
                    if end is not None and end.end() <= limits.HEAD_BYTES_MAX:
                        return data, end.end()
                    if len(data) > limits.HEAD_BYTES_MAX:
                        raise BadHead(
                            431,
                            "head_too_large",
                            f"a request head is at most {limits.HEAD_BYTES_MAX} bytes",
                        )
                    if is_not_http(data):
                        return data, len(data)
            if reading not in self._headless:  # it made room for another, and was counted
                return None
        finally:
            self._headless.pop(reading, None)
        if not data:
            self._counts.refusals["said_nothing"] += 1
            return None
        raise BadHead(408, "head_too_slow", "the request head did not come in time")

    async def _refuse(
        self, sock: trio.socket.SocketType, origin: str, status: int, code: str, message: str
    ) -> None:
        """Answer with an error and hang up."""
        self._counts.refusals[code] += 1
        body = msgspec.json.encode({"error": {"code": code, "message": message}}) + b"\n"
        extra = "Sec-WebSocket-Version: 13\r\n" if status == 426 else ""
        extra += "Retry-After: 1\r\n" if status == 503 else ""
        cors = self._plane.cors_headers(origin)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}"
        )
        with trio.move_on_after(limits.FAREWELL_S):
            try:
                await trio.SocketStream(sock).send_all(head.encode() + cors + b"\r\n" + body)
                sock.shutdown(socket.SHUT_WR)
                while await sock.recv(_READ_BYTES):
                    pass
            except (OSError, trio.BrokenResourceError):
                pass


def open_listener(bind: str, port: int) -> socket.socket:
    """Return a listening socket whose connections inherit what every stream needs.

    Linux hands these options of a listener down to the sockets it accepts: no delay (a
    batch is complete), a bounded send buffer (slowness shows early), keep-alive, and a
    limit on unacknowledged data above the backlog's age limit and the farewell, which
    also ends peers whose window stays shut.

    Raises:
        OSError: the address is in use, not ours, or not allowed.
    """
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.SEND_BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(limits.UNACKED_MAX_S * 1000)
        )
        listener.bind((bind, port))
        listener.listen(limits.LISTEN_BACKLOG_MAX)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
