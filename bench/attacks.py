"""Attacks on a server's places, and the honest clients beside them; only trio, no peers.

An attack is a small class: ``name``, ``says`` (its description) and ``hold``, which harms the
server by one connection for as long as the server permits. ``ATTACKS`` is the table of all. A
crowd holds a number of such connections from one address, and replaces each that ended. Honest
clients connect from another address at a steady rate, even if earlier ones were not served.
"""

import base64
import json
import math
import socket
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import trio

ATTACKER = "127.0.0.2"
HONEST = "127.0.0.3"
RECEIVE_BYTES = 4096  # the smallest buffer: the server keeps bytes that a slow reader ignores
AGAIN_S = 1.0  # average pause before an ended connection is replaced
CONNECT_S = 5.0
HONEST_S = 5.0  # an honest client that is not served by then has failed
DRIP_S = 1.0
STUCK_S = 3600.0
PAIRS = ("BTC-USD", "ETH-USD", "SOL-USD")
CHANNELS = ("full", "ticker", "matches", "level2", "heartbeat", "level3")


class Attack(Protocol):
    """One way to harm a server by one connection."""

    name: str
    says: str

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Harm the server until it ends the connection, or the caller does."""
        ...


class Silent:
    """Connect and send nothing."""

    name = "silent"
    says = "connections that send nothing"

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:  # noqa: ARG002
        """Wait for the end."""
        while await stream.receive_some(1024):
            pass


class SlowHeads:
    """Send a header line a second, and never the last."""

    name = "slow heads"
    says = "request heads of one line a second"

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Send one header line after the other."""
        await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
        while True:
            await trio.sleep(DRIP_S * (0.5 + random.random()))
            await stream.send_all(b"A: b\r\n")


class SlowBodies:
    """Send the body of a command byte by byte."""

    name = "slow bodies"
    says = "POST bodies of one byte a second"

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Send the body byte by byte."""
        await stream.send_all(
            b"POST /api/v1/subscribe/BTC-USD HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 60000\r\n\r\n{"
        )
        async with trio.open_nursery() as nursery:

            async def until_answered() -> None:
                while await stream.receive_some(1024):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_answered)
            while True:
                await trio.sleep(DRIP_S * (0.5 + random.random()))
                await stream.send_all(b" ")


class SlowReaders:
    """Request a long answer and read a few bytes of it a second."""

    name = "slow readers"
    says = "answers of history, read 64 bytes a second"

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Read 64 bytes a second."""
        await stream.send_all(
            b"GET /api/v1/history/BTC-USD?limit=100000 HTTP/1.1\r\nHost: localhost\r\n"
            b"Accept: */*\r\n\r\n"
        )
        while await stream.receive_some(64):  # noqa: ASYNC110  # a slow reader, no poll
            await trio.sleep(DRIP_S * (0.5 + random.random()))


class StuckStreams:
    """Open an event stream of topics that no other connection has, and read nothing."""

    name = "stuck streams"
    says = "event streams of different topics that are not read"
    sockets = 250
    subscribes = True

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Wait without reading: bytes that the kernel refuses wait at the server."""
        pairs = [PAIRS[0], *(pair for pair in PAIRS[1:] if random.random() < 0.5)]
        channels = ["full", *(name for name in CHANNELS[1:] if random.random() < 0.5)]
        path = f"/api/v1/stream?pairs={','.join(pairs)}&channels={','.join(channels)}"
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        await stream.send_all(head.encode())
        await trio.sleep(STUCK_S)


class HeavyCommands:
    """Subscribe and unsubscribe 838 products of six channels ten times a second."""

    name = "heavy commands"
    says = "commands of 5,028 topics, ten a second on each connection"
    sockets = 4
    subscribes = True

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:
        """Send without waiting for answers, and read them."""
        key = base64.b64encode(random.randbytes(16)).decode()
        head = (
            "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        )
        await stream.send_all(head.encode())
        frames = [_frame(_heavy(kind)) for kind in ("subscribe", "unsubscribe")]
        async with trio.open_nursery() as nursery:

            async def until_ended() -> None:
                while await stream.receive_some(65536):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_ended)
            while True:
                for frame in frames:
                    await stream.send_all(frame)
                    await trio.sleep(0.1)


class ManyHeavyCommands(HeavyCommands):
    """The same from forty connections."""

    name = "many heavy commands"
    sockets = 40


class LongQueries:
    """Request all of history repeatedly, and read it as fast as it arrives."""

    name = "long queries"
    says = "queries for 100,000 messages of history, one after the other"
    sockets = 40

    async def hold(self, stream: trio.SocketStream, random: Random) -> None:  # noqa: ARG002
        """Read one answer."""
        await stream.send_all(
            b"GET /api/v1/history/BTC-USD?limit=100000&format=csv HTTP/1.1\r\n"
            b"Host: localhost\r\n\r\n"
        )
        while await stream.receive_some(65536):
            pass


def _heavy(kind: str) -> bytes:
    products = [*PAIRS, *(f"A{number}-USD" for number in range(838 - len(PAIRS)))]
    return json.dumps({"type": kind, "product_ids": products, "channels": CHANNELS}).encode()


def _frame(payload: bytes) -> bytes:
    """Return a client's text frame, masked with zeros, of 126 to 65,535 bytes."""
    return b"\x81\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        SlowBodies(),
        SlowReaders(),
        Silent(),
        SlowHeads(),
        StuckStreams(),
        HeavyCommands(),
        ManyHeavyCommands(),
        LongQueries(),
    )
}


