"""One stream: valid and invalid frames and commands of clients, and the ends of a stream."""

import zlib
from typing import Any

import msgspec
import pytest
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension, PerMessageDeflate

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.domain import limits
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.health import FeedState
from hedgehogd.protocol.commands import Command, channel_requests
from hedgehogd.protocol.deflate import deflated
from hedgehogd.protocol.frames import encode_text
from hedgehogd.streaming.connection import Reader
from tests.streaming.conftest import Served, match, read_all, read_to, serve, ticker

SUBSCRIBE = '{"type":"subscribe","product_ids":["BTC-USD"],"channels":["ticker","matches"]}'


class Client:
    """A WebSocket client made of wsproto, over a connection after its handshake."""

    def __init__(self, stream: trio.SocketStream, *extensions: Extension) -> None:
        self.stream = stream
        self.bytes_in = 0
        self._ws = Connection(ConnectionType.CLIENT, list(extensions))
        self._events: list[Event] = []

    async def send(self, event: Event) -> None:
        """Send one event."""
        await self.stream.send_all(self._ws.send(event))

    async def say(self, text: str) -> None:
        """Send one text message."""
        await self.send(TextMessage(data=text))

    async def next(self) -> Event:
        """Return the next event."""
        with trio.fail_after(60):
            while not self._events:
                data = await self.stream.receive_some(65536)
                assert data, "hung up without a close frame"
                self.bytes_in += len(data)
                self._ws.receive_data(data)
                self._events += self._ws.events()
        return self._events.pop(0)

    async def next_json(self) -> dict:
        """Return the next text message, decoded."""
        event = await self.next()
        assert isinstance(event, TextMessage), event
        text = event.data
        while not event.message_finished:
            event = await self.next()
            text += event.data
        return msgspec.json.decode(text)

    async def closed(self) -> int:
        """Return the close code of the next event, which must be a close."""
        event = await self.next()
        assert isinstance(event, CloseConnection), event
        return int(event.code)


assert WSConnection  # Served.upgrade has done the handshake


async def test_a_subscriber_gets_the_acknowledgement_and_then_the_same_bytes(
    served: Served,
) -> None:
    """The frame that arrived from upstream is the frame that is sent."""
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(SUBSCRIBE)
    ack = await client.next_json()
    await served.publish(ticker(1), match(2, 1))

    assert [row["name"] for row in ack["channels"]] == ["ticker", "matches"]
    assert [(await client.next_json())["sequence"] for _ in range(2)] == [1, 2]
    await client.stream.aclose()


async def test_only_extended_streams_get_notices(served: Served) -> None:
    """Strictly typed clients fail on an unknown type (COINBASE §15.8)."""
    strict, extended = Client(await served.upgrade("/")), Client(await served.upgrade("/ws"))
    session = await extended.next_json()
    for client in (strict, extended):
        await client.say(SUBSCRIBE)
        assert (await client.next_json())["type"] == "subscriptions"
    await served.publish(match(1, 1))
    await served.publish(match(5, 5))

    assert (session["type"], session["instance"]) == ("session", 1)
    assert session["session"].startswith("1.")
    assert [(await strict.next_json())["type"] for _ in range(2)] == ["match", "match"]
    assert [(await extended.next_json())["type"] for _ in range(3)] == ["match", "gap", "match"]
    await strict.stream.aclose()
    await extended.stream.aclose()


async def test_a_subscriber_that_joins_while_the_feed_is_stale_gets_a_notice(
    served: Served,
) -> None:
    """Without it the silence would look like a quiet market."""
    served.instance.health.become(FeedState.STALE, "closed: 1006")
    client = Client(await served.upgrade("/ws"))
    await client.next_json()

    assert {"type": "stale", "stale": True, "reason": "closed: 1006"} == await client.next_json()
    await client.stream.aclose()


async def test_any_number_of_pings_is_answered(served: Served) -> None:
    """cbpro sends a ping before every receive; pings are not commands and have no limit."""
    client = Client(await served.upgrade("/ws-feed"))
    for number in range(300):
        await client.send(Ping(payload=b"%d" % number))
    for number in range(300):
        pong = await client.next()
        assert isinstance(pong, Pong)
        assert b"%d" % number == pong.payload
    await client.stream.aclose()


