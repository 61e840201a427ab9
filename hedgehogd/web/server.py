"""Hypercorn as a function that serves one connection: one that the door admits to REST."""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from quart_trio import QuartTrio

from hedgehogd.domain import limits
from hedgehogd.protocol.refusal import asked_path, error_object, wants_no_body

_READ_BYTES = 64 * 1024
_EMPTY_REFUSAL = re.compile(rb"HTTP/1\.1 ([45]\d\d) [^\n]*\r\ncontent-length: 0\r\n")


def hypercorn_config() -> Config:
    """Return Hypercorn's configuration: one request per connection, no log of its own."""
    config = Config()
    config.keep_alive_max_requests = 1
    config.h11_max_incomplete_size = limits.HEAD_BYTES_MAX
    # The door has read the whole head, the app limits the time of a body (BODY_TIMEOUT), and the
    # stream ends readers that stall. Hypercorn's limit ended longer answers, during which a client
    # sends no bytes.
    config.read_timeout = None
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config


class _Server(TCPServer):
    """Hypercorn's server with two changes.

    Hypercorn's own refusals, such as of a malformed body, get the error form of their path. A peer
    that ends its sending side after its request still gets the answer; Hypercorn would cancel it.

    Attributes:
        request_head: the head of the request; it determines the error form.
    """

    request_head = b""

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData) and (refusal := _EMPTY_REFUSAL.match(event.data)):
            event = RawData(_with_error_body(event.data, refusal, self.request_head))
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        data: bytes | bytearray = b" "
        while data:
            try:
                data = await self.stream.receive_some(_READ_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                await self.protocol.handle(Closed())
                return
            await self.protocol.handle(RawData(bytes(data)))  # no bytes: the body has ended
        # A peer that has left is detected when the answer is sent.


def _with_error_body(answer: bytes, refusal: re.Match[bytes], request_head: bytes) -> bytes:
    status = HTTPStatus(int(refusal[1]))
    code = status.phrase.lower().replace(" ", "_")
    error = error_object(asked_path(request_head), code, "the request is not valid HTTP")
    body = msgspec.json.encode(error) + b"\n"
    fields = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    answer = answer.replace(b"content-length: 0\r\n", fields, 1)
    return answer if wants_no_body(request_head) else answer + body


def control_handler(app: QuartTrio) -> Callable[[Any], Awaitable[None]]:
    """Return the function that serves one connection to its end by ``app``."""

    async def answer_whole(scope: Any, receive: Any, send: Any) -> None:
        async def send_whole(message: Any) -> None:
            # At the last message Hypercorn closes the connection and sends Quart a disconnect;
            # Quart-trio then cancels the request's task, which is still closing the connection.
            with trio.CancelScope(shield=True):  # the stream itself ends peers that do not read
                await send(message)

        await app(scope, receive, send_whole)

    wrapped = ASGIWrapper(answer_whole)
    config, context = hypercorn_config(), WorkerContext(None)

    async def handle(stream: Any) -> None:
        server = _Server(wrapped, config, context, ConnectionState({}), stream)
        server.request_head = getattr(stream, "head", b"")
        await server

    return handle