@dataclass
class Toll:
    """Counts of a crowd: connections opened, held at most, and ended by the server."""

    opened: int = 0
    held: int = 0
    held_most: int = 0
    ended: int = 0
    refused: int = 0


async def _connect(host: str, port: int, source: str, receive_bytes: int = 0) -> trio.SocketStream:
    sock = trio.socket.socket()
    try:
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        # The kernel chooses the port at connect: thousands in TIME_WAIT do no harm.
        sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        await sock.bind((source, 0))
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def crowd(
    attack: Attack,
    port: int,
    sockets: int,
    toll: Toll,
    random: Random,
    *,
    host: str = "127.0.0.1",
    source: str = ATTACKER,
) -> None:
    """Attack by ``sockets`` connections until cancelled."""

    async def one() -> None:
        await trio.sleep(random.random())
        while True:
            try:
                with trio.fail_after(CONNECT_S):
                    stream = await _connect(host, port, source, RECEIVE_BYTES)
            except (OSError, trio.TooSlowError):
                toll.refused += 1
            else:
                toll.opened += 1
                toll.held += 1
                toll.held_most = max(toll.held_most, toll.held)
                try:
                    async with stream:
                        await attack.hold(stream, random)
                except* (OSError, trio.BrokenResourceError):
                    pass
                finally:
                    toll.held -= 1
                toll.ended += 1
            await trio.sleep(AGAIN_S * 2 * random.random())

    async with trio.open_nursery() as nursery:
        for _ in range(sockets):
            nursery.start_soon(one)


@dataclass
class Service:
    """Figures of the honest clients.

    Attributes:
        took_s: for each served client, from connecting to the end of its visit.
        slowest_s: the longest of these, by kind of visit.
        failures: unserved clients, by kind of visit and fault.
    """

    took_s: list[float] = field(default_factory=list)
    slowest_s: dict[str, float] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def success(self) -> float:
        """Share of clients that were served."""
        return len(self.took_s) / max(len(self.took_s) + self.failures.total(), 1)

    def quantile_ms(self, share: float) -> float:
        """Return the time within which ``share`` of the served clients were served."""
        ranked = sorted(self.took_s)
        return ranked[max(math.ceil(share * len(ranked)) - 1, 0)] * 1000 if ranked else math.inf


async def _rest(stream: trio.SocketStream, path: str) -> str:
    """GET ``path``; return the fault of the answer, or an empty text."""
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    await stream.send_all(head.encode())
    answer = bytearray()
    while data := await stream.receive_some(65536):
        answer += data
    status = bytes(answer[9:12]).decode() or "cut"
    return "" if status == "200" else status


async def _book(stream: trio.SocketStream, random: Random) -> str:  # noqa: ARG001
    return await _rest(stream, "/products/BTC-USD/ticker")


async def _history(stream: trio.SocketStream, random: Random) -> str:  # noqa: ARG001
    return await _rest(stream, "/api/v1/history/BTC-USD?limit=10")


async def _command(stream: trio.SocketStream, random: Random) -> str:
    """Send a command with a body for a stream that does not exist, which only the app can tell."""
    body = json.dumps({"channels": ["ticker"]}).encode()
    key = f"{random.getrandbits(64):x}"
    head = (
        f"POST /api/v1/subscribe/BTC-USD?session={key} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    await stream.send_all(head.encode() + body)
    answer = bytearray()
    while data := await stream.receive_some(65536):
        answer += data
    return "" if b"unknown_session" in answer else bytes(answer[9:12]).decode() or "cut"


async def _stream(stream: trio.SocketStream, random: Random) -> str:
    """Open a WebSocket and wait for its first frame."""
    key = base64.b64encode(random.randbytes(16)).decode()
    head = (
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    await stream.send_all(head.encode())
    answer = bytearray()
    while data := await stream.receive_some(65536):
        answer += data
        if b'"session"' in answer:
            return "" if answer.startswith(b"HTTP/1.1 101 ") else bytes(answer[9:12]).decode()
    return bytes(answer[9:12]).decode() or "cut"


HONEST_VISITS = {"rest": _book, "history": _history, "command": _command, "stream": _stream}


async def serve_honest(
    port: int,
    count: int,
    per_s: float,
    service: Service,
    random: Random,
    *,
    host: str = "127.0.0.1",
    source: str = HONEST,
    visits: tuple[str, ...] = tuple(HONEST_VISITS),
) -> None:
    """Run ``count`` honest clients, ``per_s`` a second, and record the figures of each."""

    async def one(visit: str) -> None:
        begin = trio.current_time()
        fault = "silent"
        with trio.move_on_after(HONEST_S):
            try:
                async with await _connect(host, port, source) as stream:
                    fault = await HONEST_VISITS[visit](stream, random)
            except (OSError, trio.BrokenResourceError) as error:
                fault = type(error.__cause__ or error).__name__
        if fault:
            service.failures[f"{visit}: {fault}"] += 1
        else:
            took_s = trio.current_time() - begin
            service.took_s.append(took_s)
            service.slowest_s[visit] = max(took_s, service.slowest_s.get(visit, 0.0))

    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            await trio.sleep_until(begin + number / per_s)
            nursery.start_soon(one, visits[number % len(visits)])
