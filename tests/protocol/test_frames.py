"""WebSocket frames: extracted from the upstream's bytes for any split of these into reads."""

import re
from itertools import pairwise
from sys import getsizeof

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, Opcode

from hedgehogd.protocol.frames import (
    FrameError,
    FrameScanner,
    encode_close,
    encode_ping,
    encode_pong,
    encode_text,
)

MAX = 1 << 20
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA


def frame(opcode, payload=b"", *, fin=True, rsv=0, mask=None, length_bytes=None):
    """Return a frame as in RFC 6455 §5.2, or one that violates one of its rules."""
    size = len(payload)
    if length_bytes is None:
        length_bytes = 0 if size < 126 else 2 if size < 65536 else 8
    code = {0: size, 2: 126, 8: 127}[length_bytes]
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | code])
    head += size.to_bytes(length_bytes, "big") if length_bytes else b""
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def split(data, places):
    return [data[start:end] for start, end in pairwise([0, *sorted(places), len(data)])]


def scan(pieces, message_bytes_max=MAX):
    """Scan ``pieces``; return the payloads, the other bytes, the binary drops and the error."""
    scanner = FrameScanner(message_bytes_max)
    payloads, rest = [], b""
    try:
        for piece in pieces:
            messages, other = scanner.receive(piece)
            for ready, payload in messages:
                assert ready == frame(TEXT, payload)
                payloads.append(payload)
            rest += other
    except FrameError as error:
        return payloads, rest, scanner.binary_dropped, (error.code, str(error))
    return payloads, rest, scanner.binary_dropped, None


def byte_by_byte(data):
    return [data[at : at + 1] for at in range(len(data))]


