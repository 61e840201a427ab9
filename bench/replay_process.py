"""The client of ``replay``: it subscribes to everything, and counts frames.

It runs with any Python. It sends one subscribe of all products, and reads until it has as many
messages as it expects, those of books not counted: updates of a book precede the stretch, too. It
prints one line of JSON.

    replay_process.py PORT MESSAGES CHANNEL...
"""

import base64
import http.client
import json
import os
import socket
import struct
import sys
import time

SILENCE_S = 20.0
READ_BYTES = 1 << 20
OF_BOOKS = (b'{"type":"l2update"', b'{"type":"snapshot"', b'{"type":"subscriptions"')


def connected(port: int) -> socket.socket:
    """Return a WebSocket connection after its handshake."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
    ]  # fmt: skip
    connection.sendall("\r\n".join(lines).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise SystemExit(f"no WebSocket: {head!r}")
    return connection


def masked(text: bytes) -> bytes:
    """Return a text frame of a client; its mask is zero."""
    size = len(text)
    if size < 126:
        return struct.pack(">BBI", 0x81, 0x80 | size, 0) + text
    if size < 65536:
        return struct.pack(">BBHI", 0x81, 0x80 | 126, size, 0) + text
    return struct.pack(">BBQI", 0x81, 0x80 | 127, size, 0) + text


class Frames:
    """Count the messages in the bytes of a connection."""

    def __init__(self) -> None:
        self.messages = self.of_books = self.bytes = 0
        self._rest = b""

    def receive(self, data: bytes) -> None:
        """Count the whole frames; keep the rest."""
        data = self._rest + data
        at, end = 0, len(data)
        messages = 0
        while at + 10 <= end:
            size, begin = data[at + 1], at + 2
            if size == 126:
                size, begin = data[at + 2] << 8 | data[at + 3], at + 4
            elif size == 127:
                size, begin = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if begin + size > end:
                break
            if data[at] != 0x81:
                raise SystemExit(
                    f"an unexpected frame {data[at]:#x}: {data[begin : begin + 200]!r}"
                )
            if data.startswith(OF_BOOKS, begin):
                self.of_books += 1
            elif data.startswith(b'{"type":"error"', begin):
                raise SystemExit(data[begin : begin + 400].decode(errors="replace"))
            else:
                messages += 1
            at = begin + size
        self.messages += messages
        self.bytes += at
        self._rest = data[at:]


def main() -> None:
    port, expected, *channels = sys.argv[1:]
    rest = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SILENCE_S)
    rest.request("GET", "/products")
    products = [each["id"] for each in json.loads(rest.getresponse().read())]
    connection = connected(int(port))
    subscribe = {"type": "subscribe", "product_ids": products, "channels": channels}
    frames = Frames()
    begin = time.perf_counter()
    first = 0.0
    before = 0  # messages of books before the stretch
    connection.sendall(masked(json.dumps(subscribe).encode()))
    while frames.messages < int(expected):
        try:
            data = connection.recv(READ_BYTES)
        except TimeoutError:
            break
        if not data:
            break
        frames.receive(data)
        if frames.messages and not first:
            first, before = time.perf_counter(), frames.of_books
    end = time.perf_counter()
    print(json.dumps({
        "products": len(products), "messages": frames.messages + frames.of_books - before,
        "before": before, "bytes": frames.bytes, "start_s": first - begin, "wall_s": end - first,
        "fault": "" if frames.messages >= int(expected) else f"{frames.messages} of {expected}",
    }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
