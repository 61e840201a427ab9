"""A peer of the benchmarks: the obvious Quart-trio server, under Hypercorn's trio worker.

Each subscriber has a memory channel and a task that awaits ``websocket.send``. The publisher
waits while a channel is full, so nothing is lost: a server that cannot keep up is late instead.
Defaults otherwise; the receiver offers no compression.

    quart_server.py PORT SCHEDULE
"""

import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import websocket
from quart_trio import QuartTrio
from schedule import load

CHANNEL_MESSAGES_MAX = 1024
app = QuartTrio(__name__)
channels: dict[trio.MemorySendChannel[str], None] = {}


async def listen() -> None:
    """Read the subscriber's messages and ignore them."""
    while True:
        await websocket.receive()


@app.websocket("/ws-feed")
async def subscriber() -> None:
    """Serve one connection from its own channel."""
    send, receive = trio.open_memory_channel[str](CHANNEL_MESSAGES_MAX)
    await websocket.accept()
    channels[send] = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            async for payload in receive:
                await websocket.send(payload)
    finally:
        channels.pop(send, None)


async def play_on_go(path: str) -> None:
    """Print ready, then play the schedule for each line on standard input, until its end."""
    messages = [(due_s, payload.decode()) for due_s, payload in load(path)]
    orders = trio.lowlevel.FdStream(0)
    print("ready", flush=True)
    while await orders.receive_some():
        origin = trio.current_time()
        for due_s, payload in messages:
            await trio.sleep_until(origin + due_s)
            for channel in list(channels):
                await channel.send(payload)
        print("done", flush=True)


async def main(port: int, path: str) -> None:
    """Serve until standard input ends."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.backlog = 4096
    config.errorlog = None
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, app, config)
        await play_on_go(path)
        nursery.cancel_scope.cancel()


trio.run(main, int(sys.argv[1]), sys.argv[2])
