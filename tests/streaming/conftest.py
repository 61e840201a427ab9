"""A door with its plane on a real loopback port, and a function to publish messages through it."""

import socket

import pytest
import trio

from hedgehogd.app.daemon import make_instance
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.streams import ReplayStream
from hedgehogd.fanout.instance import Instance
from hedgehogd.protocol.frames import encode_text
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.door import Door, open_listener
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane

CONTROL_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\ncontrol"


def ticker(sequence: int, product: str = "BTC-USD", pad: int = 0) -> bytes:
    """Return a ticker with ``pad`` additional bytes."""
    text = f'{{"type":"ticker","sequence":{sequence},"product_id":"{product}","pad":"{"x" * pad}"}}'
    return text.encode()


def match(sequence: int, trade_id: int, product: str = "BTC-USD") -> bytes:
    """Return a trade."""
    text = (
        f'{{"type":"match","trade_id":{trade_id},"product_id":"{product}","sequence":{sequence}}}'
    )
    return text.encode()


class Served:
    """One plane and its door."""

    def __init__(self, instance: Instance, plane: StreamingPlane, port: int) -> None:
        self.instance = instance
        self.waits_for_bodies = False
        self.accepting = trio.CancelScope()
        self.door: Door | None = None
        self.plane = plane
        self.port = port
        self.control_saw = b""
        self.opened: list[trio.SocketStream] = []
        self._upstream = UpstreamSession()
        self._source = Source(0, held=None)
        self._upstream.connected(self._source)

    async def publish(self, *payloads: bytes) -> None:
        """Publish messages as one upstream batch."""
        frames = [(encode_text(p), p) for p in payloads]
        received = self._upstream.receive(self._source, frames, trio.current_time())
        await self.instance.broker.publish(
            [Delivery(received.messages, received.notices, received.notices_at)]
        )

    async def control(self, stream: ReplayStream) -> None:
        """Answer as a fake of Hypercorn, and close."""
        saw = await stream.receive_some()
        self.control_saw += saw
        try:
            if self.waits_for_bodies and saw.startswith(b"POST"):
                body = b""
                while len(body) < 9:
                    if not (more := await stream.receive_some()):
                        return
                    body += more
            await stream.send_all(CONTROL_ANSWER)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # as Hypercorn does
        await stream.aclose()

    async def all_gone(self) -> None:
        """Wait until no connection is left; fail after 5 s."""
        with trio.fail_after(5):
            while self.instance.counts.visitors or self.plane.outlets:
                await trio.sleep(0.001)

    async def connect(self, source: str = "", **options: int) -> trio.SocketStream:
        """Return a connection to the door; ``options`` are set on its socket before it connects."""
        raw = socket.socket()
        if source:
            raw.bind((source, 0))
        for name, value in options.items():
            raw.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
        sock = trio.socket.from_stdlib_socket(raw)
        await sock.connect(("127.0.0.1", self.port))
        self.opened.append(trio.SocketStream(sock))
        return self.opened[-1]

    async def ask(self, request: str, **options: int | str) -> trio.SocketStream:
        """Send a request with the lines of ``request``, and return the connection."""
        stream = await self.connect(**options)
        lines = [line.strip() for line in request.strip().splitlines()]
        await stream.send_all(("\r\n".join(lines) + "\r\n\r\n").encode())
        return stream

    async def upgrade(self, path: str, **options: int | str) -> trio.SocketStream:
        """Open a WebSocket and return the connection, after the head of the answer."""
        stream = await self.ask(
            f"""GET {path} HTTP/1.1
            Host: test
            Connection: keep-alive, Upgrade
            Upgrade: WebSocket
            Sec-WebSocket-Version: 13
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==""",
            **options,
        )
        head = await read_to(stream, b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return stream


async def read_to(stream: trio.SocketStream, end: bytes) -> bytes:
    """Return the bytes up to and including ``end``, read singly so that no later byte is read."""
    data = b""
    while not data.endswith(end):
        more = await stream.receive_some(1)
        assert more, data
        data += more
    return data


async def read_all(stream: trio.SocketStream) -> bytes:
    """Return all bytes until the peer closes, and close too."""
    data = b""
    while more := await stream.receive_some(65536):
        data += more
    await stream.aclose()
    return data


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """A clock that jumps when nothing has happened for 5 ms of real time.

    The sockets are real: sent bytes may become readable a little later, and a clock that jumps
    at once would overtake them.
    """
    return trio.testing.MockClock(autojump_threshold=0.005)


@pytest.fixture
async def served(nursery: trio.Nursery) -> Served:
    """Serve with default limits."""
    return await serve(nursery)


async def serve(nursery: trio.Nursery, **changes: object) -> Served:
    """Serve; ``changes`` go to the plane, to the outlets' settings, or to the fake of Hypercorn."""
    waits_for_bodies = changes.pop("waits_for_bodies", False)
    trusted = changes.pop("trusted", ())
    instance = make_instance(Settings())
    outlet_names = {"backlog_bytes_max", "backlog_age_max_s"}
    outlet_changes = {name: changes.pop(name) for name in outlet_names & changes.keys()}
    budget = instance.pipe.budget
    budget.bytes_max = changes.pop("waiting_bytes_max", budget.bytes_max)
    settings = OutletSettings(nursery, instance.counts, budget=budget, **outlet_changes)
    plane = StreamingPlane(instance, settings, **changes)
    listener = open_listener("127.0.0.1", 0)
    served = Served(instance, plane, listener.getsockname()[1])
    served.waits_for_bodies = waits_for_bodies
    door = served.door = Door(plane, served.control, trusted)
    served.accepting = await nursery.start(door.run, listener, nursery)
    return served
