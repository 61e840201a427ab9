"""Request heads: the first bytes of a connection, through the real door.

Valid heads of every path, with methods and headers of every kind, with parts replaced, doubled
and damaged. Each connection ends with an HTTP answer, or without one if the client did not
finish; no answer is a 500, and no bug is counted.
"""

import socket
import tempfile
from pathlib import Path
from random import Random

import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.engine.streams import ReplayStream
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.door import Door
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from tests.fuzz.mutate import damaged, pieces
from tests.fuzz.queries import stream_query

_AT_ONCE = 16
_ANSWER_S = 20.0
_CONTROL_ANSWER = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"

METHODS = ("GET",) * 8 + (
    "POST",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PUT",
    "get",
    "PRI",
    "",
    "G\x00T",
    "CONNECT",
)
PATHS = (
    "/",
    "/ws",
    "/ws-feed",
    "/api/v1/stream",
    "/api/v1/subscribe/BTC-USD",
    "/products",
    "/api/v1/subscribe/",
    "/api/v1/subscribe/%42TC-USD",
    "/api/v1/subscribe/a/b",
    "/readyz",
    "*",
    "/api/v1/history/BTC-USD",
    "//",
    "/../ws",
    "/%2e%2e/ws",
    "/%ff",
    "/ws/",
    "http://h/ws",
    "",
    "http://[::1]:80/api/v1/stream",
    "https://h:99999?x",
    "/\x7f",
    "/é",
    "ws",
    "/api/v1/stream#x",
)
VERSIONS = ("1.1",) * 10 + ("1.0", "1.0", "0.9", "2.0", "1.2", "11", "x", "")
HEADERS = (
    ("Host", ("h", "127.0.0.1:8001", "[::1]:8001", "", "a b", "h, h", "évil")),
    ("Upgrade", ("websocket", "WebSocket", "h2c", "websocket, h2c", "", "x")),
    ("Connection", ("Upgrade", "keep-alive, Upgrade", "close", "", ",,", "upgrade,close")),
    ("Sec-WebSocket-Version", ("13", "8", "13, 8", "")),
    (
        "Sec-WebSocket-Key",
        ("dGhlIHNhbXBsZSBub25jZQ==", "short", "", "dGhlIHNhbXBsZSBub25jZQ== ", "===="),
    ),
    (
        "Sec-WebSocket-Extensions",
        (
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=15",
            'permessage-deflate; server_max_window_bits="10"',
            "permessage-deflate; x=1, permessage-deflate",
            ";;;",
            "a;b=c;b=c",
            "permessage-deflate;" * 50,
        ),
    ),
    ("Sec-WebSocket-Protocol", ("hedgehogd.v1, hedgehogd.bearer.x", ",", "")),
    (
        "Accept",
        (
            "*/*",
            "text/event-stream",
            "application/x-ndjson",
            "application/x-ndjson;q=0",
            "a/b;q=x",
            "text/event-stream;q=0.5, */*;q=0.1",
            "",
            ",",
            "*",
            "text/*",
            "text/event-stream;charset=utf-8",
        ),
    ),
    (
        "Origin",
        ("http://h", "http://127.0.0.1:8001", "null", "", "x", "http://[::1", "http://h, http://h"),
    ),
    (
        "Last-Event-ID",
        ("matches:BTC-USD@5", "matches:BTC-USD@5,ticker:BTC-USD@9", "5", "@", ":", "é", "@" * 99),
    ),
    (
        "X-Forwarded-For",
        ("192.0.2.1", "192.0.2.1:80, [2001:db8::1]:9", "unknown", "", ",,,", "x" * 300),
    ),
    ("Forwarded", ('for="[2001:db8::1]:1"', "for=_x;by=y", "for=", ";;", 'for="')),
    ("Content-Length", ("0", "5", "-1", "x", "9" * 30, "5, 5", "5, 6")),
    ("Transfer-Encoding", ("chunked", "gzip, chunked", "x", "chunked, chunked")),
    ("Expect", ("100-continue", "x")),
    ("Hedgehog-Session", ("1.x", "9.x", "x", "", "1." + "x" * 400)),
    ("Access-Control-Request-Method", ("GET", "")),
)


