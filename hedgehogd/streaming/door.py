"""The door: accepts the connections of one port and passes each to one of two planes.

The door reads the first request head of each connection. A request for a stream is served by
``streaming``. Every other connection is passed to Hypercorn, through a ``ReplayStream`` that
returns the bytes already read before further ones. The control plane closes the connection after
each answer, so every request is the first of its connection and passes the door.

A bad head gets a short error and is counted; no client gets a traceback.
"""

import errno
import itertools
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus

import h11
import msgspec
import structlog
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.networks import Network
from hedgehogd.engine.streams import ReplayStream
from hedgehogd.fanout.turns import CALLER
from hedgehogd.protocol.access import Access
from hedgehogd.protocol.refusal import asked_path, error_object, wants_no_body
from hedgehogd.streaming.address import client_address, is_trusted, share_of
from hedgehogd.streaming.admission import ADDRESS_RETRY_S, Room, RoomFull, Visit
from hedgehogd.streaming.connection import answer_head, serve_stream
from hedgehogd.streaming.head import HEAD_END, BadHead, is_not_http, read_head, without_upgrade
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.streaming.request import (
    Plane,
    StreamRequest,
    authority_of,
    headers_of,
    plane_of,
    read_stream_request,
)

log = structlog.get_logger("door")

_READ_BYTES = 8192
_ACCEPTS_PER_TURN_MAX = 64
_ACCEPT_PAUSE_S = 0.1
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


ControlHandler = Callable[[ReplayStream], Awaitable[None]]


class _Connection:
    """One connection, from ``accept`` until it is closed.

    Attributes:
        address: the peer's address; empty for a unix socket.
        share: the address to which ``Addresses`` charges the connection; empty until it is
            charged, and for a connection that is never charged, as the operator's.
        visit: its place in one of the rooms.
    """

    __slots__ = ("address", "share", "visit")

    def __init__(self, address: str, share: str, visit: Visit) -> None:
        self.address = address
        self.share = share
        self.visit = visit