EURO = "€".encode()
STREAMS = {
    "nothing": ([], [], b"", 0),
    "one message": ([frame(TEXT, b'{"type":"x"}')], [b'{"type":"x"}'], b"", 0),
    "an empty message": ([frame(TEXT)], [b""], b"", 0),
    "messages in order": ([frame(TEXT, b"%d" % n) for n in range(3)], [b"0", b"1", b"2"], b"", 0),
    "text beyond ASCII": ([frame(TEXT, EURO)], [EURO], b"", 0),
    "every form of length": (
        [frame(TEXT, b"x" * n) for n in (125, 126, 127, 65535, 65536)],
        [b"x" * n for n in (125, 126, 127, 65535, 65536)],
        b"",
        0,
    ),
    "control frames are returned": (
        [frame(PING, b"p"), frame(PONG), frame(CLOSE, b"\x03\xe8bye"), frame(PING, b"x" * 125)],
        [],
        frame(PING, b"p") + frame(PONG) + frame(CLOSE, b"\x03\xe8bye") + frame(PING, b"x" * 125),
        0,
    ),
    "control frames between messages": (
        [frame(TEXT, b"a"), frame(PING, b"p"), frame(TEXT, b"b")],
        [b"a", b"b"],
        frame(PING, b"p"),
        0,
    ),
    "a message in two fragments": (
        [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b")],
        [b"ab"],
        b"",
        0,
    ),
    "a character split between fragments": (
        [frame(TEXT, EURO[:1], fin=False), frame(CONTINUATION, EURO[1:])],
        [EURO],
        b"",
        0,
    ),
    "empty fragments": (
        [frame(TEXT, fin=False), frame(CONTINUATION, fin=False), frame(CONTINUATION)],
        [b""],
        b"",
        0,
    ),
    "a ping inside a fragmented message": (
        [
            frame(TEXT, b"a", fin=False),
            frame(PING, b"p"),
            frame(CONTINUATION, b"b", fin=False),
            frame(PONG),
            frame(CONTINUATION, b"c"),
            frame(TEXT, b"d"),
        ],
        [b"abc", b"d"],
        frame(PING, b"p") + frame(PONG),
        0,
    ),
    "fragments that need a longer header together": (
        [frame(TEXT, b"x" * 100, fin=False), frame(CONTINUATION, b"y" * 100)],
        [b"x" * 100 + b"y" * 100],
        b"",
        0,
    ),
    "binary is dropped": (
        [frame(BINARY, b"\xff"), frame(TEXT, b"a"), frame(BINARY), frame(TEXT, b"b")],
        [b"a", b"b"],
        b"",
        2,
    ),
    "fragmented binary is dropped once": (
        [frame(BINARY, b"\xff", fin=False), frame(CONTINUATION, b"\xfe"), frame(TEXT, b"a")],
        [b"a"],
        b"",
        1,
    ),
}


@pytest.mark.parametrize(("frames", "payloads", "rest", "dropped"), STREAMS.values(), ids=STREAMS)
def test_any_split_of_a_stream_gives_the_same_messages(frames, payloads, rest, dropped):
    """TCP keeps no boundaries, so every split into two must have the same result."""
    data = b"".join(frames)
    expected = (payloads, rest, dropped, None)
    places = range(len(data)) if len(data) < 1000 else range(0, len(data), 6007)

    assert expected == scan([data])
    assert expected == scan(frames)
    assert all(expected == scan(split(data, [place])) for place in places)
    if len(data) < 1000:
        assert expected == scan(byte_by_byte(data))


texts = st.text(max_size=70).map(str.encode)
fragmented = st.lists(texts, min_size=2, max_size=4).map(
    lambda parts: [
        frame(CONTINUATION if at else TEXT, part, fin=at == len(parts) - 1)
        for at, part in enumerate(parts)
    ]
)
whole = st.one_of(
    texts.map(lambda text: [frame(TEXT, text)]),
    st.binary(max_size=140).map(lambda data: [frame(BINARY, data)]),
    st.binary(max_size=125).map(lambda data: [frame(PING, data)]),
)
streams = st.lists(whole | fragmented, max_size=6).map(
    lambda parts: b"".join(piece for part in parts for piece in part)
)


def read_with_wsproto(data):
    """Read a server's frames with another implementation, as a client."""
    protocol = FrameProtocol(client=True, extensions=[])
    protocol.receive_bytes(data)
    messages, text, controls = [], "", []
    for event in protocol.received_frames():
        if event.opcode is Opcode.TEXT:
            text += event.payload
            if event.message_finished:
                messages.append(text.encode())
                text = ""
        elif event.opcode is not Opcode.BINARY:
            controls.append((event.opcode, event.payload))
    return messages, controls


@settings(deadline=None)
@given(streams, st.data())
def test_the_scanner_agrees_with_another_implementation(data, draw):
    """The scanner replaces a library where most time is spent, and must have equal results."""
    places = draw.draw(st.lists(st.integers(min_value=0, max_value=len(data)), max_size=12))
    payloads, rest, _, error = scan(split(data, places))

    assert error is None
    assert (payloads, read_with_wsproto(rest)[1]) == read_with_wsproto(data)


@settings(deadline=None)
@given(st.lists(st.text().map(str.encode), max_size=5))
def test_encoded_frames_are_scanned_to_the_same_payloads(payloads):
    """A downstream relay reads our frames with the same scanner."""
    frames = [encode_text(payload) for payload in payloads]
    scanned, rest = FrameScanner(MAX).receive(b"".join(frames))

    assert list(zip(frames, payloads, strict=True)) == scanned
    assert not rest


@settings(deadline=None)
@given(st.binary(max_size=200), st.data())
def test_any_split_of_garbage_has_the_same_result(data, draw):
    """Only ``FrameError`` may be raised, independent of the places where reads end."""
    places = draw.draw(st.lists(st.integers(min_value=0, max_value=len(data)), max_size=8))
    in_pieces, at_once = scan(split(data, places)), scan([data])

    assert at_once[3] == in_pieces[3]
    if at_once[3] is None:
        assert at_once == in_pieces


BROKEN = [
    ("masked", frame(TEXT, b"a", mask=b"abcd"), 1002, "a server's frame is masked"),
    ("masked, empty", frame(TEXT, mask=b"\0\0\0\0"), 1002, "a server's frame is masked"),
    ("masked, long", frame(TEXT, b"x" * 200, mask=b"abcd"), 1002, "a server's frame is masked"),
    ("masked ping", frame(PING, mask=b"abcd"), 1002, "a server's frame is masked"),
    ("RSV1, compressed", frame(TEXT, b"a", rsv=4), 1002, "a data frame begins with 0xc1"),
    ("RSV3", frame(TEXT, b"a", rsv=1), 1002, "a data frame begins with 0x91"),
    ("RSV on a ping", frame(PING, rsv=2), 1002, "a control frame begins with 0xa9"),
    (
        "RSV on a continuation",
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, rsv=4),
        1002,
        "a data frame begins with 0xc0",
    ),
    ("opcode 3", frame(0x3, b"a"), 1002, "a data frame begins with 0x83"),
    ("opcode 11", frame(0xB, b"a"), 1002, "a control frame begins with 0x8b"),
    ("a ping in fragments", frame(PING, fin=False), 1002, "a control frame begins with 0x09"),
    ("a long ping", frame(PING, b"x" * 126), 1002, "a control frame of 126 bytes"),
    (
        "a continuation without a first frame",
        frame(CONTINUATION, b"a"),
        1002,
        "a continuation without a first frame",
    ),
    (
        "a continuation after a whole message",
        frame(BINARY, b"a", fin=False) + frame(CONTINUATION) + frame(CONTINUATION),
        1002,
        "a continuation without a first frame",
    ),
    (
        "text inside a fragmented message",
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        1002,
        "a new message inside a fragmented one",
    ),
    (
        "binary inside a fragmented message",
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"),
        1002,
        "a new message inside a fragmented one",
    ),
    (
        "125 in two bytes",
        frame(TEXT, b"x" * 125, length_bytes=2),
        1002,
        "a frame's length is not in its shortest form",
    ),
    (
        "65535 in eight bytes",
        frame(TEXT, b"x" * 65535, length_bytes=8),
        1002,
        "a frame's length is not in its shortest form",
    ),
    ("a lone byte", frame(TEXT, b"\xff"), 1007, "a text message is not UTF-8: .*"),
    ("half a character", frame(TEXT, EURO[:2]), 1007, "a text message is not UTF-8: .*"),
    ("a surrogate", frame(TEXT, b"\xed\xa0\x80"), 1007, "a text message is not UTF-8: .*"),
    ("an overlong slash", frame(TEXT, b"\xc0\xaf"), 1007, "a text message is not UTF-8: .*"),
    (
        "bad fragments",
        frame(TEXT, EURO[:1], fin=False) + frame(CONTINUATION, b"a"),
        1007,
        "a text message is not UTF-8: .*",
    ),
    ("too long", frame(TEXT, b"x" * 70_001), 1009, "a frame of 70001 bytes"),
    ("too long, the largest length", b"\x81\x7f" + b"\xff" * 8, 1009, r"a frame of \d{20} bytes"),
    (
        "too long in fragments",
        frame(TEXT, b"x" * 40_000, fin=False) + frame(CONTINUATION, b"x" * 30_001, fin=False),
        1009,
        "a message of over 70000 bytes",
    ),
    (
        "binary too long in fragments",
        frame(BINARY, b"x" * 70_000, fin=False) + frame(CONTINUATION, b"x"),
        1009,
        "a message of over 70000 bytes",
    ),
]