def head(random: Random) -> bytes:
    """Return the bytes of one connection's first request."""
    target = random.choice(PATHS)
    if random.random() < 0.5:
        target += "?" + stream_query(random)
    lines = [f"{random.choice(METHODS)} {target} HTTP/{random.choice(VERSIONS)}"]
    is_upgrade = random.random() < 0.4
    rate = random.choice((0.05, 0.15, 0.4))
    for name, values in HEADERS:
        is_usual = name == "Host" or (
            is_upgrade and name.startswith(("Upg", "Conn", "Sec-WebSocket-V", "Sec-WebSocket-K"))
        )
        if is_usual and random.random() > rate / 2:
            lines.append(f"{name}: {values[0]}")
        elif random.random() < rate:
            spelt = random.choice(
                (name, name, name.lower(), name.upper(), f" {name}", f"{name} ", f"{name}\t")
            )
            lines.append(f"{spelt}:{random.choice((' ', '', '  '))}{random.choice(values)}")
            if random.random() < 0.1:
                lines.append(lines[-1])
    if random.random() < 0.03:
        lines.append("X: " + "x" * random.choice((100, 8_000, 17_000)))
    if random.random() < 0.02:
        lines += [f"X-{n}: y" for n in range(random.choice((50, 300)))]
    end = random.choice(("\r\n",) * 12 + ("\n", "\r", "\r\n\t"))
    data = (
        end.join(lines).encode(random.choice(("latin-1", "utf-8")), "replace") + (end * 2).encode()
    )
    if random.random() < 0.2:
        data = damaged(random, data)
    if random.random() < 0.03:
        data = (
            random.choice(
                (
                    b"\x16\x03\x01",
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                    b"\r\n\r\n",
                    b"SSH-2.0-x\r\n",
                )
            )
            + data
        )
    if random.random() < 0.05:
        data += random.randbytes(random.randint(1, 40))  # frames, a body or another request
    return data


def check_answer(data: bytes) -> None:
    """Check that ``data`` is empty, or begins with an HTTP head of an allowed status."""
    if not data:
        return
    first, _, rest = data.partition(b"\r\n")
    parts = first.split(b" ", 2)
    assert parts[0] == b"HTTP/1.1", data[:200]
    status = int(parts[1])
    assert 100 < status < 500 or status in (501, 503, 505), data[:300]
    assert b"\r\n\r\n" in b"\r\n" + rest, data[:300]


async def _control(stream: ReplayStream) -> None:
    """Replace Hypercorn: read, answer, close the connection."""
    await stream.receive_some()
    await stream.send_all(_CONTROL_ANSWER)
    await stream.aclose()


async def _ask(path: str, parts: list[bytes]) -> None:
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with sock, trio.fail_after(_ANSWER_S):
        await sock.connect(path)
        answer = b""
        try:
            for part in parts:
                while part:
                    part = part[await sock.send(part) :]  # the rest
            sock.shutdown(socket.SHUT_WR)
            while more := await sock.recv(65536):
                answer += more
                if answer.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
                    break  # a stream has no end of its own
        except ConnectionError:
            pass  # refused before the whole request was sent
    check_answer(answer)


async def _run(random: Random, inputs: int) -> int:
    instance = make_instance(Settings())
    instance.pipe.catalogue.replace(frozenset({"BTC-USD", "ETH-USD"}))
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
        path = str(Path(directory) / "door")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(_AT_ONCE)
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            plane = StreamingPlane(instance, OutletSettings(nursery, instance.counts))
            accepting = await nursery.start(Door(plane, _control).run, listener, nursery)
            for begin in range(0, inputs, _AT_ONCE):
                async with trio.open_nursery() as clients:
                    for _ in range(min(_AT_ONCE, inputs - begin)):
                        clients.start_soon(_ask, path, pieces(random, head(random)))
            with trio.fail_after(_ANSWER_S):
                while instance.counts.visitors or plane.outlets:
                    await trio.sleep(0.001)
            accepting.cancel()
            nursery.cancel_scope.cancel()
    assert not instance.counts.refusals["bug"]
    return inputs


def fuzz_heads(random: Random, inputs: int) -> int:
    """Open ``inputs`` connections to one door."""
    return trio.run(_run, random, inputs)
