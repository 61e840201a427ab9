"""Client frames and commands: the possible input of a WebSocket subscriber after its handshake.

The plane, sessions and outlets are the real ones; the socket is a list of reads and a record
of writes. For any input the server's bytes are whole frames of JSON, the connection stays usable
or is closed with a code, and no bug is counted.
"""

import zlib
from itertools import count
from random import Random

import msgspec
import trio
from trio.testing import MockClock

from hedgehogd.app.daemon import make_instance
from hedgehogd.domain.channel import CHANNELS, PRIVATE_CHANNELS
from hedgehogd.protocol.frames import FrameScanner
from hedgehogd.protocol.wire import (
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
    WEBSOCKET_STRICT_DEFLATE,
)
from hedgehogd.settings.keys import Settings
from hedgehogd.streaming.connection import Reader
from hedgehogd.streaming.outlet import OutletSettings
from hedgehogd.streaming.plane import StreamingPlane
from hedgehogd.streaming.request import StreamRequest
from tests.fuzz.mutate import changed, damaged, odd_value, pieces, text_of

_FORMS = (WEBSOCKET, WEBSOCKET_STRICT, WEBSOCKET_DEFLATE, WEBSOCKET_STRICT_DEFLATE)
_OFFER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
_CHANNEL_NAMES = [c.name for c in CHANNELS] + [
    "level2_50",
    "ticker_1000",
    "nothing",
    *PRIVATE_CHANNELS,
]
_PRODUCT_IDS = ("BTC-USD", "ETH-USD", "btc-usd", "NOT-LISTED", "ALL", "", "x")
_FRAMES_PER_CLIENT_MAX = 30
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class Socket:
    """The client's end: the data of its reads, and the bytes that the server wrote."""

    def __init__(self, reads: list[bytes]) -> None:
        self._reads = reads
        self.written = bytearray()

    async def recv(self, size: int) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._reads:
            return b""
        data = self._reads.pop(0)
        if len(data) > size:
            self._reads.insert(0, data[size:])
        return data[:size]

    def send(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def shutdown(self, how: int) -> None:
        pass


def command(random: Random) -> str:
    """Return one command, often a valid one."""
    channels = []
    for _ in range(random.randint(0, 4)):
        name = random.choice(_CHANNEL_NAMES)
        if random.random() < 0.5:
            channels.append(name)
            continue
        item = {"name": name, "product_ids": _some(random, _PRODUCT_IDS)}
        if random.random() < 0.3:
            item["policy"] = random.choice(("close", "conflate", "else"))
        if random.random() < 0.3:
            item["since"] = {p: random.choice((0, 5, 2**53)) for p in _some(random, _PRODUCT_IDS)}
        if random.random() < 0.2:
            item["strict"] = random.choice((True, False, "true"))
        channels.append(item)
    value = {
        "type": random.choice(("subscribe", "subscribe", "unsubscribe", "auth")),
        "product_ids": _some(random, _PRODUCT_IDS),
        "channels": channels,
    }
    if random.random() < 0.1:
        value |= {"signature": "x", "key": "k", "passphrase": "p", "timestamp": odd_value(random)}
    return text_of(random, changed(random, value, random.choice((0.0, 0.02, 0.1, 0.4))))


def _some(random: Random, of) -> list:
    return [random.choice(of) for _ in range(random.choice((0, 1, 1, 2, 5)))]


def frame(
    random: Random, opcode: int, payload: bytes, *, is_last: bool = True, rsv: int = 0
) -> bytes:
    """Return a masked frame; sometimes one that breaks a rule."""
    first = (0x80 if is_last else 0) | rsv | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    if random.random() < 0.01:  # an unmasked one
        return bytes((head[0], head[1] & 0x7F)) + head[2:] + payload
    mask = random.randbytes(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return head + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def client_frames(random: Random, *, deflates: bool) -> bytes:
    """Return the frames of one message, or of another input of a client."""
    kind = random.random()
    if kind < 0.06:
        return frame(
            random, random.choice((_PING, _PONG)), random.randbytes(random.choice((0, 4, 125)))
        )
    if kind < 0.08:
        body = random.choice(
            (b"", b"\x03", b"\x03\xe8", b"\x03\xe8bye", b"\x00\x01", b"\x13\x88\xff")
        )
        return frame(random, _CLOSE, body)
    if kind < 0.10:
        return frame(random, random.choice((_BINARY, 3, 11, 15)), b"x")
    if kind < 0.11:
        return random.randbytes(random.randint(1, 40))
    payload = command(random).encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        payload = damaged(random, payload)
    if random.random() < 0.002:
        payload = payload * (70_000 // max(1, len(payload)) + 1)
    rsv = 0
    if deflates and random.random() < 0.3:
        packer = zlib.compressobj(wbits=-15)
        payload = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        if random.random() < 0.1:
            payload = damaged(random, payload)
        rsv = 0x40
    elif random.random() < 0.01:
        rsv = random.choice((0x10, 0x20, 0x40))
    if random.random() < 0.1 and payload:
        at = random.randrange(len(payload))
        between = frame(random, _PING, b"between") if random.random() < 0.5 else b""
        return (
            frame(random, _TEXT, payload[:at], is_last=False, rsv=rsv)
            + between
            + frame(random, 0, payload[at:], is_last=random.random() < 0.95)
        )
    return frame(random, _TEXT, payload, rsv=rsv)


def check_answers(written: bytes) -> None:
    """Check that the server's bytes are whole frames, and its texts JSON objects."""
    messages, _ = FrameScanner(10_000_000).receive(bytes(written))
    for _, payload in messages:
        value = msgspec.json.decode(payload)
        assert isinstance(value, dict)
        assert isinstance(value["type"], str)


async def _run(random: Random, inputs: int) -> int:
    fed = 0
    async with trio.open_nursery() as nursery:
        instance = make_instance(Settings())
        instance.pipe.catalogue.replace(frozenset({"BTC-USD", "ETH-USD"}))
        plane = StreamingPlane(instance, OutletSettings(nursery, instance.counts))
        for number in count():
            if fed >= inputs:
                break
            form = random.choice(_FORMS)
            is_strict = form in (WEBSOCKET_STRICT, WEBSOCKET_STRICT_DEFLATE)
            extensions = _OFFER if form.deflates else b""
            request = StreamRequest(form, None, b"k", is_strict, "", extensions)
            frames = random.randint(1, _FRAMES_PER_CLIENT_MAX)
            stream = b"".join(client_frames(random, deflates=form.deflates) for _ in range(frames))
            fed += frames
            socket = Socket(pieces(random, stream))
            outlet, session = plane.new_stream(socket, form, f"192.0.2.{number % 250}")
            plane.enter(outlet, session)
            reader = Reader(plane, outlet, request)
            with outlet.reading:
                await reader.run(socket, b"")
                outlet.lose("peer_gone")
            plane.leave(outlet)
            check_answers(socket.written)
        assert not plane.outlets
        assert not instance.counts.refusals["bug"]
        nursery.cancel_scope.cancel()
    return fed


def fuzz_client(random: Random, inputs: int) -> int:
    """Send ``inputs`` frames from clients of one plane."""
    return trio.run(_run, random, inputs, clock=MockClock(autojump_threshold=0))
