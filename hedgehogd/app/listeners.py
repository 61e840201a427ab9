"""The listeners of an instance: its ports, and the unix socket for its peer instances.

All listeners serve the same streams. The stream port is the public one; metrics, lines and
instances are served only on the operator listener and on the unix socket. A request on the unix
socket is answered for this instance only, so no request is forwarded twice.
"""

import socket
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import trio

from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.networks import read_networks
from hedgehogd.protocol.access import ANY, Access
from hedgehogd.relay.peers import Peers
from hedgehogd.relay.sockets import own_socket
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.web.app import make_app
from hedgehogd.web.exchange import Companion
from hedgehogd.web.server import control_handler


class Listeners:
    """The listeners of one instance; connections wait unanswered until ``open``.

    Attributes:
        port: the stream port.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        operator_listener: socket.socket | None,
        own: tuple[socket.socket, Peers] | None,
    ) -> None:
        """``own`` is our unix socket, and the client of the peer instances.

        It is None without a runtime directory.
        """
        self.port: int = listener.getsockname()[1]
        self._settings = settings
        self._listener = listener
        self._operator_listener = operator_listener
        self._own = own
        self._accepting: list[trio.CancelScope] = []

    @property
    def peers(self) -> Peers | None:
        """The client of the machine's other instances; None without a runtime directory."""
        return None if self._own is None else self._own[1]

    async def open(
        self, plane: StreamingPlane, companion: Companion, connections: trio.Nursery
    ) -> None:
        """Start to accept connections, and serve them in the nursery ``connections``.

        The unix socket stays open as long as ``connections``: while streams are open, peer
        instances may forward commands for them.
        """
        instance, settings = plane.instance, self._settings
        peers = None
        if self._own is not None:
            own_listener, peers = self._own
            app = make_app(instance, companion=companion, serves_operators=True)
            await connections.start(
                Door(plane, control_handler(app)).run, own_listener, connections
            )
        trusted = read_networks(settings.serve_trusted_proxies)
        for listener in filter(None, (self._listener, self._operator_listener)):
            serves_operators = listener is self._operator_listener
            app = make_app(
                instance,
                settings.serve_cors_origins,
                companion,
                peers,
                serves_operators=serves_operators,
            )
            hosts = _hosts(settings, listener, serves_operators=serves_operators)
            access = Access(plane.cross_origins, hosts)
            door = Door(plane, control_handler(app), trusted, access)
            self._accepting.append(await connections.start(door.run, listener, connections))

    def close_ports(self) -> None:
        """Accept no more connections on the stream port and the operator listener.

        Connections that are open stay open.
        """
        for accepting in self._accepting:
            accepting.cancel()


@asynccontextmanager
async def open_listeners(settings: Settings) -> AsyncIterator[Listeners]:
    """Bind the listeners; at the end close them, and remove the unix socket's file.

    Raises:
        OperatorError: a port or the instance's number is in use, or the machine does not allow
            a listener.
    """
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(settings.serve_bind, settings.port))
        operator_listener = None
        if settings.operator_address is not None:
            operator_listener = stack.enter_context(
                _listen_for_operators(settings.operator_address)
            )
        own = None
        if settings.serve_runtime_dir:
            directory, number = Path(settings.serve_runtime_dir), settings.instance
            own_listener = stack.enter_context(own_socket(directory, number))
            own = (own_listener, await stack.enter_async_context(Peers(directory, number)))
        yield Listeners(settings, listener, operator_listener, own)


def _listen(bind: str, port: int) -> socket.socket:
    try:
        return open_listener(bind, port)
    except OSError as error:
        where = f"{bind} port {port}"
        raise OperatorError(f"cannot listen on {where}: {error.strerror or error}") from None


def _listen_for_operators(address: tuple[str, int]) -> socket.socket:
    try:
        return _listen(*address)
    except OperatorError as error:
        raise OperatorError(
            f"{error} (the operator listener)\n"
            "  Expected --operator-bind with an address and a port that are free, or none."
        ) from None


def _hosts(
    settings: Settings, listener: socket.socket, *, serves_operators: bool
) -> Collection[str] | None:
    """Return the host names that ``listener`` serves beside loopback names; None for all names.

    A proxy may publish the stream port under any name. Then ``*`` is no additional risk: a web
    page that points its own name to the proxy is served anyway. The operator listener has no
    proxy in front of it, so it serves only names that are listed one by one.
    """
    if not ip_address(listener.getsockname()[0]).is_loopback:
        return None
    return set(settings.serve_hosts) - ({ANY} if serves_operators else set())
