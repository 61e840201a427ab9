"""Requests of the streaming plane, and their contents."""

import h11
import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.domain.position import Start
from hedgehogd.protocol.commands import Pace
from hedgehogd.protocol.wire import (
    NDJSON,
    NDJSON_BARE,
    SSE,
    WEBSOCKET,
    WEBSOCKET_DEFLATE,
    WEBSOCKET_STRICT,
    WEBSOCKET_STRICT_DEFLATE,
    WireForm,
)
from hedgehogd.streaming.request import Plane, plane_of, read_stream_request

KEY = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
UPGRADE = (
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    KEY,
)


def request(target: str, *headers: tuple[str, str], method: str = "GET", version: str = "1.1"):
    """Return a request as h11 parses it."""
    return h11.Request(
        method=method, target=target, headers=[("Host", "x"), *headers], http_version=version
    )


@pytest.mark.parametrize(
    ("asked", "plane"),
    [
        (request("/"), Plane.CONTROL),
        (request("/", *UPGRADE), Plane.STREAMING),
        (request("/?", *UPGRADE), Plane.STREAMING),
        (request("/nowhere", *UPGRADE), Plane.STREAMING),
        (request("/ws"), Plane.CONTROL),
        (request("/api/v1/stream"), Plane.STREAMING),
        (request("/api/v1/stream?pairs=A-B"), Plane.STREAMING),
        (request("/api/v1/streams"), Plane.CONTROL),
        (request("/api/v1/subscribe/BTC-USD"), Plane.STREAMING),
        (request("/api/v1/%73ubscribe/BTC-USD"), Plane.STREAMING),
        (request("/api/v1/subscribe/BTC-USD", method="POST"), Plane.CONTROL),
        (request("/api/v1/subscribe/BTC-USD", method="DELETE"), Plane.CONTROL),
        (request("/metrics"), Plane.CONTROL),
        (request("http://x/api/v1/stream?pairs=A-B"), Plane.STREAMING),
        (request("HTTPS://x:1/api/v1/subscribe/BTC-USD"), Plane.STREAMING),
        (request("http://x/metrics"), Plane.CONTROL),
        (request("http://x", *UPGRADE), Plane.STREAMING),
    ],
)
def test_requests_for_streams_are_recognized(asked: h11.Request, plane: Plane) -> None:
    """Path and method decide, or the upgrade."""
    assert plane == plane_of(asked)


@pytest.mark.parametrize(
    ("path", "form", "strict"),
    [
        ("/", WEBSOCKET_STRICT, True),
        ("/?", WEBSOCKET_STRICT, True),
        ("/ws-feed", WEBSOCKET_STRICT, True),
        ("http://x", WEBSOCKET_STRICT, True),
        ("http://x?", WEBSOCKET_STRICT, True),
        ("http://x/ws", WEBSOCKET, False),
        ("/ws", WEBSOCKET, False),
        ("/api/v1/stream", WEBSOCKET, False),
        ("/api/v1/subscribe/BTC-USD", WEBSOCKET, False),
    ],
)
def test_each_websocket_path_has_its_dialect(path: str, form: WireForm, strict: bool) -> None:
    """ccxt appends a bare question mark (COINBASE §15.1)."""
    asked = read_stream_request(request(path, *UPGRADE))

    assert (form, strict, KEY[1].encode()) == (asked.form, asked.is_strict, asked.websocket_key)


ANSWER = b"permessage-deflate; server_no_context_takeover; client_no_context_takeover"


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/", WEBSOCKET_STRICT_DEFLATE),
        ("/ws-feed", WEBSOCKET_STRICT_DEFLATE),
        ("/ws", WEBSOCKET_DEFLATE),
        ("/api/v1/stream", WEBSOCKET_DEFLATE),
        ("/api/v1/subscribe/BTC-USD", WEBSOCKET_DEFLATE),
    ],
)
def test_an_offer_of_compression_selects_a_form_that_deflates(path: str, form: WireForm) -> None:
    """This holds on every path of a WebSocket, in its dialect."""
    chrome = ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")
    asked = read_stream_request(request(path, *UPGRADE, chrome))

    assert (form, ANSWER) == (asked.form, asked.extensions)


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ([], b""),
        (["permessage-deflate"], ANSWER),
        (["x-other", "permessage-deflate"], ANSWER),
        (["permessage-deflate; server_max_window_bits=10", "permessage-deflate"], ANSWER),
        (["permessage-deflate; server_max_window_bits=10"], b""),
        (["x-other"], b""),
        ([";;;"], b""),
    ],
)
def test_an_unacceptable_offer_is_declined_without_an_error(
    offers: list[str], answer: bytes
) -> None:
    """The stream is served uncompressed; several headers are one list (RFC 6455 §9.1)."""
    headers = [("Sec-WebSocket-Extensions", offer) for offer in offers]
    asked = read_stream_request(request("/ws", *UPGRADE, *headers))

    assert answer == asked.extensions
    assert (WEBSOCKET_DEFLATE if answer else WEBSOCKET) is asked.form