class Door:
    """Accept connections and select the plane of each.

    A connection that is not a stream has a place in one of two rooms, which are counted
    separately: in ``_heads`` while its head is incomplete, while it waits for its turn and while
    its refusal is being sent; in ``_controls`` while the control plane serves it.
    """

    def __init__(
        self,
        plane: StreamingPlane,
        control: ControlHandler,
        trusted: Sequence[Network] = (),
        access: Access | None = None,
    ) -> None:
        """Create a door for ``plane`` and ``control``.

        The headers of ``trusted`` proxies state a subscriber's address. ``access`` decides which
        host names and which web pages are served, on both planes; without it every host name is.
        """
        self._plane = plane
        self._counts = plane.counts
        self._control = control
        self._trusted = trusted
        self._access = access or Access(plane.cross_origins)
        # A scope for each incomplete head, and for each stream that waits for its turn.
        self._reading: dict[trio.CancelScope, None] = {}
        self._unnamed = itertools.count()
        # Per door, so that many connections at one door cannot block another.
        self._heads = Room()
        self._controls = Room(limits.CONTROL_GRACE_S, limits.CONTROL_EXCHANGES_PER_S)

    async def run(
        self,
        listener: socket.socket,
        streams: trio.Nursery,
        *,
        task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept connections until the scope that ``started`` returns is cancelled.

        Connections continue to run in ``streams``. After the cancellation the connections in the
        kernel's queue are accepted, the listener is closed, and each connection with an
        incomplete head has ``FAREWELL_S / 4`` left to complete it.
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
        for reading in self._reading:
            reading.deadline = min(reading.deadline, last_moment)

    def _accept_some(
        self, listener: socket.socket, streams: trio.Nursery, count_max: int = _ACCEPTS_PER_TURN_MAX
    ) -> bool:
        """Accept up to ``count_max`` connections from the kernel's queue.

        Returns:
            False when file descriptors or memory are exhausted, which is counted; else True.
        """
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
                continue  # the peer has left already
            raw.setblocking(False)
            address = peer[0] if isinstance(peer, tuple) else ""  # a unix socket has none
            self._admit(raw, address, streams)
        return True

    def _admit(self, raw: socket.socket, address: str, streams: trio.Nursery) -> None:
        """Start a task in ``streams`` that serves a connection.

        It is counted and closed instead if its address has reached a limit of connections.
        A trusted proxy's connection is charged later, because its head states the address.
        """
        now = trio.current_time()
        share = "" if is_trusted(address, self._trusted) else share_of(address)
        if share and (reason := self._plane.addresses.enter(share, now)):
            self._counts.refusals[reason] += 1
            raw.close()
            return
        sock = trio.socket.from_stdlib_socket(raw)
        connection = _Connection(address, share, Visit(share_of(address), sock.close, now))
        self._receive(connection.visit)
        patience_s = limits.HEAD_TIMEOUT_S + limits.HEAD_TIMEOUT_SPREAD_S * random.random()
        reading = trio.CancelScope(deadline=now + patience_s)
        self._reading[reading] = None
        self._counts.visitors += 1
        streams.start_soon(self._serve, raw, sock, connection, reading)

    def _receive(self, visit: Visit) -> None:
        """Give ``visit`` a place among the heads; if all are occupied, evict another connection."""
        evicted = self._heads.enter(visit, limits.VISITORS_MAX, trio.current_time())
        if evicted is not None:
            self._counts.refusals["too_many_visitors"] += 1
            evicted.end()

    async def _serve(
        self,
        raw: socket.socket,
        sock: trio.socket.SocketType,
        connection: _Connection,
        reading: trio.CancelScope,
    ) -> None:
        """Serve one connection; an unexpected exception ends that connection alone.

        A stream may last for weeks, and this stack frame with it. Therefore ``_read_request``
        holds the request head in its own frame, which ends before the stream begins.
        """
        is_visitor = True
        try:
            stream = await self._read_request(sock, connection, reading)
            del reading
            if stream is not None:
                is_visitor = False
                self._counts.visitors -= 1
                self._heads.leave(connection.visit)
                await serve_stream(self._plane, raw, sock, *stream)
        except Exception:
            self._counts.refusals["bug"] += 1
            log.exception("bug while serving one peer")
        finally:
            if is_visitor:
                self._counts.visitors -= 1
            self._heads.leave(connection.visit)
            self._controls.leave(connection.visit)
            if connection.share:
                self._plane.addresses.leave(connection.share)
            sock.close()

    async def _read_request(
        self, sock: trio.socket.SocketType, connection: _Connection, reading: trio.CancelScope
    ) -> tuple[StreamRequest, bytes, str] | None:
        """Read a connection's first request and answer it, unless it requests a stream.

        Returns:
            The admitted request for a stream, the bytes after its head, and the subscriber's
            address; None when the request has been answered or cannot be.
        """
        data, origin = b"", ""
        try:
            opened = await self._receive_head(sock, reading)
            if opened is None:
                return None
            data, head_end = opened
            request = read_head(data)
            headers = headers_of(request)
            origin = headers.get(b"origin", b"").decode("latin-1")
            address = self._locate(connection, headers)
            self._check_access(request, headers)
            if plane_of(request) is Plane.CONTROL:
                if not await self._enter_control(sock, connection, share_of(address)):
                    return None
                CALLER.set(share_of(address))
                replay = without_upgrade(data, head_end)
                await self._control(
                    ReplayStream(trio.SocketStream(sock), replay, connection.visit.progress)
                )
                return None
            stream = read_stream_request(request, self._plane.instance.pipe.wall_us())
            if stream.command is not None:
                self._plane.instance.check(stream.command.requests)
                self._plane.instance.check_replay(stream.command)
                self._plane.check_room_for(stream.command)
            self._plane.check_room()
            if request.method == b"HEAD":
                await _answer(sock, answer_head(stream, "", self._plane.cors_headers(origin)))
                return None
            if stream.command is not None:
                if not await self._has_turn(
                    sock, connection, share_of(address), stream.command.weight
                ):
                    return None
                self._plane.check_room()
        except BadHead as error:
            head = data or error.received
            await self._refuse(sock, origin, error.status, error.code, str(error), head)
            return None
        except SubscriberError as error:
            await self._refuse(sock, origin, error.status, error.code, str(error), data)
            return None
        return stream, data[head_end:], address

    def _locate(self, connection: _Connection, headers: Mapping[bytes, bytes]) -> str:
        """Return the subscriber's address, and charge the connection to it if it is not charged.

        A trusted proxy's request without a client address is not limited: it is the operator's.

        Raises:
            SubscriberError: 429; the address has reached its limit of connections.
        """
        address = client_address(connection.address, headers, self._trusted)
        if not connection.share and not is_trusted(address, self._trusted):
            share, addresses = share_of(address), self._plane.addresses
            if reason := addresses.enter(share, trio.current_time()):
                raise SubscriberError(reason, addresses.explain(reason), 429)
            connection.share = share
        return address

    async def _enter_control(
        self, sock: trio.socket.SocketType, connection: _Connection, share: str
    ) -> bool:
        """Wait for the turn of the address, then move a connection from heads to controls.

        The connection keeps its place among the heads until then. The move may evict another
        connection from the controls.

        Returns:
            False when the connection was evicted from that place.

        Raises:
            SubscriberError: 503; no place is free and none can be freed, or too many requests of
                the address wait.
        """
        now = trio.current_time()
        share_max = limits.CONTROL_REQUESTS_PER_ADDRESS_MAX if connection.share else None
        try:
            if connection.share:
                held = self._controls.held(share)
                wait_s = self._plane.addresses.start(connection.share, now, held)
                if wait_s and not await _keeps_place(connection.visit, wait_s):
                    return False
                now = trio.current_time()
            visit = Visit(share, sock.close, now)
            evicted = self._controls.enter(visit, limits.CONTROL_REQUESTS_MAX, now, share_max)
        except RoomFull:
            raise SubscriberError(
                "too_many_requests",
                "too many requests of your address, or of all addresses, are being answered; retry",
                503,
            ) from None
        self._heads.leave(connection.visit)
        connection.visit = visit
        if evicted is not None:
            self._counts.refusals["control_evicted"] += 1
            evicted.end()
        return True

    async def _has_turn(
        self, sock: trio.socket.SocketType, connection: _Connection, share: str, weight: int
    ) -> bool:
        """Wait for the turn of a stream's first topics: a URL may name as many as a command.

        The connection keeps its place among the heads until then.

        Returns:
            False when the connection was evicted from that place.

        Raises:
            SubscriberError: 503; the turn did not come in time, or the peer ended its sending
                side ``HALF_CLOSED_WAIT_S`` ago, as a peer that has left does.
        """
        has_turn, evicted, visit = False, trio.Event(), connection.visit
        deadline = trio.current_time() + limits.CONTROL_WAIT_MAX_S
        share = share or f"connection {next(self._unnamed)}"
        close, visit.end = visit.end, evicted.set
        try:
            async with trio.open_nursery() as waiting:
                scope = waiting.cancel_scope
                scope.deadline = deadline
                self._reading[scope] = None
                waiting.start_soon(_cancel_after, scope, evicted.wait)
                waiting.start_soon(_cancel_after, scope, partial(_until_ended, sock))
                async with self._plane.instance.turns.turn(share, weight):
                    has_turn = True
                scope.cancel()
        finally:
            del self._reading[scope]
            visit.end = close
        if evicted.is_set():
            return False
        if not has_turn:
            raise SubscriberError(
                "too_many_requests",
                "your address has requested more topics than it may at present; retry later",
                503,
            )
        return True

    def _check_access(self, request: h11.Request, headers: dict[bytes, bytes]) -> None:
        """Refuse host names and web pages that are not served; log the first refusal of each code.

        Raises:
            SubscriberError: 421 for a host name, 403 for a page.
        """
        origin = headers.get(b"origin")
        try:
            self._access.check(
                authority_of(request, headers),
                None if origin is None else origin.decode("latin-1"),
            )
        except SubscriberError as error:
            if not self._counts.refusals[error.code]:
                log.warning("request refused; later ones are only counted", reason=str(error))
            raise

    async def _receive_head(
        self, sock: trio.socket.SocketType, reading: trio.CancelScope
    ) -> tuple[bytes, int] | None:
        """Return the bytes read and the end of the head; None when the peer has left.

        None is also returned when the connection was evicted, or when it sent no byte in time.
        Bytes that cannot become a head (``is_not_http``) are returned at once, all as the head.

        Raises:
            BadHead: the head is too large (431) or came too slowly (408).
        """
        data = b""
        try:
            with reading:
                while True:
                    try:
                        more = await sock.recv(_READ_BYTES)
                    except (OSError, trio.ClosedResourceError):
                        return None  # the peer has left, or the connection was evicted
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
                            data,
                        )
                    if is_not_http(data):
                        return data, len(data)
        finally:
            del self._reading[reading]
        if not data:
            self._counts.refusals["said_nothing"] += 1
            return None
        raise BadHead(408, "head_too_slow", "the request head was not complete in time", data)

    async def _refuse(
        self,
        sock: trio.socket.SocketType,
        origin: str,
        status: int,
        code: str,
        message: str,
        request_head: bytes = b"",
    ) -> None:
        """Count a refusal, send the error, and wait until the peer closes, for a bounded time.

        ``request_head`` determines the error's form; it may be incomplete.
        """
        self._counts.refusals[code] += 1
        body = msgspec.json.encode(error_object(asked_path(request_head), code, message)) + b"\n"
        extra = "Sec-WebSocket-Version: 13\r\n" if status == 426 else ""
        retry_s = 1 if status == 503 else ADDRESS_RETRY_S.get(code, 0)
        extra += f"Retry-After: {retry_s}\r\n" if retry_s else ""
        cors = self._plane.cors_headers(origin)
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{extra}"
        )
        if wants_no_body(request_head):
            body = b""
        await _answer(sock, head.encode() + cors + b"\r\n" + body)


