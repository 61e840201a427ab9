"""A peer of the fan-out benchmark: ``websockets.broadcast`` on asyncio.

Defaults, but no compression. Payloads are bytes sent as text, which saves the encoding.

    websockets_server.py PORT SCHEDULE
"""

import asyncio
import sys

from schedule import load, play_on_go
from websockets.asyncio.server import ServerConnection, broadcast, serve

connections: set[ServerConnection] = set()


async def subscriber(connection: ServerConnection) -> None:
    """Hold one connection; its messages are ignored."""
    connections.add(connection)
    try:
        async for _ in connection:
            pass
    finally:
        connections.discard(connection)


def publish(payload: bytes) -> None:
    """Send one text message to all connections."""
    broadcast(connections, payload, text=True)


async def main(port: int, path: str) -> None:
    """Serve until standard input ends."""
    messages = load(path)
    async with serve(subscriber, "127.0.0.1", port, compression=None, backlog=4096):
        await play_on_go(messages, publish)


asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
