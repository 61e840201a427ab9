"""Use copra as its documentation shows; only the address is not Coinbase's.

    drive_copra.py stream URL CHANNELS PRODUCTS COUNT SECONDS

One JSON object per line on stdout; the library's log is on stderr.
"""

import asyncio
import json
import logging
import sys

from copra.websocket import Channel, Client


def write(kind, **fields):
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


class StreamClient(Client):
    count = 0

    def on_message(self, message):
        self.count += 1
        write("message", message=message)

    def on_error(self, message, reason=""):
        super().on_error(message, reason)
        write("error", message=message, reason=reason)

    def on_close(self, was_clean, code, reason):
        super().on_close(was_clean, code, reason)
        write("closed", clean=was_clean, code=code, reason=reason)


async def stream(url, channels, products, count, seconds):
    """Read until COUNT messages have arrived or SECONDS have passed; then await the close."""
    loop = asyncio.get_running_loop()
    wanted = [Channel(name, products.split(",")) for name in channels.split(",")]
    client = StreamClient(loop, wanted, feed_url=url, name="copra")
    end = loop.time() + float(seconds)
    while client.count < int(count) and loop.time() < end:
        await asyncio.sleep(0.05)
    await asyncio.wait_for(client.close(), 5)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run({"stream": stream}[sys.argv[1]](*sys.argv[2:]))