async def _cancel_after(scope: trio.CancelScope, wait: Callable[[], Awaitable[None]]) -> None:
    await wait()
    scope.cancel()


async def _until_ended(sock: trio.socket.SocketType) -> None:
    """Return when the connection breaks, or ``HALF_CLOSED_WAIT_S`` after the peer stops sending.

    A peer that ended its sending side may still read. If it sends more bytes this never returns.
    """
    try:
        if await sock.recv(1, socket.MSG_PEEK):
            await trio.sleep_forever()
        await trio.sleep(limits.HALF_CLOSED_WAIT_S)
    except OSError:
        pass  # the connection broke


async def _keeps_place(visit: Visit, wait_s: float) -> bool:
    """Wait for ``wait_s``, then return True; return False at once when ``visit`` is evicted.

    An eviction during the wait does not call ``visit.end``: the caller closes the connection.
    """
    close, evicted = visit.end, trio.Event()
    visit.end = evicted.set
    with trio.move_on_after(wait_s):
        await evicted.wait()
    visit.end = close
    return not evicted.is_set()


async def _answer(sock: trio.socket.SocketType, answer: bytes) -> None:
    """Send a complete answer, end the sending side, and wait until the peer closes.

    All of it lasts for at most ``FAREWELL_S``; a broken connection is no error.
    """
    with trio.move_on_after(limits.FAREWELL_S):
        try:
            await trio.SocketStream(sock).send_all(answer)
            sock.shutdown(socket.SHUT_WR)
            while await sock.recv(_READ_BYTES):
                pass
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass


def open_listener(bind: str, port: int) -> socket.socket:
    """Return a non-blocking listening socket with the options that every stream needs.

    On Linux the accepted sockets inherit them: TCP_NODELAY (a batch is complete), a bounded send
    buffer (a slow reader is noticed early), TCP keep-alive, and TCP_USER_TIMEOUT. That limit on
    the age of unacknowledged data exceeds the backlog's age limit plus the farewell; it also ends
    peers that keep their receive window closed.

    Raises:
        OSError: the address is in use, does not belong to this machine, or is not allowed.
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