def test_only_a_websocket_is_compressed() -> None:
    """The header has no meaning for other forms."""
    headers = [("Sec-WebSocket-Extensions", "permessage-deflate")]
    asked = read_stream_request(request("/api/v1/stream", *headers))

    assert (NDJSON[True], b"") == (asked.form, asked.extensions)


@pytest.mark.parametrize(
    ("accept", "version", "form"),
    [
        (None, "1.1", NDJSON[True]),
        ("*/*", "1.1", NDJSON[True]),
        ("*/*", "1.0", NDJSON[False]),
        ("application/x-ndjson", "1.1", NDJSON[True]),
        ("text/event-stream", "1.1", SSE[True]),
        ("TEXT/Event-Stream, */*", "1.1", SSE[True]),
        ("text/event-stream;q=0.9, */*", "1.1", NDJSON[True]),
        ("text/event-stream; charset=utf-8", "1.1", SSE[True]),
        ("application/x-ndjson;q=0, */*", "1.1", SSE[True]),
        ("text/event-stream", "1.0", SSE[False]),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "1.1", NDJSON[True]),
        ("text/event-stream;q=0, */*", "1.1", NDJSON[True]),
        ("text/event-stream ; v=1 ; Q=0.000, application/*", "1.1", NDJSON[True]),
        ("text/event-stream;q=0.001", "1.1", SSE[True]),
        ("application/x-ndjson;q=0, text/event-stream", "1.1", SSE[True]),
        ("", "1.1", NDJSON[True]),
    ],
)
def test_the_form_is_chosen_by_accept(accept: str | None, version: str, form: WireForm) -> None:
    """Plain curl gets NDJSON, an EventSource gets SSE."""
    headers = [("Accept", accept)] if accept is not None else []

    assert form is read_stream_request(request("/api/v1/stream", *headers, version=version)).form


@pytest.mark.parametrize(
    "accept",
    ["text/csv", "text/event-stream;q=0", "application/json", "*/*;q=0.0"],
)
def test_an_excluded_form_is_not_sent(accept: str) -> None:
    """A weight of 0 means never (RFC 9110 §12.4.2)."""
    with pytest.raises(SubscriberError) as caught:
        read_stream_request(request("/api/v1/stream", ("Accept", accept)))

    assert caught.value.status == 406


def requested(target: str) -> dict[str, tuple[tuple[str, ...], str | None]]:
    """Return channel → (products, policy) of the command in a request."""
    command = read_stream_request(request(target)).command
    assert command is not None
    assert command.subscribes
    return {row.channel.name: (row.product_ids, row.policy) for row in command.requests}


@pytest.mark.parametrize("query", ["", "?channels=", "?channels=%20,"])
def test_a_pair_alone_means_ticker_and_matches(query: str) -> None:
    """Without a default the stream would stay empty; pairs may be in lower case."""
    pair = (("BTC-USD",), None)

    assert {"ticker": pair, "matches": pair} == requested("/api/v1/subscribe/btc-usd" + query)


def test_channels_pairs_and_policy_are_read_from_the_query() -> None:
    """The policy applies to the channels that can be conflated: trades never are."""
    target = "/api/v1/stream?pairs=a-b,%20C-D,&channels=ticker,matches&policy=conflate"

    assert requested(target) == {
        "ticker": (("A-B", "C-D"), "conflate"),
        "matches": (("A-B", "C-D"), None),
    }


def test_an_absolute_url_is_the_same_request() -> None:
    """RFC 9112 §3.2.2: clients of a proxy send one, and a server must accept it."""
    absolute = requested("http://x:8001/api/v1/subscribe/BTC-USD?channels=ticker")

    assert absolute == requested("/api/v1/subscribe/BTC-USD?channels=ticker")


