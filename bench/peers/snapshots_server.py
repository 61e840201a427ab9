"""A peer of the joiners benchmark: ``websockets`` on asyncio, which sends a fixed snapshot.

A subscriber of level2_batch gets the state's snapshot from a task of its own, ready-made bytes
sent as text, and all later updates; tickers go to all that want them. It keeps no book and makes
no snapshot: each of its joiners saves that work, and gets an outdated one.

Messages carry their due time. Keepalives are off, or it would close connections that wait for
it. With ``--deflate`` it has the defaults of ``websockets``, and compresses once per connection.

    snapshots_server.py PORT SCHEDULE [--deflate]
"""

import asyncio
import json
import sys
from pathlib import Path

from schedule import load, play_on_go
from websockets.asyncio.server import ServerConnection, broadcast, serve

wanting: dict[str, set[ServerConnection]] = {"ticker": set(), "level2_batch": set()}


async def subscriber(connection: ServerConnection, snapshot: bytes) -> None:
    """Serve one connection."""
    try:
        async for text in connection:
            for channel in json.loads(text)["channels"]:
                if channel == "level2_batch":
                    await connection.send(snapshot, text=True)
                wanting[channel].add(connection)
    finally:
        for connections in wanting.values():
            connections.discard(connection)


def publish(payload: bytes) -> None:
    """Send one message to the subscribers of its channel."""
    channel = "ticker" if payload.startswith(b'{"type":"ticker"') else "level2_batch"
    broadcast(wanting[channel], payload, text=True)


async def main(port: int, path: str, *options: str) -> None:
    """Serve until standard input ends."""
    messages = load(path)
    state = Path(path).with_suffix(".state").read_bytes().splitlines()
    snapshot = next(line for line in state if line.startswith(b'{"type":"snapshot"'))
    async with serve(
        lambda connection: subscriber(connection, snapshot),
        "127.0.0.1",
        port,
        compression="deflate" if "--deflate" in options else None,
        backlog=4096,
        ping_interval=None,
    ):
        await play_on_go(messages, publish, stamp=True)


asyncio.run(main(int(sys.argv[1]), *sys.argv[2:]))
