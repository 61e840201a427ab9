"""The exchange's door: one port for WebSockets and REST.

It reads the head of each connection's first request. A WebSocket handshake, on any path,
becomes a ``Client``; everything else is handed to Hypercorn, head and all, broken
handshakes too. Every answer of Hypercorn's ends its connection, so that a handshake is
always the first request that we see.

Who wants a connection without a socket has it from ``inprocess.connect``, and REST from
``Server.app`` through ``httpx.ASGITransport``: then nothing here waits for the real clock.

Hypercorn writes inside a shielded cancel scope. The sockets it was given are closed under
it when the server is cancelled, so nobody who stops reading can hold that up.
"""

from collections.abc import Sequence
from http import HTTPStatus
from itertools import count
from typing import Protocol

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from quart_trio import QuartTrio
from wsproto.utilities import generate_accept_token

from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.limits import (
    FIRST_SUBSCRIBE_S,
    HEAD_BYTES_MAX,
    HEAD_TIMEOUT_S,
    UPSTREAM_MESSAGE_BYTES_MAX,
)
from hedgehogd.engine.streams import ReplayStream
from hedgehogd.simulator.client import Client
from hedgehogd.simulator.faults import Faults

_HEAD_END = b"\r\n\r\n"


class Exchange(Protocol):
    """Who answers the clients that the door lets in."""

    def heard(self, client: Client, text: str) -> None:
        """Take one text message of ``client``."""

    def left(self, client: Client) -> None:
        """Forget ``client``: it has gone. Called once for each client, heard or not."""

    async def run(self) -> None:
        """Let the exchange's time pass, until cancelled."""


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Return listeners for ``host`` and ``port``; port 0 takes a free one.

    Raises:
        OperatorError: that cannot be listened on.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = error.strerror or error
        raise OperatorError(f"cannot listen on {host} port {port}: {reason}") from error


class Server:
    """The door of one exchange.

    Attributes:
        app: its REST, for who asks without a socket.
        faults: what is to go wrong; None for an exchange that knows none.
    """

    def __init__(
        self,
        exchange: Exchange,
        app: QuartTrio,
        *,
        faults: Faults | None = None,
        first_subscribe_s: float = FIRST_SUBSCRIBE_S,
        backlog_bytes_max: int = UPSTREAM_MESSAGE_BYTES_MAX,
    ) -> None:
        """Prepare to serve.

        Args:
            exchange: who answers WebSocket clients.
            app: what answers everything else.
            faults: asked at each handshake, and told who comes and goes.
            first_subscribe_s: clients that have not subscribed by then are closed.
            backlog_bytes_max: clients that leave more than this unread are closed; by
                default it is one message of the largest size.
        """
        self.app = app
        self.faults = faults
        self._exchange = exchange
        self._numbers = count(1)
        self._first_subscribe_s = first_subscribe_s
        self._backlog_bytes_max = backlog_bytes_max
        self._config = Config()
        self._config.keep_alive_max_requests = 1
        self._app = ASGIWrapper(app)
        self._visitors: set[trio.SocketStream] = set()

    async def run(self, listeners: Sequence[trio.SocketListener] = ()) -> None:
        """Let the exchange's time pass and serve until cancelled; closes ``listeners``.

        Without listeners its clients come by ``inprocess.connect`` alone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._exchange.run)
            nursery.start_soon(self._cut_off_when_cancelled)
            if listeners:
                await trio.serve_listeners(self.serve, list(listeners))

    async def _cut_off_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in self._visitors:
                stream.socket.close()

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection, whatever it wants, until it ends; closes ``stream``.

        Any stream of trio's that can end its sending will do. Only sockets can have REST:
        Hypercorn asks for their addresses.
        """
        try:
            with trio.fail_after(HEAD_TIMEOUT_S):
                head = await _read_head(stream)
            key = _websocket_key(head)
            if key:
                await self._serve_client(stream, key, head.partition(_HEAD_END)[2])
            elif head and isinstance(stream, trio.SocketStream):
                await self._serve_visitor(stream, head)
        except (trio.TooSlowError, trio.BrokenResourceError):
            pass  # they went away, or never said what they want
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve_client(
        self, stream: trio.abc.HalfCloseableStream, key: bytes, early: bytes
    ) -> None:
        status = self.faults.handshake_status() if self.faults else None
        if status is not None:
            await stream.send_all(_refusal(status))
            await stream.send_eof()
            return
        client = Client(
            stream, backlog_bytes_max=self._backlog_bytes_max, number=next(self._numbers)
        )

        def heard(text: str) -> None:
            self._exchange.heard(client, text)

        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % generate_accept_token(key)
        )
        if self.faults:
            self.faults.joined(client)
        try:
            await client.run(early, heard, first_subscribe_s=self._first_subscribe_s)
        finally:
            self._exchange.left(client)
            if self.faults:
                self.faults.left(client)

    async def _serve_visitor(self, stream: trio.SocketStream, head: bytes) -> None:
        self._visitors.add(stream)
        # A context each: Hypercorn keeps in it how the running connections are to end.
        try:
            await TCPServer(
                self._app,
                self._config,
                WorkerContext(None),
                {},
                ReplayStream(stream, head),  # type: ignore[arg-type]
            )
        finally:
            self._visitors.discard(stream)


def _refusal(status: int) -> bytes:
    """Return the answer to a handshake that a fault refuses."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return head.encode()


async def _read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """Return the first bytes up to the end of a request's head at least; empty on a bad one."""
    head = b""
    while _HEAD_END not in head:
        data = await stream.receive_some()
        if not data or len(head) > HEAD_BYTES_MAX:
            return b""
        head += data
    return head


def _websocket_key(head: bytes) -> bytes:
    """Return the key of a WebSocket handshake; empty for all other requests, and for none."""
    parser = h11.Connection(h11.SERVER)
    try:
        parser.receive_data(head)
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return b""
    if not isinstance(request, h11.Request) or request.method != b"GET":
        return b""
    headers = dict(request.headers)
    if headers.get(b"upgrade", b"").lower() != b"websocket":
        return b""
    return headers.get(b"sec-websocket-key", b"")
