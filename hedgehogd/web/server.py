"""Hypercorn, one connection at a time: the door hands it what is not a stream."""

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
    """Return how Hypercorn has to behave: one request a connection, nothing on its own log."""
    config = Config()
    config.keep_alive_max_requests = 1
    config.h11_max_incomplete_size = limits.HEAD_BYTES_MAX
    # The head is complete, the app times bodies out (BODY_TIMEOUT), the stream readers that stall.
    # Hypercorn's own limit cut answers that took longer: their clients have nothing more to send.
    config.read_timeout = None
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config


class _Server(TCPServer):
    """Hypercorn's, with two differences.

    Its own refusals (of a body that is not HTTP) look like all the others. And a peer that has
    ended its own side after its request is answered: Hypercorn would cancel the request.

    Attributes:
        asked: the head of the request.
    """

    asked = b""

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData) and (refusal := _EMPTY_REFUSAL.match(event.data)):
            event = RawData(_explained(event.data, refusal, self.asked))
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        data: bytes | bytearray = b" "
        while data:
            try:
                data = await self.stream.receive_some(_READ_BYTES)
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                await self.protocol.handle(Closed())
                return
            await self.protocol.handle(RawData(bytes(data)))  # of no bytes: the body is over
        # A peer that is gone is noticed when the answer is sent.


def _explained(answer: bytes, refusal: re.Match[bytes], asked: bytes) -> bytes:
    status = HTTPStatus(int(refusal[1]))
    code = status.phrase.lower().replace(" ", "_")
    error = error_object(asked_path(asked), code, "the request is not sound HTTP")
    body = msgspec.json.encode(error) + b"\n"
    fields = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
    answer = answer.replace(b"content-length: 0\r\n", fields, 1)
    return answer if wants_no_body(asked) else answer + body


def control_handler(app: QuartTrio) -> Callable[[Any], Awaitable[None]]:
    """Return the function that serves one connection of the control plane to its end."""

    async def answer_whole(scope: Any, receive: Any, send: Any) -> None:
        async def send_whole(message: Any) -> None:
            # The last one makes Hypercorn tell Quart that all is over and close the connection,
            # and Quart-trio then cancels the request, which is us in the middle of closing.
            with trio.CancelScope(shield=True):  # the stream gives up peers that do not read
                await send(message)

        await app(scope, receive, send_whole)

    wrapped = ASGIWrapper(answer_whole)
    config, context = hypercorn_config(), WorkerContext(None)

    async def handle(stream: Any) -> None:
        server = _Server(wrapped, config, context, ConnectionState({}), stream)
        server.asked = getattr(stream, "head", b"")
        await server

    return handle