async def test_too_many_commands_are_refused_and_pings_still_answered(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client closes when a pong takes a second (COINBASE §15.3)."""
    monkeypatch.setattr(limits, "CLIENT_COMMANDS_PER_S", 0.001)  # no allowance is added
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    for _ in range(limits.CLIENT_COMMANDS_BURST + 20):
        await client.say(SUBSCRIBE)
    await client.send(Ping(payload=b"?"))
    answers = []
    while len(answers) < limits.CLIENT_COMMANDS_BURST + 20 + 1:
        event = await client.next()
        is_pong = isinstance(event, Pong)
        answers.append("pong" if is_pong else msgspec.json.decode(event.data)["type"])

    assert 1 == answers.count("pong")
    assert limits.CLIENT_COMMANDS_BURST == answers.count("subscriptions")
    assert 20 == answers.count("error") == served.instance.counts.refusals["too_many_commands"]
    await client.stream.aclose()


@pytest.mark.parametrize("path", ["/", "/ws-feed"])
async def test_a_client_without_a_subscribe_in_five_seconds_is_closed(
    served: Served, autojump_clock: trio.testing.MockClock, path: str
) -> None:
    """Coinbase does so; a failed subscribe does not count."""
    client = Client(await served.upgrade(path))
    await client.say('{"type":"subscribe","channels":["tick"]}')
    await client.next_json()
    await client.next_json()

    assert await client.closed() == 1008
    assert pytest.approx(trio.current_time(), abs=0.1) == limits.FIRST_SUBSCRIBE_S
    assert await read_all(client.stream) == b""
    assert served.instance.counts.ends == {"no_subscribe": 1}


async def test_a_client_subscribed_by_rest_in_five_seconds_stays_open(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """REST controls strict streams too, and such a client need not send a command."""
    client = Client(await served.upgrade("/ws-feed"))
    session = next(iter(served.instance.sessions))
    await trio.sleep(limits.FIRST_SUBSCRIBE_S - 1)
    session.apply(Command(True, channel_requests(["ticker"], ("BTC-USD",))))
    await trio.sleep(limits.FIRST_SUBSCRIBE_S)
    await served.publish(ticker(7))

    assert 7 == (await client.next_json())["sequence"]
    await client.say(SUBSCRIBE)
    assert "subscriptions" == (await client.next_json())["type"]
    await client.stream.aclose()


async def test_a_stream_that_requests_too_many_topics_is_refused_as_a_whole(
    nursery: trio.Nursery,
) -> None:
    """To serve half of the topics without an error would be a silent gap."""
    served = await serve(nursery, topics_max=3)
    stream = await served.ask("GET /api/v1/stream?pairs=A-B,C-D HTTP/1.1\nHost: x")

    assert (await read_all(stream)).startswith(b"HTTP/1.1 429 ")
    assert {"too_many_subscriptions": 1} == served.instance.counts.refusals
    await served.all_gone()


async def test_empty_fragments_without_end_are_not_kept(served: Served) -> None:
    """They cost the peer six bytes each and must not occupy memory here."""
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    text = SUBSCRIBE.encode()
    await client.stream.send_all(_frame(0x01, text[:9]) + _frame(0x00, b"") * 5000)
    await client.stream.send_all(_frame(0x80, text[9:]))

    assert "subscriptions" == (await client.next_json())["type"]
    await client.stream.aclose()


async def test_ends_are_counted_under_a_fixed_set_of_names(served: Served) -> None:
    """A label that a peer can choose makes an unbounded number of time series."""
    for number in range(5):
        client = Client(await served.upgrade("/ws"))
        await client.next_json()
        await client.stream.send_all(_frame(0x81, b"a" * number + bytes((0x80 + number,))))
        assert 1007 == await client.closed()
        await client.stream.aclose()
    await served.all_gone()

    assert {"bad_frame": 5} == served.instance.counts.ends


async def test_refusals_on_a_websocket_are_counted(served: Served) -> None:
    """Every invalid input is counted, on every plane."""
    served.instance.pipe.catalogue.replace(frozenset({"BTC-USD"}))
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(
        '{"type":"subscribe","product_ids":["X-Y","BTC-USD"],"channels":["ticker","t"]}'
    )
    assert ["error", "error"] == [(await client.next_json())["type"] for _ in range(2)]

    assert 2 == served.instance.counts.refusals["refused"]
    await client.stream.aclose()


async def test_a_client_that_has_subscribed_once_stays_open(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """It stays open without subscriptions too: the rule is about the first subscribe."""
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(SUBSCRIBE)
    await client.next_json()
    await client.say(SUBSCRIBE.replace("subscribe", "unsubscribe", 1))
    assert (await client.next_json())["channels"] == []
    await trio.sleep(limits.FIRST_SUBSCRIBE_S * 2)
    await client.say(SUBSCRIBE)

    assert (await client.next_json())["type"] == "subscriptions"
    await client.stream.aclose()


ERRORS = {
    "{": ("Malformed JSON", None),
    "[]": ("Malformed message", "a message is a JSON object"),
    '{"type":"hello"}': ("Type has to be either subscribe or unsubscribe", None),
    '{"type":"subscribe","product_ids":["BTC-USD"]}': (
        "Failed to subscribe",
        "No channels provided",
    ),
    '{"type":"unsubscribe"}': ("Failed to unsubscribe", "No channels provided"),
    '{"type":"subscribe","channels":["tick"],"product_ids":["BTC-USD"]}': (
        "Failed to subscribe",
        "tick is not a valid channel",
    ),
    '{"type":"subscribe","channels":["ticker"],"product_ids":["btc"]}': (
        "Failed to subscribe",
        "btc is not a valid product",
    ),
}


@pytest.mark.parametrize("text", ERRORS)
async def test_an_invalid_command_gets_coinbases_error(served: Served, text: str) -> None:
    """The stream continues: the next valid command is carried out."""
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(text)
    error = await client.next_json()
    await client.say(SUBSCRIBE)
    answer = await client.next_json()
    if not answer["channels"]:  # the state after an error
        answer = await client.next_json()

    message, reason = ERRORS[text]
    assert ("error", message, reason) == (error["type"], error["message"], error.get("reason"))
    assert answer["channels"][0]["product_ids"] == ["BTC-USD"]
    await client.stream.aclose()


def _frame(first: int, payload: bytes, mask: bool = True) -> bytes:
    """Return a client's frame, masked with zeros."""
    size = len(payload)
    length = bytes((size,)) if size < 126 else bytes((126, *size.to_bytes(2, "big")))
    flag = 0x80 if mask else 0
    return bytes((first, length[0] | flag)) + length[1:] + (bytes(4) if mask else b"") + payload


BAD_FRAMES = {
    "not masked": (_frame(0x81, b"{}", mask=False), 1002),
    "a continuation of nothing": (_frame(0x80, b"{}"), 1002),
    "a message inside a message": (_frame(0x01, b"{") + _frame(0x81, b"}"), 1002),
    "reserved bits": (_frame(0xC1, b"{}"), 1002),
    "unknown opcode": (_frame(0x83, b""), 1002),
    "a ping in fragments": (_frame(0x09, b""), 1002),
    "a long ping": (_frame(0x89, b"x" * 126), 1002),
    "a close code that is none": (_frame(0x88, (999).to_bytes(2, "big")), 1002),
    "bad UTF-8": (_frame(0x81, b"\xff\xfe"), 1007),
    "binary": (_frame(0x82, b"{}"), 1003),
    "too big": (_frame(0x01, b" " * 65_535) + _frame(0x80, b" " * 65_535), 1009),
    "too big in bytes": (_frame(0x01, "€".encode() * 21_845) + _frame(0x80, b"xx"), 1009),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
async def test_a_frame_that_breaks_the_protocol_ends_the_stream_with_its_code(
    served: Served, case: str
) -> None:
    """The peer learns the fault; no session, topic or demand remains."""
    frames, code = BAD_FRAMES[case]
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    await client.stream.send_all(frames)

    assert code == await client.closed()
    assert await read_all(client.stream) == b""
    await served.all_gone()
    assert len(served.instance.sessions) == 0


async def test_a_fragmented_command_is_joined(served: Served) -> None:
    """A fragment may end within a character, and a ping may lie between fragments."""
    client = Client(await served.upgrade("/ws-feed"))
    text = SUBSCRIBE.replace("}", ',"x":"é"}').encode()
    cut = text.index("é".encode()) + 1
    await client.stream.send_all(_frame(0x01, text[:cut]))
    await client.send(Ping(payload=b"between"))
    await client.stream.send_all(_frame(0x80, text[cut:]))

    assert isinstance(await client.next(), Pong)
    assert (await client.next_json())["type"] == "subscriptions"
    await client.stream.aclose()


async def test_a_close_handshake_is_completed(served: Served) -> None:
    """copra waits for the server's close frame, and for the end of the connection."""
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(SUBSCRIBE)
    await client.next_json()
    await client.send(CloseConnection(code=1000))

    assert await client.closed() == 1000
    assert await client.stream.receive_some() == b""
    await client.stream.aclose()
    await served.all_gone()
    assert served.instance.counts.ends == {"peer_closed": 1}
    assert frozenset() == served.instance.pipe.demand.wanted(trio.current_time() + 3600)


async def test_a_broken_connection_leaves_no_session_topic_or_demand(served: Served) -> None:
    """The peer may break off without a close frame."""
    client = Client(await served.upgrade("/ws-feed"))
    await client.say(SUBSCRIBE)
    await client.next_json()
    await client.stream.aclose()
    await served.all_gone()

    assert served.instance.counts.ends == {"peer_gone": 1}
    assert len(served.instance.sessions) == 0
    assert served.instance.pipe.hub.topics("ticker") == []
    assert frozenset() == served.instance.pipe.demand.wanted(trio.current_time() + 3600)


async def test_a_command_in_the_segment_of_the_handshake_is_carried_out(served: Served) -> None:
    """A client may send its subscribe before it has read the answer."""
    stream = await served.connect()
    text = SUBSCRIBE.encode()
    await stream.send_all(
        b"GET /ws-feed HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        + _frame(0x81, text)
    )
    head = await read_to(stream, b"\r\n\r\n")

    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455 §1.3
    assert (await Client(stream).next_json())["type"] == "subscriptions"
    await stream.aclose()


async def test_an_http_1_0_stream_ends_with_its_connection(served: Served) -> None:
    """HTTP/1.0 has no chunks."""
    stream = await served.ask("GET /api/v1/subscribe/BTC-USD?notices=none HTTP/1.0")
    head = await read_to(stream, b"\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    await served.publish(ticker(1))

    assert b"chunked" not in head
    assert ticker(1) + b"\n" == await read_to(stream, b"\n")
    await stream.aclose()


async def test_pages_of_allowed_origins_may_read_streams(nursery: trio.Nursery) -> None:
    """Pages of other origins may not; by default no origin is allowed."""
    served = await serve(nursery, cors_origins=("https://a.example",))
    answers = {}
    for origin in ("https://a.example", "http://x"):
        stream = await served.ask(f"GET /api/v1/stream HTTP/1.1\nHost: x\nOrigin: {origin}")
        answers[origin[-1]] = (await read_to(stream, b"\r\n\r\n")).decode()
        await stream.aclose()

    assert "Access-Control-Allow-Origin: https://a.example\r\n" in answers["e"]
    assert "Access-Control" not in answers["x"]


async def test_a_stream_may_start_without_pairs(served: Served) -> None:
    """REST adds pairs by the session id."""
    stream = await served.ask("GET /api/v1/stream HTTP/1.1\nHost: x\nAccept: text/event-stream")
    head = await read_to(stream, b"\r\n\r\n")
    session_id = head.partition(b"Hedgehog-Session: ")[2].partition(b"\r\n")[0].decode()
    session = served.instance.sessions.get(session_id)

    assert b"text/event-stream" in head
    assert session is not None
    assert session.subscription.state == {}
    await stream.aclose()


async def test_a_stream_of_status_needs_no_pair(served: Served) -> None:
    """It is the one channel without products."""
    stream = await served.ask("GET /api/v1/stream?channels=status&notices=none HTTP/1.1\nHost: x")
    await read_to(stream, b"\r\n\r\n")
    await trio.testing.wait_all_tasks_blocked()
    await served.publish(b'{"type":"status","products":[]}')

    assert b'{"type":"status","products":[]}\n' in await read_to(stream, b"\n\r\n")
    await stream.aclose()


ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


async def _upgrade(served: Served, path: str, *offers: str) -> tuple[trio.SocketStream, str]:
    """Open a WebSocket with these offers; return the connection and the head of the answer."""
    lines = [f"Sec-WebSocket-Extensions: {offer}" for offer in offers]
    stream = await served.ask(
        "\n".join(
            (
                f"GET {path} HTTP/1.1\nHost: x\nUpgrade: websocket\nConnection: Upgrade",
                "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                *lines,
            )
        )
    )
    return stream, (await read_to(stream, b"\r\n\r\n")).decode()


async def _deflating(served: Served, path: str = "/ws") -> Client:
    """Return a client that compresses; wsproto itself has validated its handshake."""
    extension = PerMessageDeflate()
    stream, head = await _upgrade(served, path, f"permessage-deflate; {extension.offer()}")
    [answer] = [line for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Ext")]
    extension.finalize(answer.partition(": ")[2])
    assert extension.server_no_context_takeover
    assert extension.client_no_context_takeover
    return Client(stream, extension)


@pytest.mark.parametrize(
    ("offers", "answers"),
    [
        ((), []),
        (("permessage-deflate; client_max_window_bits",), [ANSWER]),
        (
            ("x-other", "permessage-deflate; server_max_window_bits=10, permessage-deflate"),
            [ANSWER],
        ),
        (("permessage-deflate; server_max_window_bits=10",), []),
        (
            ("permessage-deflate; server_max_window_bits=15",),
            [ANSWER + "; server_max_window_bits=15"],
        ),
    ],
)
async def test_the_head_of_the_answer_has_the_agreed_extensions(
    served: Served, offers: tuple[str, ...], answers: list[str]
) -> None:
    """A client without the extension must treat a reserved bit as an error (RFC 6455 §5.2)."""
    stream, head = await _upgrade(served, "/ws-feed", *offers)
    name = "Sec-WebSocket-Extensions: "

    assert head.startswith("HTTP/1.1 101 ")
    assert answers == [line[len(name) :] for line in head.split("\r\n") if line.startswith(name)]
    await stream.aclose()


async def test_large_messages_are_compressed_for_clients_that_offered_it(served: Served) -> None:
    """Small messages and notices are uncompressed; all clients read the same messages."""
    plain, deflating = Client(await served.upgrade("/ws")), await _deflating(served)
    for client in (plain, deflating):
        await client.next_json()
        await client.say(SUBSCRIBE)
        await client.next_json()
        client.bytes_in = 0
    payloads = (ticker(1), ticker(2, pad=100_000), ticker(3))
    frames = [(encode_text(payload), payload) for payload in payloads]
    source, upstream = Source(held=None), UpstreamSession()
    upstream.connected(source)
    received = upstream.receive(source, frames, trio.current_time())
    for message in received.messages:
        message.deflated = deflated(message)
    await served.instance.broker.publish([Delivery(received.messages)])
    read = [[await client.next_json() for _ in range(3)] for client in (plain, deflating)]

    assert [1, 2, 3] == [message["sequence"] for message in read[0]]
    assert read[0] == read[1]
    assert plain.bytes_in > 100_000
    assert len(ticker(1) + ticker(3)) < deflating.bytes_in < 1000
    await plain.stream.aclose()
    await deflating.stream.aclose()


@pytest.mark.parametrize("path", ["/ws-feed", "/ws"])
async def test_compressed_commands_are_carried_out(served: Served, path: str) -> None:
    """A client with compression may compress all its messages."""
    client = await _deflating(served, path)
    if path == "/ws":
        await client.next_json()
    await client.say(SUBSCRIBE)
    first = await client.next_json()
    await client.say("")
    empty = await client.next_json()
    await client.send(TextMessage(data=SUBSCRIBE[:20], message_finished=False))
    await client.send(Ping(payload=b"between"))
    await client.send(TextMessage(data=SUBSCRIBE[20:]))

    assert ["ticker", "matches"] == [row["name"] for row in first["channels"]]
    assert ("error", "Malformed JSON") == (empty["type"], empty["message"])
    assert isinstance(await client.next(), Pong)
    assert first == await client.next_json()
    await client.stream.aclose()


def _deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, wbits=-15)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


DEFLATED_FRAMES = {
    "a bomb": (_frame(0xC1, _deflate(b" " * 8_000_000)), 1009, "big_message"),
    "one byte too many": (_frame(0xC1, _deflate(b" " * 65_537)), 1009, "big_message"),
    "one uncompressed": (
        _frame(0x01, b" " * 65_535) + _frame(0x80, b"  "),
        1009,
        "big_message",
    ),
    "not deflated": (_frame(0xC1, b"\xff\xff"), 1007, "bad_frame"),
    "bad UTF-8": (_frame(0xC1, _deflate(b"\xff\xfe")), 1007, "bad_frame"),
    "binary": (_frame(0xC2, _deflate(b"{}")), 1003, "binary"),
    "another reserved bit": (_frame(0xA1, b"{}"), 1002, "bad_frame"),
    "a compressed ping": (_frame(0xC9, b""), 1002, "bad_frame"),
    "a compressed continuation": (_frame(0x41, b"") + _frame(0xC0, b""), 1002, "bad_frame"),
}


@pytest.mark.parametrize("case", DEFLATED_FRAMES)
async def test_a_compressed_frame_that_breaks_a_rule_ends_the_stream(
    served: Served, case: str
) -> None:
    """Compression must not admit a frame that would be refused uncompressed."""
    frames, code, reason = DEFLATED_FRAMES[case]
    client = await _deflating(served)
    await client.next_json()
    await client.stream.send_all(frames)

    assert code == await client.closed()
    assert {reason: 1} == served.instance.counts.refusals
    assert {reason: 1} == served.instance.counts.ends
    await client.stream.aclose()
    await served.all_gone()


@pytest.mark.parametrize("message", [BytesMessage(data=b"x"), TextMessage(data="{}")])
async def test_frames_after_the_end_are_ignored(served: Served, message: Event) -> None:
    """A peer may have sent frames before it read the close frame."""
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    outlet = next(iter(served.plane.outlets))
    outlet.end(1012, "restart")
    await client.send(message)

    assert (await client.next_json())["type"] == "closing"
    assert await client.closed() == 1012
    await client.stream.aclose()
    await served.all_gone()


# Turns


def _watch_turns(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which each turn of the loop appends its number of carried-out commands."""
    turns: list[int] = [0]

    class Turns(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            if turns[-1]:
                turns.append(0)

    original = Reader._answer

    def answer(self: Reader, *arguments: Any) -> None:
        turns[-1] += 1
        original(self, *arguments)

    monkeypatch.setattr(Reader, "_answer", answer)
    trio.lowlevel.add_instrument(Turns())
    return turns


async def test_many_concurrent_subscribes_are_served_in_turns(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand subscribes after a restart must not delay data for a second; none starves."""
    monkeypatch.setattr(limits, "FIRST_SUBSCRIBE_S", 60.0)  # no command before all are open
    clients = [Client(await served.upgrade("/ws-feed")) for _ in range(200)]
    turns = _watch_turns(served, monkeypatch)
    for client in clients:
        await client.say(SUBSCRIBE)
    answers = [await client.next_json() for client in clients]

    assert {"subscriptions"} == {answer["type"] for answer in answers}
    assert 200 == sum(turns)
    assert max(turns) <= limits.COMMANDS_PER_TURN_MAX
    for client in clients:
        await client.stream.aclose()
    await served.all_gone()


async def _occupy(served: Served) -> object:
    """Occupy every turn, so that no command is carried out; return the turns to release."""
    holder = object()
    served.instance.turns.small.total_tokens = 1
    await served.instance.turns.small.acquire_on_behalf_of(holder)
    return holder


async def test_pongs_do_not_wait_for_a_turn(served: Served) -> None:
    """One client closes when a pong takes a second (COINBASE §15.3)."""
    client = Client(await served.upgrade("/ws-feed"))
    holder = await _occupy(served)
    await client.send(Ping(payload=b"before"))
    await client.stream.send_all(
        _frame(0x81, SUBSCRIBE.encode()) + _frame(0x89, b"behind it, in one packet")
    )

    assert [b"before", b"behind it, in one packet"] == [
        bytes((await client.next()).payload) for _ in range(2)
    ]
    served.instance.turns.small.release_on_behalf_of(holder)
    assert "subscriptions" == (await client.next_json())["type"]
    await client.stream.aclose()


async def _wait_for_waiting(served: Served, count: int) -> None:
    with trio.fail_after(5):
        while served.instance.turns.small.statistics().tasks_waiting != count:
            await trio.sleep(0.001)


async def test_a_client_that_leaves_while_waiting_for_its_turn_does_no_harm(served: Served) -> None:
    """Its turn passes without effect; the next client's turn comes too."""
    holder = await _occupy(served)
    leaving, staying = [Client(await served.upgrade("/ws-feed")) for _ in range(2)]
    for number, client in enumerate((leaving, staying), 1):
        await client.say(SUBSCRIBE)
        await _wait_for_waiting(served, number)
    await leaving.stream.aclose()
    served.instance.turns.small.release_on_behalf_of(holder)

    assert "subscriptions" == (await staying.next_json())["type"]
    await staying.stream.aclose()
    await served.all_gone()
    assert 0 == served.instance.turns.small.borrowed_tokens
    assert frozenset() == served.instance.pipe.demand.wanted(trio.current_time() + 3600)


async def test_a_stream_that_ends_while_waiting_is_not_subscribed(served: Served) -> None:
    """A drain does not wait for turns."""
    holder = await _occupy(served)
    client = Client(await served.upgrade("/ws"))
    await client.next_json()
    await client.say(SUBSCRIBE)
    await _wait_for_waiting(served, 1)
    next(iter(served.plane.outlets)).end(1012, "restart")

    assert "closing" == (await client.next_json())["type"]
    assert 1012 == await client.closed()
    assert 0 == served.instance.turns.small.statistics().tasks_waiting
    served.instance.turns.small.release_on_behalf_of(holder)
    await client.stream.aclose()
    await served.all_gone()


async def test_a_subscribe_that_waits_for_its_turn_counts_as_in_time(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """The wait for a turn is not the client's fault, and its end loses no command."""
    client, mute = [Client(await served.upgrade("/ws-feed")) for _ in range(2)]
    holder = await _occupy(served)
    await client.say(SUBSCRIBE)
    await trio.sleep(limits.FIRST_SUBSCRIBE_S + 1)
    assert 1008 == await mute.closed()
    await client.say(SUBSCRIBE)
    served.instance.turns.small.release_on_behalf_of(holder)

    for _ in range(2):
        assert ["ticker", "matches"] == [
            row["name"] for row in (await client.next_json())["channels"]
        ]
    await served.publish(ticker(1))
    assert 1 == (await client.next_json())["sequence"]
    for each in (client, mute):
        await each.stream.aclose()
    await served.all_gone()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_subscriber_that_ends_its_sending_side_still_gets_the_stream(
    served: Served, autojump_clock: trio.testing.MockClock, accept: str, version: str
) -> None:
    """``nc -N`` and some proxies end their sending side after the request."""
    stream = await served.ask(
        f"GET /api/v1/subscribe/BTC-USD HTTP/{version}\nHost: x\nAccept: {accept}"
    )
    await stream.send_eof()
    await read_to(stream, b"\r\n\r\n")
    for number in (1, 2, 3):
        await trio.sleep(60)
        await served.publish(ticker(number))
        assert ticker(number) in await read_to(stream, ticker(number))
    (outlet,) = served.plane.outlets
    outlet.end(1012, "restart")

    assert (await read_all(stream)).endswith(b"0\r\n\r\n") == (version == "1.1")
    assert served.instance.counts.ends == {"restart": 1}
    await served.all_gone()


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_a_subscriber_that_has_left_is_detected_on_a_quiet_stream(
    served: Served, autojump_clock: trio.testing.MockClock, accept: str
) -> None:
    """A reset answers the keepalives; no data is needed."""
    stream = await served.ask(f"GET /api/v1/stream HTTP/1.1\nHost: x\nAccept: {accept}")
    await read_to(stream, b"\r\n\r\n")
    if accept == "text/event-stream":
        await read_to(stream, b"\n\n\r\n")
    began = trio.current_time()
    await stream.aclose()
    await served.all_gone()

    assert trio.current_time() - began < sum(limits.HALF_CLOSED_PROBES_S)
    assert served.instance.counts.ends == {"peer_gone": 1}


# Weight

ALL_PAIRS = tuple(f"A{number}-USD" for number in range(838))
HEAVY = ["ticker", "matches", "level2", "heartbeat", "auctionfeed", "full"]


def _heavy(kind: str) -> str:
    body = {"type": kind, "product_ids": ALL_PAIRS, "channels": HEAVY}
    return msgspec.json.encode(body).decode()


async def test_heavy_commands_are_delayed_and_light_ones_are_not(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """Four clients change 5,028 topics ten times a second, and all get every answer."""
    heavy = [Client(await served.upgrade("/ws-feed")) for _ in range(4)]
    begin, answers = trio.current_time(), 0

    async def storm(client: Client) -> None:
        nonlocal answers
        for number in range(4):
            await client.say(_heavy("unsubscribe" if number % 2 else "subscribe"))
            assert (await client.next_json())["type"] == "subscriptions"
            answers += 1

    async with trio.open_nursery() as storms:
        for client in heavy:
            storms.start_soon(storm, client)
        await trio.sleep(1)
        light = Client(await served.upgrade("/ws-feed"))
        before = answers
        await light.say(SUBSCRIBE)
        await light.next_json()
        # The clock may jump to the next heavy turn while the kernel still has the bytes.
        assert answers - before <= 1
        assert answers < 16
        assert served.instance.turns.delayed > 0
    took_s = trio.current_time() - begin
    weight = 16 * len(ALL_PAIRS) * len(HEAVY)

    assert took_s >= (weight - limits.COMMAND_TOPICS_BURST) / limits.COMMAND_TOPICS_PER_S - 1
    for client in (light, *heavy):
        await client.stream.aclose()


async def test_a_url_with_many_topics_waits_for_its_turn(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """Otherwise each new connection would be a heavy command without a cost."""
    pairs = ",".join(ALL_PAIRS[:500])
    path = f"/api/v1/stream?pairs={pairs}&channels=ticker,matches,heartbeat,auctionfeed,full"
    begin = trio.current_time()
    streams = []
    for _ in range(8):
        stream = await served.ask(f"GET {path} HTTP/1.1\nHost: test")
        await read_to(stream, b"\r\n\r\n")
        streams.append(stream)
    took_s = trio.current_time() - begin

    assert took_s >= (8 * 2500 - limits.COMMAND_TOPICS_BURST) / limits.COMMAND_TOPICS_PER_S - 0.3
    assert served.instance.turns.delayed == 4
    for stream in streams:
        await stream.aclose()


async def test_waiting_commands_are_carried_out_in_order(
    served: Served, autojump_clock: trio.testing.MockClock
) -> None:
    """The errors of invalid commands between them keep their places."""
    client = Client(await served.upgrade("/ws-feed"))
    texts = [_heavy("subscribe"), "{}", _heavy("unsubscribe"), "[", _heavy("subscribe")]
    for text in texts:
        await client.say(text)
    types = [(await client.next_json())["type"] for _ in texts]

    assert types == ["subscriptions", "error", "subscriptions", "error", "subscriptions"]
    await client.stream.aclose()
