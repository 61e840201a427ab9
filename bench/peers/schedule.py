"""Shared code of the Python peers: reading a schedule, and playing it on asyncio's clock.

A schedule is a file of messages: for each its due time in µs (8 bytes), its length
(4 bytes), both little-endian, and its payload. Every peer plays the same one.

asyncio (with uvloop or without) keeps time to about a millisecond, so messages due within
one are sent back to back; that costs these peers nothing and spares them some wake-ups.
"""

import asyncio
import struct
import sys
from collections.abc import Callable
from pathlib import Path

STAMP_KEY = b'"bench_ns":"'
HEAD = struct.Struct("<QI")


def load(path: str) -> list[tuple[float, bytes]]:
    """Return the messages of a schedule: due time in seconds from its start, and payload."""
    data = Path(path).read_bytes()
    messages = []
    at = 0
    while at < len(data):
        due_us, length = HEAD.unpack_from(data, at)
        at += HEAD.size
        messages.append((due_us / 1e6, data[at : at + length]))
        at += length
    return messages


def stamped(payload: bytes, at_s: float) -> bytes:
    """Return ``payload`` with the ``time.monotonic`` time in its place for one, if it has one."""
    before, key, rest = payload.partition(STAMP_KEY)
    return b"%b%b%019d%b" % (before, key, round(at_s * 1e9), rest[19:]) if key else payload


async def play_on_go(
    messages: list[tuple[float, bytes]],
    publish: Callable[[bytes], None],
    *,
    stamp: bool = False,
) -> None:
    """Print ready, then play the schedule for each line on standard input, until its end.

    With ``stamp`` messages carry their due time: if the server was busy then, its subscribers
    have waited since.
    """
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    print("ready", flush=True)
    while await orders.readline():
        origin = loop.time()
        for due_s, payload in messages:
            wait_s = origin + due_s - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            publish(stamped(payload, origin + due_s) if stamp else payload)
        print("done", flush=True)