def test_a_stream_without_pairs_waits_for_commands() -> None:
    """A stream of channels without products does not wait."""
    assert None is read_stream_request(request("/api/v1/stream")).command
    assert requested("/api/v1/stream?channels=status") == {"status": ((), None)}


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        (request("/ws", *UPGRADE, method="POST"), 400),
        (request("/ws", *UPGRADE, version="1.0"), 400),
        (request("/ws", UPGRADE[0], UPGRADE[2], KEY), 400),
        (request("/ws", UPGRADE[0], UPGRADE[1], KEY), 426),
        (request("/ws", *UPGRADE[:3], ("Sec-WebSocket-Key", "short")), 400),
        (request("/ws", *UPGRADE[:3], ("Sec-WebSocket-Key", "!" * 24)), 400),
        (request("/ws", *UPGRADE, KEY), 400),
        (request("/api/v1/x", *UPGRADE), 404),
    ],
)
def test_an_invalid_handshake_is_refused(asked: h11.Request, status: int) -> None:
    """Each requirement of RFC 6455 §4.2.1 is checked."""
    with pytest.raises(SubscriberError) as caught:
        read_stream_request(asked)

    assert status == caught.value.status


BTC_TOPICS = [Topic("ticker", "BTC-USD"), Topic("matches", "BTC-USD")]
EVENTS = ("Accept", "text/event-stream")
NOW_US = 1_790_000_000_000_000


def since(target: str, *headers: tuple[str, str]) -> dict[Topic, Start]:
    command = read_stream_request(request(target, *headers), NOW_US).command
    assert command is not None
    return dict(command.since)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("135437581854", Start(135437581854)),
        ("-5m", Start(after_us=NOW_US - 300_000_001)),
        ("2026-01-31T12:00:00Z", Start(after_us=1_769_860_799_999_999)),
        ("2026-01-31T13:00:00+01:00", Start(after_us=1_769_860_799_999_999)),
    ],
)
@pytest.mark.parametrize("headers", [(), (EVENTS,), UPGRADE])
def test_a_url_has_the_start_of_a_resume(
    text: str, start: Start, headers: tuple[tuple[str, str], ...]
) -> None:
    """All channels of a pair share its sequence, so one number suffices."""
    target = f"/api/v1/subscribe/BTC-USD?since={text}"

    assert since(target, *headers) == dict.fromkeys(BTC_TOPICS, start)


def test_the_event_id_of_a_reconnect_takes_precedence_over_the_url() -> None:
    """An EventSource sends the header at each reconnect; the URL is that of its first request."""
    target = "/api/v1/subscribe/BTC-USD?since=-5m&last_event_id=ticker:BTC-USD@3"
    last = ("Last-Event-ID", "matches:BTC-USD@7,ticker:BTC-USD@8")
    ticker, matches = BTC_TOPICS

    assert since(target, EVENTS, last) == {matches: Start(7), ticker: Start(8)}
    assert since(target, EVENTS) == {ticker: Start(3)}
    assert since(target, EVENTS, ("Last-Event-ID", "")) == {ticker: Start(3)}
    assert since(target, last) == {ticker: Start(3)}  # lines have no ids
    assert since("/api/v1/subscribe/BTC-USD") == {}


@pytest.mark.parametrize("strict", ["true", "1"])
def test_a_url_may_be_strict(strict: str) -> None:
    """A recorder must learn of missing messages, to request them elsewhere."""
    target = "/api/v1/subscribe/BTC-USD?since=7&strict="
    asked = read_stream_request(request(target + strict)).command
    other = read_stream_request(request(target + "false")).command

    assert asked is not None
    assert other is not None
    assert (asked.is_strict, other.is_strict) == (True, False)
    with pytest.raises(SubscriberError, match="strict is true or false, not 'no'"):
        read_stream_request(request(target + "no"))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_lines_carry_notices_unless_the_url_opts_out(version: str) -> None:
    """``notices`` has one value, and applies to one form."""
    target, chunked = "/api/v1/subscribe/BTC-USD?notices=", version == "1.1"
    bare = read_stream_request(request(target + "none", version=version))
    assert bare.form is NDJSON_BARE[chunked]
    for value, headers in (("no", ()), ("", ()), ("none", [("Accept", "text/event-stream")])):
        with pytest.raises(SubscriberError, match="notices may be none, on NDJSON streams only"):
            read_stream_request(request(target + value, *headers))
    with pytest.raises(SubscriberError, match="'notices' is not a parameter"):
        read_stream_request(request(target + "none", *UPGRADE))


