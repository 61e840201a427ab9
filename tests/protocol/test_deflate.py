"""permessage-deflate: the negotiation, and compatibility with independent implementations."""

import json
import random
import tracemalloc
import zlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode, ParseFailed

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.deflate import (
    DEFLATE_BYTES_MIN,
    Inflater,
    answer_offers,
    deflate_frame,
    deflated,
)
from hedgehogd.protocol.frames import encode_text

MESSAGE_BYTES_MAX = 64 * 1024
ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"
ANSWER_15 = ANSWER + b"; server_max_window_bits=15"


def inflate(data: bytes) -> bytes:
    """Inflate one message as in RFC 7692 §7.2.2, without the window of earlier messages."""
    return zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff")


def deflate(data: bytes, level: int = 6, *, is_final: bool = False) -> bytes:
    """Deflate one message as a client does, optionally with its last block marked as final."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    if is_final:
        return compressor.compress(data) + compressor.flush() + b"\x00"
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


def frame(first: int, payload: bytes) -> bytes:
    """Return a client's frame, with a mask of zeros."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes((first,)) + length + bytes(4) + payload


def receive(data: bytes, read_bytes: int = 4096, *, frames: FrameProtocol | None = None) -> list:
    """Return ``(opcode, payload)`` of each message in a client's bytes, read in pieces."""
    if frames is None:
        frames = FrameProtocol(client=False, extensions=[Inflater(MESSAGE_BYTES_MAX)])
    messages, text = [], ""
    for at in range(0, len(data), read_bytes):
        frames.receive_bytes(data[at : at + read_bytes])
        for part in frames.received_frames():
            if part.opcode is Opcode.TEXT:
                text += part.payload
                if part.message_finished:
                    messages.append((Opcode.TEXT, text))
                    text = ""
            else:
                messages.append((part.opcode, bytes(part.payload)))
    return messages


OFFERS = {
    # RFC 7692 §7.1 and §5.1
    b"permessage-deflate": ANSWER,
    b"permessage-deflate; client_max_window_bits; server_max_window_bits=10": b"",
    b"permessage-deflate; client_max_window_bits; server_max_window_bits=10,"
    b" permessage-deflate; client_max_window_bits": ANSWER,
    b"permessage-deflate; server_no_context_takeover, permessage-deflate": ANSWER,
    # offers of browsers, ws, websockets, old Safari, wsproto and websocket-client
    b"permessage-deflate; client_max_window_bits": ANSWER,
    b"x-webkit-deflate-frame, permessage-deflate; client_max_window_bits": ANSWER,
    b"permessage-deflate; client_max_window_bits=15; server_max_window_bits=15": ANSWER_15,
    b"permessage-deflate; client_no_context_takeover; server_no_context_takeover": ANSWER,
    b"": b"",
    # the first acceptable offer at any place; other extensions are ignored
    b"permessage-deflate; server_max_window_bits=9, permessage-deflate;"
    b" server_max_window_bits=15, permessage-deflate": ANSWER_15,
    b"permessage-bzip2": b"",
    b"permessage-bzip2; a=b, permessage-deflate, permessage-deflate; x": ANSWER,
    b'mux; max="a,permessage-deflate", other': b"",
    b'mux; max="a\\",permessage-deflate"': b"",
    b'mux; a="x;y\\\\", permessage-deflate': ANSWER,
    b"permessage-deflate-2": b"",
    b"Permessage-Deflate": b"",
    # windows
    b"permessage-deflate; server_max_window_bits=15": ANSWER_15,
    b"permessage-deflate; server_max_window_bits=14": b"",
    b"permessage-deflate; server_max_window_bits=8": b"",
    b"permessage-deflate; server_max_window_bits": b"",
    b"permessage-deflate; server_max_window_bits=16": b"",
    b"permessage-deflate; server_max_window_bits=015": b"",
    b"permessage-deflate; server_max_window_bits=fifteen": b"",
    b"permessage-deflate; client_max_window_bits=8": ANSWER,
    b"permessage-deflate; client_max_window_bits=7": b"",
    b"permessage-deflate; client_max_window_bits=16": b"",
    b"permessage-deflate; client_max_window_bits=08": b"",
    # values may be quoted, with escapes inside
    b'permessage-deflate; client_max_window_bits="12"': ANSWER,
    b'permessage-deflate; server_max_window_bits="1\\5"': ANSWER_15,
    b'permessage-deflate; server_max_window_bits="10"': b"",
    b'permessage-deflate; client_max_window_bits="12': b"",
    b'permessage-deflate; client_max_window_bits=""': b"",
    b'permessage-deflate; client_max_window_bits="12, 13"': b"",
    # white space
    b" permessage-deflate\t;client_max_window_bits ": ANSWER,
    b"permessage-deflate ; client_max_window_bits = 12 , x": ANSWER,
    b",, permessage-deflate ,": ANSWER,
    # offers that must be declined (RFC 7692 §7.1)
    b"permessage-deflate; unknown": b"",
    b"permessage-deflate; unknown=1": b"",
    b"permessage-deflate; server_no_context_takeover; server_no_context_takeover": b"",
    b"permessage-deflate; client_max_window_bits; client_max_window_bits=10": b"",
    b"permessage-deflate; server_no_context_takeover=1": b"",
    b"permessage-deflate; client_no_context_takeover=true": b"",
    # invalid lists of extensions
    b"permessage-deflate;": b"",
    b"permessage-deflate; =15": b"",
    b"permessage-deflate; client_max_window_bits=": b"",
    b"permessage-deflate client_max_window_bits": b"",
    b"permessage-deflate=1": b"",
    b'"permessage-deflate"': b"",
    b";": b"",
    b"\xff": b"",
    b"permessage-deflate; \xe9=1, permessage-deflate": ANSWER,
}


