"""Where an instance is entered: its port, and the unix socket by which others ask it.

Both lead to the same plane. What comes by the unix socket is answered for this instance
alone, so that nothing is passed on twice.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from hedgehogd.config import Settings
from hedgehogd.domain.errors import OperatorError
from hedgehogd.relay.peers import Peers
from hedgehogd.relay.sockets import own_socket
from hedgehogd.relay.tapes import Tapes
from hedgehogd.streaming.address import read_networks
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.app import make_app
from hedgehogd.web.exchange import Companion
from hedgehogd.web.server import control_handler


class Entrances:
    """The listeners of one instance, of which nobody is answered before ``open``.

    Attributes:
        port: the port that is listened on.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        own: tuple[socket.socket, Peers] | None,
    ) -> None:
        """``own`` are the unix socket and the other instances, where there is a place for them."""
        self.port: int = listener.getsockname()[1]
        self._settings = settings
        self._listener = listener
        self._own = own

    async def open(
        self, plane: StreamingPlane, companion: Companion, connections: trio.Nursery
    ) -> trio.CancelScope:
        """Let people in; connections live in ``connections``.

        Returns:
            The scope whose end closes the port. The unix socket stays open as long as
            ``connections``: while streams are left, others may have something to say to them.
        """
        instance, settings = plane.instance, self._settings
        peers = None
        if self._own is not None:
            own_listener, peers = self._own
            instance.pipe.resumes.others = Tapes(peers)
            alone = Door(plane, control_handler(make_app(instance, companion=companion)))
            await connections.start(alone.run, own_listener, connections)
        app = make_app(instance, settings.serve_cors_origins, companion, peers)
        trusted = read_networks(settings.serve_trusted_proxies)
        door = Door(plane, control_handler(app), trusted)
        accepting: trio.CancelScope = await connections.start(door.run, self._listener, connections)
        return accepting


@asynccontextmanager
async def entrances(settings: Settings) -> AsyncIterator[Entrances]:
    """Listen; at the end close what was opened, and remove the unix socket's file.

    Raises:
        OperatorError: the port or the number is taken, or the machine does not allow it.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings.serve_bind, settings.port))
        own = None
        if settings.serve_runtime_dir:
            directory, number = Path(settings.serve_runtime_dir), settings.instance
            own_listener = stack.enter_context(own_socket(directory, number))
            own = (own_listener, await stack.enter_async_context(Peers(directory, number)))
        yield Entrances(settings, listener, own)


def _listen(bind: str, port: int) -> socket.socket:
    try:
        return open_listener(bind, port)
    except OSError as error:
        where = f"{bind} port {port}"
        raise OperatorError(f"cannot listen on {where}: {error.strerror or error}") from None
