"""The exchange's server: one port for WebSockets and REST.

It reads the head of each connection's first request. A WebSocket handshake, on any path, becomes
a ``Client``; every other connection is passed to Hypercorn, head included, also a broken
handshake. Hypercorn closes the connection after each answer, so a handshake is always the first
request of its connection.

Clients without a socket connect with ``inprocess.connect``, and ask REST through ``Server.app``
with ``httpx.ASGITransport``: then nothing here waits for the real clock.

Hypercorn writes inside a shielded cancel scope. When the server is cancelled, it closes the
sockets that Hypercorn uses, so that a client that stops reading cannot delay the end.
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
    """Answers the clients that the server accepts."""

    def receive(self, client: Client, text: str) -> None:
        """Process one text message of ``client``."""

    def left(self, client: Client) -> None:
        """Forget ``client``, which is gone. Called once per client, also if it sent nothing."""

    async def run(self) -> None:
        """Advance the exchange's time until cancelled."""


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Return listeners for ``host`` and ``port``; port 0 chooses a free one.

    Raises:
        OperatorError: host and port cannot be bound.
    """
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        reason = error.strerror or error
        raise OperatorError(f"cannot listen on {host} port {port}: {reason}") from error


class Server:
    """The server of one exchange.

    Attributes:
        app: its REST, for clients without a socket.
        faults: its faults; None for an exchange without faults.
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
            exchange: answers WebSocket clients.
            app: answers all other requests.
            faults: asked at each handshake, and notified of each connection and its end.
            first_subscribe_s: clients that have not subscribed by then are closed.
            backlog_bytes_max: clients that leave more than this unread are closed; by default
                one message of the largest size.
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
        self._http_streams: set[trio.SocketStream] = set()

    async def run(self, listeners: Sequence[trio.SocketListener] = ()) -> None:
        """Advance the exchange's time and serve until cancelled; closes ``listeners``.

        Without listeners only ``inprocess.connect`` connects clients.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._exchange.run)
            nursery.start_soon(self._close_http_when_cancelled)
            if listeners:
                await trio.serve_listeners(self.serve, list(listeners))

    async def _close_http_when_cancelled(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in self._http_streams:
                stream.socket.close()

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection of either kind until it ends; close ``stream``.

        A connection without a complete head within ``HEAD_TIMEOUT_S`` is closed unanswered.
        Any trio stream that can end its sending will do. REST needs a socket, because Hypercorn
        asks for its addresses.
        """
        try:
            with trio.fail_after(HEAD_TIMEOUT_S):
                head = await _read_head(stream)
            key = _websocket_key(head)
            if key:
                await self._serve_client(stream, key, head.partition(_HEAD_END)[2])
            elif head and isinstance(stream, trio.SocketStream):
                await self._serve_http(stream, head)
        except (trio.TooSlowError, trio.BrokenResourceError):
            pass  # the client left, or sent no complete request head
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

        def receive(text: str) -> None:
            self._exchange.receive(client, text)

        await stream.send_all(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n\r\n" % generate_accept_token(key)
        )
        if self.faults:
            self.faults.joined(client)
        try:
            await client.run(early, receive, first_subscribe_s=self._first_subscribe_s)
        finally:
            self._exchange.left(client)
            if self.faults:
                self.faults.left(client)

    async def _serve_http(self, stream: trio.SocketStream, head: bytes) -> None:
        self._http_streams.add(stream)
        # A context per connection: Hypercorn stores in it how running connections end.
        try:
            await TCPServer(
                self._app,
                self._config,
                WorkerContext(None),
                {},
                ReplayStream(stream, head),  # type: ignore[arg-type]
            )
        finally:
            self._http_streams.discard(stream)


def _refusal(status: int) -> bytes:
    """Return the answer to a handshake that a fault refuses."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    return head.encode()


async def _read_head(stream: trio.abc.ReceiveStream) -> bytes:
    """Return at least a whole request head, and bytes after it.

    Empty if the peer ends before, or if the head has more than ``HEAD_BYTES_MAX``.
    """
    head = b""
    while _HEAD_END not in head:
        data = await stream.receive_some()
        if not data or len(head) > HEAD_BYTES_MAX:
            return b""
        head += data
    return head


def _websocket_key(head: bytes) -> bytes:
    """Return the key of a WebSocket handshake; empty for any other request or a broken one."""
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
