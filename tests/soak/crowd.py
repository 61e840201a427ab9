"""300 subscribers of all kinds that connect, resume, lag and die; and requests beside them.

Each has a loopback address of its own. The crowd discards the messages it receives: this
test measures memory, and other tests compare messages. All random choices
come from one seed; their times depend on the machine.
"""

import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from random import Random

import msgspec
import trio

from tests.e2e.harness import WEBSOCKET_HEADERS
from tests.soak.daemon import connect
from tests.systemd.stream_bytes import PONG_HEAD, TEXT_HEAD, masked

SIZE = 300
KINDS = ("ws", "strict", "sse", "ndjson")
_TOPICS = (
    (("BTC-USD",), ("ticker", "matches")),
    (("ETH-USD", "SOL-USD"), ("ticker", "matches", "heartbeat")),
    (("DOGE-USD",), ("level2_batch", "ticker")),
    (("LTC-USD",), ("level2", "matches")),
    (("ADA-USD",), ("full",)),
    (("XRP-USD", "LINK-USD"), ("ticker_batch", "rfq_matches", "auctionfeed", "status")),
    (("AVAX-USD", "ETH-EUR", "ETH-BTC"), ("level3", "ticker", "matches")),
)  # fmt: skip
_FIREHOSE = (("BTC-USD", "ETH-USD", "SOL-USD"), ("level2", "ticker", "matches"))
_ACCEPT = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}
_READ_BYTES = 65_536
_PONG_EVERY_S = 20.0
_HEAD_S = 20.0
_SLOW_S_MAX = 20.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a reset, as the kernel sends for a killed process
_BAD_HEADS = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\n",  # never ends
    b"BREW /pot HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /api/v1/subscribe/BTC-USD HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
)


