"""Hypercorn, one connection at a time: the door hands it what is not a stream."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from quart_trio import QuartTrio

from hedgehogd.domain import limits


def hypercorn_config() -> Config:
    """Return how Hypercorn has to behave: one request a connection, nothing on its own log."""
    config = Config()
    config.keep_alive_max_requests = 1
    config.h11_max_incomplete_size = limits.HEAD_BYTES_MAX
    config.read_timeout = int(limits.HEAD_TIMEOUT_S)
    config.include_server_header = False
    config.accesslog = None
    config.errorlog = None
    return config


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
        await TCPServer(wrapped, config, context, ConnectionState({}), stream)

    return handle
