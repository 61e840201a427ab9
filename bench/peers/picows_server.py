"""A peer of the fan-out benchmark: picows (Cython) on uvloop.

``transport.send`` to each subscriber, as its documentation shows. Defaults otherwise: no
compression (picows has none), TCP_NODELAY set by the event loop.

    picows_server.py PORT SCHEDULE
"""

import sys

import picows
import uvloop
from schedule import load, play_on_go


class Subscriber(picows.WSListener):
    """One connection; its messages are ignored."""

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Add the connection."""
        transports[transport] = None

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Remove the connection."""
        transports.pop(transport, None)


transports: dict[picows.WSTransport, None] = {}


def publish(payload: bytes) -> None:
    """Send one text message to all connections."""
    text = picows.WSMsgType.TEXT
    for transport in transports:
        transport.send(text, payload)


async def main(port: int, path: str) -> None:
    """Serve until standard input ends."""
    messages = load(path)
    await picows.ws_create_server(lambda _: Subscriber(), "127.0.0.1", port, backlog=4096)
    await play_on_go(messages, publish)


uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