class Crowd:
    """The subscribers, and the acts that change them.

    Args:
        port: the daemon's port.
        seed: of all random choices.

    Attributes:
        done: number of acts, by name, for the report.
        problems: number of faults, by text.
    """

    def __init__(self, port: int, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.problems: Counter[str] = Counter()
        self._port = port
        self._random = Random(seed)
        self._addresses = count()
        self._open: dict[int, Subscriber] = {}  # by its place in the crowd
        self._busy = 0  # acts that run
        self._is_calm = False

    async def run(self, acts_per_s: float) -> None:
        """Replace ended subscribers, and do ``acts_per_s`` acts, until cancelled."""
        async with trio.open_nursery() as nursery:
            for place in range(SIZE):
                nursery.start_soon(self._stay, place)
            while True:
                await trio.sleep(self._random.expovariate(acts_per_s))
                if not self._is_calm:
                    nursery.start_soon(self._act)

    async def calm_down(self) -> bool:
        """Start no more acts, and wait until exactly the whole crowd is connected.

        Returns:
            False on a time-out; ``problems`` counts it.
        """
        self._is_calm = True
        with trio.move_on_after(_SLOW_S_MAX + 2 * _HEAD_S):
            while self._busy or len(self._open) < SIZE:
                await trio.sleep(0.1)
            return True
        self.problems["not calm in time"] += 1
        return False

    def go_on(self) -> None:
        """Start acts again."""
        self._is_calm = False

    async def _stay(self, place: int) -> None:
        kind = KINDS[place % len(KINDS)]
        topics = _TOPICS[place % len(_TOPICS)]
        policy = "conflate" if place % 3 == 0 and kind in ("ws", "sse") else "close"
        position = ""
        while True:
            try:
                subscriber = await self._subscribe(kind, topics, policy, position)
            except Unserved as error:
                self.problems[f"{kind} {position} not served: {error}"] += 1
                position = ""
                await trio.sleep(1.0)
                continue
            self._open[place] = subscriber
            try:
                ended_by = await subscriber.read()
            finally:
                del self._open[place]
                subscriber.hang_up()
            self.done[f"ended: {ended_by}"] += 1
            position = self._random.choice(("", "since=-5s", "since=-2m"))

    async def _subscribe(
        self, kind: str, topics: tuple[Sequence[str], Sequence[str]], policy: str, position: str
    ) -> "Subscriber":
        """Open a stream.

        Raises:
            Unserved: the daemon does not serve it.
        """
        pairs, channels = topics
        path, rows = ("/ws" if kind == "ws" else "/ws-feed"), WEBSOCKET_HEADERS
        if kind in _ACCEPT:
            path = f"/api/v1/stream?pairs={','.join(pairs)}&channels={','.join(channels)}"
            path += f"&policy={policy}" * (kind == "sse") + f"&{position}" * bool(position)
            rows = (f"Accept: {_ACCEPT[kind]}",)
        lines = (f"GET {path} HTTP/1.1", "Host: localhost", *rows, "", "")
        stream, status, head = await self._ask("\r\n".join(lines).encode())
        subscriber = Subscriber(kind, stream, head)
        if status not in (200, 101):
            subscriber.hang_up()
            raise Unserved(str(status))
        if kind not in _ACCEPT:
            wanted = [{"name": name, "product_ids": pairs} for name in channels]
            if kind == "ws":
                wanted = [{**each, "policy": policy} for each in wanted]
            await subscriber.send({"type": "subscribe", "channels": wanted})
        return subscriber

    async def _ask(self, request: bytes) -> tuple[trio.SocketStream, int, str]:
        """Send a request; return connection, status and head of the answer.

        Raises:
            Unserved: there is no answer.
        """
        stream: trio.SocketStream | None = None
        try:
            with trio.fail_after(_HEAD_S):
                stream = await connect(self._port, next(self._addresses))
                await stream.send_all(request)
                answer = b""
                while b"\r\n\r\n" not in answer:
                    data = await stream.receive_some(_READ_BYTES)
                    if not data:
                        raise Unserved("no answer")
                    answer += data
        except BaseException as error:
            if stream is not None:
                stream.socket.close()
            if isinstance(error, OSError | trio.BrokenResourceError | trio.TooSlowError):
                raise Unserved(type(error).__name__) from None
            raise
        return stream, int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[0].decode()

    async def _act(self) -> None:
        """Do one act."""
        act = self._random.choice((
            self._leave, self._die, self._lag, self._command, self._command, self._request,
            self._request, self._request, self._control, self._break_off,
        ))  # fmt: skip
        self._busy += 1
        try:
            await act()
        except Unserved as error:
            self.problems[f"{act.__name__[1:]}: {error}"] += 1
        else:
            self.done[act.__name__[1:]] += 1
        finally:
            self._busy -= 1

    def _anyone(self) -> "Subscriber | None":
        return self._random.choice(list(self._open.values())) if self._open else None

    async def _leave(self) -> None:
        """One subscriber closes its connection."""
        if subscriber := self._anyone():
            subscriber.leave("left")

    async def _die(self) -> None:
        """One subscriber's process is killed: its kernel resets the connection."""
        if subscriber := self._anyone():
            subscriber.reset()
            subscriber.leave("killed")

    async def _lag(self) -> None:
        """One more subscriber connects, subscribes to much, and does not read."""
        kind = self._random.choice(KINDS)
        policy = self._random.choice(("close", "conflate"))
        subscriber = await self._subscribe(kind, _FIREHOSE, policy, "since=-20s")
        await trio.sleep(self._random.uniform(1, _SLOW_S_MAX))
        if self._random.random() < 0.5:
            subscriber.reset()
        subscriber.hang_up()

    async def _command(self) -> None:
        """One WebSocket subscriber adds a topic, removes it, and sends a wrong command."""
        subscriber = self._anyone()
        if subscriber is None or subscriber.kind in _ACCEPT:
            return
        # Pairs that no subscriber of the crowd has, so that the crowd's topics stay the same.
        pair = self._random.choice(("BTC-EUR", f"N{self._random.randrange(10**6)}-USD"))
        channel = self._random.choice(("ticker", "level2", "heartbeat", "full", "nothing"))
        for kind in ("subscribe", self._random.choice(("subscribe", "shout")), "unsubscribe"):
            command = {"type": kind, "product_ids": [pair], "channels": [channel]}
            await subscriber.send(command)
            await trio.sleep(self._random.uniform(0, 0.5))

    async def _request(self) -> None:
        """One client reads by REST."""
        number = self._random.randrange(10**6)
        pair = self._random.choice(("BTC-USD", "ADA-USD", "DOGE-USD", f"N{number}-USD"))
        target = self._random.choice((
            "/", "/healthz", "/readyz", "/products", "/time", f"/nowhere/{number}",
            f"/products/{pair}", f"/products/{pair}/ticker", f"/products/{pair}/stats",
            f"/products/{pair}/book?level={self._random.choice((1, 2, 3))}",
            f"/products/{pair}/trades?limit=10&before={number % 40}", f"/currencies/N{number}",
            f"/products/{pair}/candles?granularity=60", f"/api/v1/sessions/1.{number}",
            f"/api/v1/history/{pair}?channel=matches", f"/api/v1/subscribe/{pair}?format={number}",
        ))  # fmt: skip
        await self._rest("GET", target)

    async def _control(self) -> None:
        """One client starts and stops a pair on a stream, or on no stream."""
        subscriber = self._anyone()
        session = subscriber.session if subscriber else ""
        if self._random.random() < 0.3:
            session = f"1.{self._random.randrange(10**9)}"
        pair = self._random.choice(("BTC-EUR", f"N{self._random.randrange(10**6)}-USD"))
        for method in ("POST", "GET", "DELETE"):
            path = f"/api/v1/subscribe/{pair}" if method != "GET" else f"/api/v1/sessions/{session}"
            await self._rest(method, path, f"Hedgehog-Session: {session}")

    async def _rest(self, method: str, target: str, *rows: str) -> None:
        lines = (f"{method} {target} HTTP/1.1", "Host: localhost", "Accept: */*", *rows)
        request = "\r\n".join((*lines, "Content-Length: 0", "", "")).encode()
        stream, status, _ = await self._ask(request)
        try:
            with trio.move_on_after(_HEAD_S):
                while await stream.receive_some(_READ_BYTES):
                    pass
        except trio.BrokenResourceError:
            pass
        finally:
            stream.socket.close()
        if status == 500:
            self.problems[f"500: {method} {target}"] += 1

    async def _break_off(self) -> None:
        """One client sends an incomplete or wrong request, and closes."""
        head = self._random.choice(_BAD_HEADS)
        try:
            stream = await connect(self._port, next(self._addresses))
        except OSError as error:
            raise Unserved(type(error).__name__) from None
        try:
            with trio.move_on_after(self._random.uniform(0, 3)):
                await stream.send_all(head)
                await stream.receive_some(_READ_BYTES)
        except trio.BrokenResourceError:
            pass
        finally:
            stream.socket.close()


class Unserved(Exception):
    """The daemon did not answer, or answered wrongly."""


class Subscriber:
    """One open stream.

    Attributes:
        kind: one of ``KINDS``.
        session: its id.
    """

    def __init__(self, kind: str, stream: trio.SocketStream, head: str) -> None:
        self.kind = kind
        self.session = ""
        for line in head.split("\r\n"):
            name, _, value = line.partition(": ")
            if name.lower() == "hedgehog-session":
                self.session = value
        self._stream = stream
        self._reading: trio.CancelScope | None = None
        self._left = "closed"
        self._buffer = bytearray(_READ_BYTES)

    async def read(self) -> str:
        """Read until the stream ends or the subscriber leaves; return the cause."""
        pong_at = trio.current_time() + _PONG_EVERY_S
        with trio.CancelScope() as self._reading:
            try:
                while await self._stream.socket.recv_into(self._buffer):
                    if self.kind not in _ACCEPT and trio.current_time() >= pong_at:
                        pong_at = trio.current_time() + _PONG_EVERY_S
                        await self._stream.send_all(masked(PONG_HEAD, b""))
            except (OSError, trio.BrokenResourceError, trio.BusyResourceError):
                pass
        return self._left

    async def send(self, command: object) -> None:
        """Send a command; no effect on a stream that has ended."""
        ended = (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError)
        with suppress(*ended):
            await self._stream.send_all(masked(TEXT_HEAD, msgspec.json.encode(command)))

    def leave(self, how: str) -> None:
        """End ``read``, which returns ``how``."""
        self._left = how
        if self._reading is not None:
            self._reading.cancel()

    def reset(self) -> None:
        """Let the connection end by a reset instead of a close."""
        if self._stream.socket.fileno() >= 0:
            self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def hang_up(self) -> None:
        """Close the connection without a close frame."""
        self._stream.socket.close()