@pytest.mark.parametrize(
    ("data", "code", "text"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_a_protocol_violation_ends_the_connection(data, code, text):
    """Frames are relayed without a check, so an invalid one would reach every subscriber."""
    before = frame(TEXT, b"good")
    places = range(0, len(before + data), max(1, len(data) // 50))
    for pieces in ([before, data], [before, *byte_by_byte(data[:300]), data[300:]]):
        payloads, _, _, error = scan(pieces, 70_000)

        assert payloads == [b"good"]
        assert error[0] == code
        assert re.fullmatch(text, error[1])
    assert all(error == scan(split(before + data, [place]), 70_000)[3] for place in places)


@pytest.mark.parametrize("first", range(256), ids=lambda first: f"{first:02x}")
def test_every_first_byte_is_valid_or_refused(first):
    """RFC 6455 §5.2 defines all valid first bytes; any other one is an error."""
    valid = {0x81, 0x01, 0x82, 0x02, 0x88, 0x89, 0x8A}
    error = scan([bytes([first, 1]) + b"a"])[3]

    assert (first in valid) == (error is None)
    assert error is None or error[0] == 1002


@pytest.mark.parametrize("size", [125, 126, 65535, 65536, 70_000])
def test_the_limit_itself_is_allowed(size):
    """A limit of n bytes allows n bytes."""
    fragments = [frame(TEXT, b"x" * (size - 1), fin=False), frame(CONTINUATION, b"x")]

    assert scan([frame(TEXT, b"x" * size)], size) == ([b"x" * size], b"", 0, None)
    assert scan(fragments, size) == ([b"x" * size], b"", 0, None)
    assert scan([frame(TEXT, b"x" * (size + 1))], size)[3][0] == 1009


def test_a_too_long_message_is_refused_by_its_header():
    """To wait for its end would buffer more than the limit allows."""
    head = frame(TEXT, b"x" * 70_001)[:10]

    assert scan([head], 70_000)[3] == (1009, "a frame of 70001 bytes")


def test_a_huge_snapshot_is_joined_from_many_reads():
    """BTC-USD's book is 5 MB (COINBASE §2); a frame before and a ping after it share its reads."""
    snapshot = b"x" * 5_000_000
    data = frame(TEXT, b"before") + frame(TEXT, snapshot) + frame(PING, b"p")
    scanner = FrameScanner(16 << 20)
    results = [scanner.receive(piece) for piece in split(data, range(65536, len(data), 65536))]

    assert results[0] == ([(frame(TEXT, b"before"), b"before")], b"")
    assert all(item == ([], b"") for item in results[1:-1])
    assert results[-1] == ([(frame(TEXT, snapshot), snapshot)], frame(PING, b"p"))


def test_small_reads_of_a_huge_snapshot_are_joined_once():
    """To join at each read would copy gigabytes; to sum all reads would count millions."""

    class Piece(bytes):
        length_calls = 0

        def __len__(self):
            Piece.length_calls += 1
            return super().__len__()

    data = frame(TEXT, b"x" * 1_000_000)
    pieces = [Piece(piece) for piece in split(data, range(1400, len(data), 1400))]
    payloads, *_ = scan(pieces)

    assert payloads == [b"x" * 1_000_000]
    assert Piece.length_calls <= 3 * len(pieces)


def test_a_fragment_of_one_byte_takes_about_one_byte_of_memory():
    """A limit in message bytes does not limit memory if each byte takes forty."""
    scanner = FrameScanner(100_000)
    scanner.receive(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"a", fin=False) * 99_999)

    assert getsizeof(scanner._parts) < 2 * 100_000
    [(_, payload)], _ = scanner.receive(frame(CONTINUATION))
    assert payload == b"a" * 100_000


def test_endless_empty_fragments_are_not_stored():
    """They add nothing to the size of the message, but each would use memory."""
    scanner = FrameScanner(MAX)
    scanner.receive(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, fin=False) * 10_000)

    assert scanner._parts == b"a"
    assert scanner.receive(frame(CONTINUATION, b"b")) == ([(frame(TEXT, b"ab"), b"ab")], b"")


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (encode_text(b""), "8100"),
        (encode_text(EURO), "8103e282ac"),
        (encode_text(b"x" * 125)[:2], "817d"),
        (encode_text(b"x" * 126)[:4], "817e007e"),
        (encode_text(b"x" * 65535)[:4], "817effff"),
        (encode_text(b"x" * 65536)[:10], "817f0000000000010000"),
        (encode_ping(), "8900"),
        (encode_ping(b"p"), "890170"),
        (encode_pong(b""), "8a00"),
        (encode_pong(b"x" * 125)[:2], "8a7d"),
        (encode_close(None), "8800"),
        (encode_close(1000), "880203e8"),
        (encode_close(4001, "slow"), "88060fa1736c6f77"),
    ],
)
def test_our_frames_have_the_form_of_the_rfc(actual, expected):
    """Strict clients refuse masked frames, and lengths that are not in the shortest form."""
    assert expected == actual.hex()


@settings(deadline=None)
@given(st.sampled_from([1000, 1001, 1012, 4001]), st.text(max_size=200))
def test_a_close_reason_is_truncated_between_characters(code, reason):
    """A client treats a close frame that is too long or not UTF-8 as a protocol error."""
    written = encode_close(code, reason)
    [(opcode, (read_code, read_reason))] = read_with_wsproto(written)[1]
    kept = read_reason or ""

    assert (Opcode.CLOSE, code) == (opcode, read_code)
    assert len(written) <= 2 + 125
    assert reason.startswith(kept)
    assert kept == reason or len(kept.encode()) > 123 - 4
