"""A subscriber that does not read, behind a proxy with buffers of its own."""

import json
import socket

import pytest
import trio

from tests.cluster.harness import eventually, get
from tests.e2e.harness import PATIENCE_S, WEBSOCKET_HEADERS, next_of, subscribe, websocket

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster")]
SLOW = 5
# Bytes in transit to a subscriber that does not read: the kernel's buffers of the instance and of
# both sides of HAProxy (128 KiB each, after Linux has doubled them, and on the loopback a
# segment of 64 KiB that was started when there was room), HAProxy's own (two of 16 KiB), and the
# reader's; the farewell follows. Without bounds it would be megabytes.
ON_ITS_WAY_BYTES_MAX = 3 * (128 + 64) * 1024 + 2 * 16 * 1024 + 64 * 1024 + 1024
BIG = subscribe(["BTC-USD", "ETH-USD"], ["full"])  # 2 MB/s


def slow_consumers(cluster) -> float:
    """Return the number of subscribers closed as too slow."""
    found = 0.0
    for number in cluster.numbers:
        for row in get(9000 + number, "/metrics").decode().splitlines():
            if row.startswith("hedgehogd_stream_ends_total") and "slow_consumer" in row:
                found += float(row.rpartition(" ")[2])
    return found


async def not_reading(port: int) -> trio.SocketStream:
    """Open a WebSocket, subscribe to much, and read only the handshake."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    await sock.connect(("127.0.0.1", port))
    stream = trio.SocketStream(sock)
    rows = "\r\n".join(("GET /ws HTTP/1.1", "Host: localhost", *WEBSOCKET_HEADERS))
    await stream.send_all(f"{rows}\r\n\r\n".encode())
    while b"\r\n\r\n" not in await stream.receive_some():
        pass
    text = BIG.encode()
    await stream.send_all(b"\x81" + bytes((0x80 | len(text),)) + bytes(4) + text)
    return stream


async def test_a_slow_consumer_is_noticed_by_its_instance_in_time(cluster):
    """Neither kernel nor proxy may hide it: with a backlog of 2 s it is closed soon after, gets
    its farewell when it reads at last, and few bytes were in transit."""
    before, kib = slow_consumers(cluster), cluster.proxy.memory_kib()
    async with websocket(cluster.port, "/ws-feed") as quick:
        await quick.send_message(subscribe(["BTC-USD"], ["ticker"]))
        begin = trio.current_time()
        slow = [await not_reading(cluster.port) for _ in range(SLOW)]
        await eventually(lambda: slow_consumers(cluster) == before + SLOW, "all were closed")
        noticed_s = trio.current_time() - begin
        grown_kib = cluster.proxy.memory_kib() - kib
        await next_of(quick, "ticker")
    ends = []
    for stream in slow:
        read = bytearray()
        async with stream:
            with trio.fail_after(PATIENCE_S):
                while data := await stream.receive_some():
                    read += data
        ends.append((len(read), bytes(read)))

    assert noticed_s < 8  # the default would be 10
    assert max(size for size, _ in ends) < ON_ITS_WAY_BYTES_MAX
    assert grown_kib < SLOW * 200
    for _, end in ends:
        at = end.rindex(b"\x88")  # the close frame: a size, a code, a reason
        assert int.from_bytes(end[at + 2 : at + 4], "big") == 4001
        assert json.loads(end[end.rindex(b'{"type":"error"') : at])["name"] == "slow_consumer"
