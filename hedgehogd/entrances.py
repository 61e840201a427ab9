"""Where an instance is entered: its port, and the unix socket by which others ask it.

Both lead to the same plane. What comes by the unix socket is answered for this instance
alone, so that nothing is passed on twice.
"""

import socket
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from hedgehogd.config import Settings
from hedgehogd.domain.errors import OperatorError
from hedgehogd.relay.peers import Peers
from hedgehogd.relay.sockets import own_socket
from hedgehogd.streaming.address import read_networks
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.app import make_app
from hedgehogd.web.exchange import Companion
from hedgehogd.web.server import control_handler


class Entrances:
    """The listeners of one instance: taken on entering, answered after ``open``.

    Attributes:
        port: the port that is listened on.
    """

    def __init__(self, settings: Settings) -> None:
        self.port = 0
        self._settings = settings
        self._stack = AsyncExitStack()
        self._listener: socket.socket
        self._own_socket: socket.socket | None = None
        self._peers: Peers | None = None

    async def __aenter__(self) -> Self:
        """Listen; nobody is answered yet.

        Raises:
            OperatorError: the port or the number is taken, or the machine does not allow it.
        """
        async with AsyncExitStack() as stack:
            settings = self._settings
            self._listener = stack.enter_context(_listen(settings.serve_bind, settings.port))
            self.port = self._listener.getsockname()[1]
            if settings.serve_runtime_dir:
                directory, number = Path(settings.serve_runtime_dir), settings.instance
                self._own_socket = stack.enter_context(own_socket(directory, number))
                self._peers = await stack.enter_async_context(Peers(directory, number))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close both, and remove the socket's file."""
        await self._stack.aclose()

    async def open(
        self, plane: StreamingPlane, companion: Companion, connections: trio.Nursery
    ) -> trio.CancelScope:
        """Let people in; connections live in ``connections``.

        Returns:
            The scope whose end closes the port. The unix socket stays open as long as
            ``connections``: while streams are left, others may have something to say to them.
        """
        instance, settings = plane.instance, self._settings
        if self._own_socket is not None:
            alone = Door(plane, control_handler(make_app(instance, companion=companion)))
            await connections.start(alone.run, self._own_socket, connections)
        app = make_app(instance, settings.serve_cors_origins, companion, self._peers)
        trusted = read_networks(settings.serve_trusted_proxies)
        door = Door(plane, control_handler(app), trusted)
        accepting: trio.CancelScope = await connections.start(door.run, self._listener, connections)
        return accepting


def _listen(bind: str, port: int) -> socket.socket:
    try:
        return open_listener(bind, port)
    except OSError as error:
        where = f"{bind} port {port}"
        raise OperatorError(f"cannot listen on {where}: {error.strerror or error}") from None