@pytest.mark.parametrize("offers", OFFERS)
def test_the_first_acceptable_offer_is_accepted(offers: bytes) -> None:
    """After a declined offer the connection continues without compression."""
    assert OFFERS[offers] == answer_offers(offers)


@pytest.mark.parametrize("piece", [b'"', b'\\"', b'"\\', b",", b';"', b'x="', b"a ", b" ", b"a;"])
def test_a_head_designed_for_backtracking_is_parsed_fast(piece: bytes) -> None:
    """A head may have 16 KiB, for which a backtracking pattern would need minutes."""
    offers = b"permessage-deflate; " + piece * (16 * 1024 // len(piece)) + b"\x00"

    assert answer_offers(offers) == b""


@given(st.text(max_size=200).map(str.encode) | st.binary(max_size=200))
def test_any_header_can_be_answered(offers: bytes) -> None:
    """No input of a peer may raise an exception."""
    assert answer_offers(offers) in {b"", ANSWER, ANSWER_15}


def peers() -> list:
    """Return two readers of a server's frame: one with zlib only, and wsproto's client."""
    extension = PerMessageDeflate()
    extension.finalize(ANSWER.decode())
    client = FrameProtocol(client=True, extensions=[extension])

    def by_hand(data: bytes) -> str:
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        assert (data[0], len(data)) == (0xC1, start + length)
        return inflate(data[start:]).decode()

    def by_wsproto(data: bytes) -> str:
        client.receive_bytes(data)
        [part] = client.received_frames()
        assert part.message_finished
        return part.payload

    return [by_hand, by_wsproto]


@given(st.lists(st.text() | st.text().map(lambda text: text * 1000), min_size=1, max_size=3))
def test_independent_readers_inflate_our_frames(texts: list[str]) -> None:
    """Each message is inflated alone: the one before may have been lost, or uncompressed."""
    for read in peers():
        assert texts == [read(deflate_frame(text.encode())) for text in texts]


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536, 1_000_000])
def test_the_frame_length_is_that_of_the_compressed_data(size: int) -> None:
    """Hexadecimal noise shrinks by half, so that all forms of length occur."""
    text = "".join(f"{n * 2654435761 % 2**32:08x}" for n in range(size // 8))[:size]
    for read in peers():
        assert text == read(deflate_frame(text.encode()))


def message_of(payload: bytes) -> Message:
    return Message(Topic("level2", "BTC-USD"), "snapshot", encode_text(payload), payload)


def snapshot(levels: int) -> bytes:
    rows = [[f"{60_000 + n / 100:.2f}", f"{n * 7919 % 10_000 / 10_000:.8f}"] for n in range(levels)]
    return json.dumps({"type": "snapshot", "product_id": "BTC-USD", "asks": rows}).encode()


def test_a_large_message_shrinks_to_a_third() -> None:
    """The frame equals the result of ``deflate_frame``."""
    message = message_of(snapshot(1000))
    frame = deflated(message)

    assert frame is not None
    assert deflate_frame(message.payload) == frame
    assert len(frame) < len(message.frame) * 0.4


def test_a_small_message_is_not_compressed() -> None:
    """It would hardly shrink, and its shared frame already exists (COINBASE §2)."""
    assert deflated(message_of(b" " * (DEFLATE_BYTES_MIN - 1))) is None
    assert deflated(message_of(b" " * DEFLATE_BYTES_MIN)) is not None


def test_an_incompressible_message_is_not_compressed() -> None:
    """Its uncompressed frame is no larger, and all subscribers share it."""
    payload = random.Random(1).randbytes(2 * DEFLATE_BYTES_MIN)

    assert len(deflate_frame(payload)) >= len(encode_text(payload))
    assert deflated(message_of(payload)) is None


texts = st.text(max_size=300)


@settings(max_examples=200)
@given(
    sent=st.lists(st.tuples(texts, st.booleans(), st.booleans()), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    level=st.integers(0, 9),
    read_bytes=st.integers(1, 40),
)
def test_messages_of_clients_are_inflated(
    sent: list[tuple[str, bool, bool]], cuts: list[int], level: int, read_bytes: int
) -> None:
    """This holds with or without compression, in any fragments and reads, and between pings."""
    data, expected = b"", []
    for text, is_deflated, is_final in sent:
        raw = text.encode()
        body = deflate(raw, level, is_final=is_final) if is_deflated else raw
        edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
        for index, (begin, end) in enumerate(pairwise(edges)):
            opcode = (0x40 * is_deflated | 0x01) if index == 0 else 0x00
            is_last = index == len(edges) - 2
            data += frame(opcode | 0x80 * is_last, body[begin:end])
            if not is_last:
                data += frame(0x89, b"?")
                expected.append((Opcode.PING, b"?"))
        expected.append((Opcode.TEXT, text))

    assert expected == receive(data, read_bytes)


@pytest.mark.parametrize("bits", [9, 12, 15])
def test_messages_of_wsprotos_client_are_inflated(bits: int) -> None:
    """It may use a smaller window than allowed, without offering it."""
    extension = PerMessageDeflate(client_max_window_bits=bits)
    extension.finalize(ANSWER.decode())
    client = FrameProtocol(client=True, extensions=[extension])
    sent = ['{"type":"subscribe"}', "", "é" * 20_000]
    data = b"".join(client.send_data(text) for text in sent)
    data += client.send_data("in ", fin=False) + client.ping(b"!") + client.send_data("two")

    assert receive(data) == [
        *((Opcode.TEXT, text) for text in sent),
        (Opcode.PING, b"!"),
        (Opcode.TEXT, "in two"),
    ]


EXAMPLES = {  # RFC 7692 §7.2.3: the second message of §7.2.3.2 needs a window, which we decline
    "one block": frame(0xC1, bytes.fromhex("f248cdc9c90700")),
    "fragments": frame(0x41, bytes.fromhex("f248cd")) + frame(0x80, bytes.fromhex("c9c90700")),
    "no compression": frame(0xC1, bytes.fromhex("000500faff48656c6c6f00")),
    "BFINAL": frame(0xC1, bytes.fromhex("f348cdc9c9070000")),
    "two blocks": frame(0xC1, bytes.fromhex("f24805000000ffffcac9c90700")),
}


@pytest.mark.parametrize("case", EXAMPLES)
def test_the_examples_of_the_standard_are_inflated(case: str) -> None:
    """Each example is "Hello", and is sent twice on one connection."""
    assert [(Opcode.TEXT, "Hello")] * 2 == receive(EXAMPLES[case] * 2)


@pytest.mark.parametrize("body", [b"", b"\x00", deflate(b""), deflate(b"", is_final=True)])
def test_an_empty_message_is_received(body: bytes) -> None:
    """A client may compress an empty message in several ways."""
    assert [(Opcode.TEXT, "")] == receive(frame(0xC1, body))


def test_binary_messages_are_inflated_too() -> None:
    """The caller may refuse a binary message because of its type."""
    assert [(Opcode.BINARY, b"x" * 300)] == receive(frame(0xC2, deflate(b"x" * 300)))


BROKEN = {
    "RSV1 on a continuation": (frame(0x41, deflate(b"{}")) + frame(0xC0, b""), 1002),
    "RSV1 on a later continuation": (frame(0x01, b"{") + frame(0xC0, deflate(b"}")), 1002),
    "RSV1 on a ping": (frame(0xC9, b""), 1002),
    "RSV2": (frame(0xA1, deflate(b"{}")), 1002),
    "RSV3": (frame(0xD1, deflate(b"{}")), 1002),
    "a continuation without a first frame": (
        frame(0xC1, deflate(b"{}")) + frame(0x80, b"\xff"),
        1002,
    ),
    "a message inside a message": (frame(0x41, b"") + frame(0xC1, deflate(b"{}")), 1002),
    "no deflate data": (frame(0xC1, b"\xff\xff"), 1007),
    "not UTF-8": (frame(0xC1, deflate(b"\xff")), 1007),
    "half a character": (frame(0xC1, deflate("é".encode()[:1])), 1007),
    "a window of the message before": (
        frame(0xC1, bytes.fromhex("f248cdc9c90700")) + frame(0xC1, bytes.fromhex("f200110000")),
        1007,
    ),
    "one byte too many": (frame(0xC1, deflate(b" " * (MESSAGE_BYTES_MAX + 1))), 1009),
    "too many in fragments": (
        frame(0x41, deflate(b" " * (MESSAGE_BYTES_MAX + 1))[:60])
        + frame(0x80, deflate(b" " * (MESSAGE_BYTES_MAX + 1))[60:]),
        1009,
    ),
    "too many after a final block": (
        frame(0xC1, deflate(b" " * MESSAGE_BYTES_MAX, is_final=True)[:-1] + deflate(b"  ")),
        1009,
    ),
}


@pytest.mark.parametrize("read_bytes", [1, 4096])
@pytest.mark.parametrize("case", BROKEN)
def test_an_invalid_message_has_its_close_code(case: str, read_bytes: int) -> None:
    """The codes are those of RFC 7692 §6 and RFC 6455 §7.4.1."""
    data, code = BROKEN[case]
    with pytest.raises(ParseFailed) as caught:
        receive(data, read_bytes)

    assert code == caught.value.code


def test_several_messages_of_the_largest_size_are_received() -> None:
    """The limit applies to each message separately."""
    text = " " * MESSAGE_BYTES_MAX

    assert [(Opcode.TEXT, text)] * 3 == receive(frame(0xC1, deflate(text.encode())) * 3)


@pytest.mark.parametrize("read_bytes", [4096, 16_384])
def test_a_compression_bomb_uses_little_memory(read_bytes: int) -> None:
    """Sixteen reads could inflate to 64 MB; only the first 64 KiB are inflated."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = compressor.compress(bytes(1_000_000)) + compressor.flush(zlib.Z_FULL_FLUSH)
    bomb = frame(0xC1, part * 64)
    frames = FrameProtocol(client=False, extensions=[Inflater(MESSAGE_BYTES_MAX)])
    tracemalloc.start()
    try:
        with pytest.raises(ParseFailed, match="message too big"):
            receive(bomb, read_bytes, frames=frames)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 512 * 1024


def test_several_final_blocks_may_follow_one_another() -> None:
    """Each one ends a deflate stream, and the next begins another, at the end of a read too."""
    hello = deflate(b"hello ", is_final=True)[:-1]

    assert [(Opcode.TEXT, "hello " * 20)] == receive(frame(0xC1, hello * 20 + b"\x00"), 7)


def test_a_client_without_compressed_messages_has_no_zlib_stream() -> None:
    """A stream takes 7 KB, 40 KB in use; most clients send few, uncompressed messages."""
    inflater = Inflater(MESSAGE_BYTES_MAX)
    frames = FrameProtocol(client=False, extensions=[inflater])
    receive(frame(0x81, b"{}"), frames=frames)
    assert inflater._stream is None

    receive(frame(0x41, deflate(b"{}")), frames=frames)
    assert inflater._stream is not None
    receive(frame(0x80, b""), frames=frames)
    assert inflater._stream is None


def test_a_server_makes_no_offer() -> None:
    """A server only answers the offers of clients."""
    assert not Inflater(MESSAGE_BYTES_MAX).offer()