@pytest.mark.parametrize("target", ["/api/v1/subscribe/BTC-USD", "/api/v1/stream?pairs=A-B"])
def test_a_url_may_select_its_form(target: str) -> None:
    """A link and a browser's address bar cannot set ``Accept``."""
    mark = "&" if "?" in target else "?"
    for name, form in (("sse", SSE[True]), ("ndjson", NDJSON[True])):
        asked = request(f"{target}{mark}format={name}", ("Accept", "text/html"))
        assert read_stream_request(asked).form is form
    with pytest.raises(SubscriberError, match="format is ndjson or sse, not 'csv'"):
        read_stream_request(request(f"{target}{mark}format=csv"))
    with pytest.raises(SubscriberError, match="'format' is not a parameter"):
        read_stream_request(request(f"{target}{mark}format=sse", *UPGRADE))


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("/api/v1/stream?pair=BTC-USD", "'pair' is not a parameter .* did you mean pairs?"),
        ("/api/v1/stream?channel=ticker", "'channel' is .* did you mean channels?"),
        ("/api/v1/subscribe/BTC-USD?pairs=ETH-USD", "'pairs' is not a parameter"),
        ("/api/v1/subscribe/BTC-USD?order=asc", "'order' is not a parameter"),
        ("/api/v1/subscribe/BTC-USD?since=1&since=2", "since appears more than once"),
    ],
)
@pytest.mark.parametrize("headers", [(), UPGRADE])
def test_an_unknown_or_repeated_parameter_is_refused(
    target: str, said: str, headers: tuple[tuple[str, str], ...]
) -> None:
    """A stream of the wrong topics would stay empty without an error."""
    with pytest.raises(SubscriberError, match=said) as caught:
        read_stream_request(request(target, *headers))
    assert caught.value.status == 400


@pytest.mark.parametrize("path", ["/", "/ws-feed", "/ws"])
def test_websockets_that_wait_for_commands_accept_no_parameters(path: str) -> None:
    """``/ws?channels=ticker`` would get no message, and no error."""
    with pytest.raises(SubscriberError, match="which has no parameters"):
        read_stream_request(request(f"{path}?channels=ticker", *UPGRADE))


@pytest.mark.parametrize(
    "target",
    [
        "/api/v1/subscribe/BTC-USD?since=yesterday",
        "/api/v1/subscribe/BTC-USD?last_event_id=7",
        "/api/v1/stream?pairs=A-B,C-D&since=7",
    ],
)
def test_an_invalid_position_is_refused(target: str) -> None:
    """Another start would be a silent gap; a sequence belongs to one pair."""
    with pytest.raises(SubscriberError) as caught:
        read_stream_request(request(target))

    assert (caught.value.status, caught.value.code) == (400, "bad_position")


def pace(query: str) -> Pace | None:
    command = read_stream_request(request(f"/api/v1/subscribe/BTC-USD?{query}"), NOW_US).command
    assert command is not None
    return command.pace


def test_a_url_may_request_a_replay() -> None:
    """A speed or an end makes it a replay; ``since`` alone resumes."""
    assert pace("since=-5m") is None
    assert pace("since=-5m&speed=10") == Pace(10.0)
    assert pace("since=-5m&speed=0.5&until=-1m") == Pace(0.5, NOW_US - 60_000_000)
    assert pace("since=-5m&until=2026-01-31T12:00:00Z") == Pace(0.0, 1_769_860_800_000_000)
    assert pace("since=-5m&until=") == Pace()


@pytest.mark.parametrize(
    "query",
    ["speed=1", "until=-1m", "since=-5m&speed=-1", "since=-5m&speed=fast", "since=-5m&speed=nan",
        "since=-5m&speed=1001", "since=-5m&until=7", "since=-5m&until=soon", "since=-5m&speed=inf"],
)  # fmt: skip
def test_an_invalid_replay_is_refused(query: str) -> None:
    """A replay needs a start and a valid speed."""
    with pytest.raises(SubscriberError) as caught:
        pace(query)

    assert caught.value.status == 400
