"""The feed against a scripted exchange, its errors included."""

import base64
import contextlib
import json

import pytest
import structlog
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.health import FeedState
from hedgehogd.fanout.member import Member
from hedgehogd.fanout.session import Session
from hedgehogd.protocol import notices
from hedgehogd.protocol.commands import parse
from hedgehogd.protocol.frames import encode_close, encode_ping, encode_text
from hedgehogd.protocol.signing import Credentials
from hedgehogd.protocol.wire import WEBSOCKET
from tests.feeds.script import CLOSE, ack, asked, error, full, heartbeat, level2, match, ticker

TICKER = Topic("ticker", "BTC-USD")
MATCHES = Topic("matches", "BTC-USD")
LEVEL2 = Topic("level2", "BTC-USD")


# Requests


async def test_held_topics_and_heartbeats_are_subscribed_to(autojump_clock, exchange, start_feed):
    """A heartbeat per product distinguishes a silent connection from a quiet market."""
    await start_feed(pairs=("BTC-USD", "ETH-USD"), channels=("ticker", "status"))
    line, request = await exchange.subscribed()

    products = ["BTC-USD", "ETH-USD"]
    assert asked(request) == (
        "subscribe",
        {"heartbeat": products, "status": [], "ticker": products},
    )
    assert line.head.startswith(b"GET /feed HTTP/1.1\r\n")
    assert b"Host: exchange.test\r\n" in line.head
    assert b"User-Agent: hedgehogd/" in line.head


async def test_838_products_are_five_requests(autojump_clock, exchange, start_feed):
    """The exchange limits requests per second, not products per request."""
    pairs = [f"A{number}-USD" for number in range(838)]
    await start_feed(pairs=pairs)
    line, request = await exchange.subscribed()
    requests = [request] + [await line.receive_request() for _ in range(4)]

    sizes = [sum(map(len, asked(each)[1].values())) for each in requests]
    assert sizes == [400, 400, 400, 400, 76]
    tickers = [p for each in requests for p in asked(each)[1].get("ticker", ())]
    assert tickers == sorted(pairs)


async def test_a_thousand_joiners_are_one_request(autojump_clock, exchange, start_feed):
    """A fleet that reconnects must not become a thousand messages upstream."""
    running = await start_feed(pairs=())
    for number in range(1000):
        running.demand.want([Topic("ticker", f"A{number % 100}-USD")])
        await trio.lowlevel.checkpoint()
    _, request = await exchange.subscribed()

    assert len(asked(request)[1]["ticker"]) == 100


async def test_the_first_subscriber_causes_a_subscribe_and_the_second_nothing(
    autojump_clock, exchange, start_feed
):
    """A relay sends one upstream request for all its subscribers."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    running.demand.want([MATCHES])
    request = await line.receive_request()
    running.demand.want([MATCHES])

    assert asked(request) == ("subscribe", {"matches": ["BTC-USD"]})
    with trio.move_on_after(4) as nothing:
        await line.receive_request()
    assert nothing.cancelled_caught


async def test_the_last_one_leaving_unsubscribes_after_the_linger(
    autojump_clock, exchange, start_feed, nursery
):
    """A client that reconnects within half a minute changes nothing upstream."""
    running = await start_feed(stale_after_s=1000)
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.receive_request()
    left_at = trio.current_time()
    running.demand.release([MATCHES], left_at)
    request = await line.receive_request()

    assert asked(request) == ("unsubscribe", {"matches": ["BTC-USD"]})
    assert trio.current_time() - left_at == pytest.approx(limits.LINGER_S, abs=0.1)


async def test_a_late_joiner_of_a_book_causes_a_resubscribe(autojump_clock, exchange, start_feed):
    """Updates are useless without the snapshot that only a new subscription brings."""
    running = await start_feed(channels=("level2",))
    line, _ = await exchange.subscribed()
    assert asked(await line.receive_request()) == ("subscribe", {"level2": ["BTC-USD"]})
    running.demand.ask_snapshot(LEVEL2)

    assert asked(await line.receive_request()) == ("unsubscribe", {"level2": ["BTC-USD"]})
    assert asked(await line.receive_request()) == ("subscribe", {"level2": ["BTC-USD"]})


async def test_requests_keep_to_the_exchanges_rate(autojump_clock, exchange, start_feed):
    """The exchange closes a connection with too many requests a second."""
    pairs = [f"{number}-USD" for number in range(11_000)]  # 55 requests, burst 50
    await start_feed(pairs=pairs)
    line, _ = await exchange.subscribed()
    times = []
    for _ in range(54):
        await line.receive_request()
        times.append(trio.current_time())

    assert times[48] == times[0]
    assert times[-1] - times[48] == pytest.approx(5 / limits.UPSTREAM_REQUESTS_PER_S)


# Closing


async def test_without_demand_no_connection_is_opened(autojump_clock, exchange, start_feed):
    """Coinbase closes connections that do not subscribe, so none is opened."""
    running = await start_feed(pairs=())
    await trio.sleep(100)

    assert exchange.dialled_at == []
    assert running.health.state is FeedState.IDLE


@pytest.mark.parametrize("answer", [True, False])
async def test_closing_without_demand_is_not_a_disconnect(
    autojump_clock, exchange, start_feed, answer
):
    """Idle is not an outage: no stale notice, no disconnect counted, ready at once."""
    running = await start_feed(pairs=())
    running.demand.want([TICKER])
    line, _ = await exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    frames = await line.receive_until_closed(answer=answer)
    await trio.sleep(5)

    assert [json.loads(text)["type"] for _, text in frames[:-1]] == ["unsubscribe"]
    assert (CLOSE, (1000).to_bytes(2, "big")) == frames[-1]
    assert running.health.state is FeedState.IDLE
    assert dict(running.health.losses) == {}
    assert running.notices() == []

    running.demand.want([TICKER])
    _, request = await exchange.subscribed()
    assert asked(request)[1]["ticker"] == ["BTC-USD"]
    assert len(exchange.dialled_at) == 2


@pytest.mark.parametrize("crossing", [encode_ping(b"hi"), encode_text(b"{}"), b"\xff\xff\xff"])
async def test_a_frame_that_crosses_our_close_frame_is_harmless(
    autojump_clock, exchange, start_feed, crossing
):
    """A ping that crossed our close frame once ended the daemon as a bug."""
    running = await start_feed(pairs=())
    running.demand.want([TICKER])
    line, _ = await exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    while (await line.receive_frame())[0] != CLOSE:
        pass
    await line.stream.send_all(crossing + encode_close(1000))
    await trio.sleep(1)
    running.demand.want([TICKER])

    await exchange.subscribed()
    assert dict(running.health.losses) == {}


async def test_a_released_topic_is_forgotten_and_its_late_messages_dropped(
    autojump_clock, exchange, start_feed
):
    """A subscriber that joins in an hour must get neither an old price nor a gap notice."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.receive_request()
    await line.send(match(10))
    assert await running.messages() == [match(10)]
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    assert asked(await line.receive_request())[0] == "unsubscribe"
    await line.send(match(11), ticker())
    assert await running.messages() == [ticker()]
    assert running.health.dropped["unwanted"] == 1
    assert [MATCHES in flows for flows in running.inbox.flows] == [False, True, False]
    running.demand.want([MATCHES])
    await line.receive_request()
    await line.send(match(99))
    assert await running.messages() == [match(99)]
    assert running.health.gaps == 0


async def test_matches_are_not_forgotten_while_full_is_held(autojump_clock, exchange, serve):
    """``full`` carries the trades meanwhile, so missing ones are a gap for the next subscriber."""
    running = await serve(channels=("full",))
    (line,) = await exchange.lines_with("full")
    running.demand.want([MATCHES])
    await trio.sleep(1)
    await line.send(full(100, trade_id=10), full(101))
    await wait_all_tasks_blocked()
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    await trio.sleep(1)
    running.demand.want([MATCHES])
    await trio.sleep(1)
    await line.send(full(102, trade_id=13))
    await trio.sleep(limits.GAP_PATIENCE_S + 1)
    _, notices = running.received()

    assert [
        (n["channel"], n["first_trade_id"], n["last_trade_id"])
        for n in notices
        if n["type"] == "gap"
    ] == [("matches", 11, 12)]


async def test_a_topic_released_while_the_line_is_down_is_forgotten(
    autojump_clock, exchange, start_feed
):
    """The new connection never carries the topic, so its state would never be refreshed."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.receive_request()
    await line.send(match(10))
    assert await running.messages() == [match(10)]
    await line.stream.aclose()
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    _, request = await exchange.subscribed()
    assert len((await running.inbox.receive()).notices) == 1
    running.received()

    assert "matches" not in asked(request)[1]
    assert [MATCHES in flows for flows in running.inbox.flows] == [False, True, False]


async def test_messages_not_subscribed_to_are_dropped(autojump_clock, exchange, start_feed):
    """An exchange that sends 200,000 products must not fill the memory."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.send(*(ticker(f"A{number}-USD") for number in range(100)), heartbeat(), ticker())

    assert await running.messages() == [heartbeat(), ticker()]
    assert running.health.dropped == {"unwanted": 100}


async def test_a_book_stays_held_during_a_resubscribe(autojump_clock, exchange, start_feed):
    """Other subscribers stay between the unsubscribe and the new snapshot."""
    running = await start_feed(channels=("level2",))
    line, _ = await exchange.subscribed()
    await line.receive_request()
    await line.send(level2("snapshot"), level2("l2update"))
    await running.messages()
    running.demand.ask_snapshot(LEVEL2)
    await line.receive_request()
    assert asked(await line.receive_request()) == ("subscribe", {"level2": ["BTC-USD"]})
    for kind in ("l2update", "snapshot", "l2update"):
        await line.send(level2(kind))
        assert await running.messages() == [level2(kind)]


# Receiving


async def test_a_message_is_the_very_frame_that_came(autojump_clock, exchange, start_feed):
    """Messages stay byte for byte; one read is one delivery, in order."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    spaced = b'{ "type":"ticker" , "price":"1.10000000", "product_id":"BTC-USD","sequence":7}'
    await line.send(heartbeat(), spaced, ticker(sequence=8))
    delivery = await running.inbox.receive()

    assert [m.payload for m in delivery.messages] == [heartbeat(), spaced, ticker(sequence=8)]
    assert delivery.messages[1].frame == encode_text(spaced)
    await wait_all_tasks_blocked()
    assert running.health.state is FeedState.LIVE


async def test_a_gap_notice_is_between_the_messages_around_the_gap(
    autojump_clock, exchange, start_feed
):
    """One read may have the trades before and after a gap; the notice belongs between them."""
    running = await start_feed(channels=("matches",))
    line, _ = await exchange.subscribed()
    await line.send(match(1), match(2), match(5))
    delivery = await running.inbox.receive()

    assert [m.payload for m in delivery.messages] == [match(1), match(2), match(5)]
    assert (len(delivery.notices), list(delivery.notices_at)) == (1, [2])


async def test_a_message_in_the_packet_of_the_handshake_is_received(
    autojump_clock, exchange, start_feed
):
    """A relay sends messages before the first request; TCP may join them with the handshake."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.shake_hands(after=encode_text(error("slow down")) + encode_text(ticker()))
    await wait_all_tasks_blocked()

    assert running.health.alarm == "Failed to subscribe: slow down"
    assert running.health.dropped["unwanted"] == 1  # not subscribed to yet


async def test_a_fragmented_message_is_one_message(autojump_clock, exchange, start_feed):
    """RFC 6455 allows a snapshot in fragments, with pings between them."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    text = ticker()
    first = bytes((0x01, 10)) + text[:10]
    last = bytes((0x80, len(text) - 10)) + text[10:]
    await line.stream.send_all(first + encode_ping(b"x") + last)

    delivery = await running.inbox.receive()
    assert [m.frame for m in delivery.messages] == [encode_text(text)]
    assert await line.receive_frame() == (0x8A, b"x")


async def test_garbage_is_dropped_and_counted(autojump_clock, exchange, start_feed):
    """No upstream message may end the daemon."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    junk = [b"hello", b"[]", b"{}", b'{"type":1}', b"[" * 5000]
    await line.send(*junk, b'{"type":"new_thing"}', ticker())
    await line.stream.send_all(bytes((0x82, 2)) + b"\x00\x01")  # a binary message
    await line.send(ticker(sequence=2))

    assert await running.messages() == [ticker()]
    assert await running.messages() == [ticker(sequence=2)]
    assert running.health.dropped == {"garbage": 5, "unknown_type": 1}
    assert len(exchange.dialled_at) == 1


async def test_upstream_errors_are_counted(autojump_clock, exchange, start_feed):
    """An error that names no product means that a request is wrong: it raises an alarm."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.send(b'{"type":"error","message":"Failed to subscribe","reason":"too many"}')
    await line.send(b'{"type":"subscriptions","channels":[]}', ticker())
    await running.messages()

    assert running.health.complaints == 1


async def test_a_full_inbox_pushes_back_and_loses_nothing(autojump_clock, exchange, start_feed):
    """TCP slows the exchange; the memory does not grow."""
    running = await start_feed(inbox=1)
    line, _ = await exchange.subscribed()
    for number in range(5):
        await line.send(ticker(sequence=number))
        await wait_all_tasks_blocked()

    got = []
    while len(got) < 5:
        got += await running.messages()
    assert got == [ticker(sequence=number) for number in range(5)]


class Quiet(Member):
    """A subscriber that records its notices."""

    def __init__(self):
        super().__init__()
        self.notices = []

    def write(self, chunk):
        pass

    def tell(self, payload):
        self.notices.append(json.loads(payload)["type"])

    def end(self, code, reason):
        raise AssertionError


async def test_a_refused_product_affects_no_other_subscriber(
    autojump_clock, exchange, start_feed, nursery
):
    """A typing mistake of one subscriber must not end the stream of another one."""
    running = await start_feed(pairs=())
    instance = running.instance
    nursery.start_soon(instance.broker.run, running.inbox)
    wrong, right = Quiet(), Quiet()
    for member, product in ((wrong, "NO-SUCH"), (right, "BTC-USD")):
        session = Session(f"1.{product}", member, WEBSOCKET, instance.pipe, 100)
        instance.sessions.add(session)
        wish = {"type": "subscribe", "channels": ["ticker"], "product_ids": [product]}
        session.apply(parse(json.dumps(wish)))
    line, request = await exchange.subscribed()
    assert asked(request)[1]["ticker"] == ["BTC-USD", "NO-SUCH"]
    reason = "NO-SUCH is not a valid product"
    answer = {"type": "error", "message": "Failed to subscribe", "reason": reason}
    await line.send(json.dumps(answer).encode())

    kind, channels = asked(await line.receive_request())
    assert (kind, channels["ticker"]) == ("unsubscribe", ["NO-SUCH"])
    assert wrong.notices == ["error", "subscriptions"]
    assert right.notices == []
    assert not instance.pipe.catalogue.accepts("NO-SUCH")
    assert len(exchange.dialled_at) == 1


# Channels that need a key

NEEDS_KEY = (
    "level2, level3, and full channels now require authentication."
    " https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
SECRET = base64.b64encode(b"a secret of the house").decode()


async def test_without_a_key_level2_is_served_from_level2_batch(autojump_clock, exchange, serve):
    """The exchange refuses ``level2`` by an error; subscribers get the same book."""
    running = await serve(channels=("ticker", "level2"))
    (line,) = await exchange.lines_with("level2")
    await line.send(error(NEEDS_KEY))
    await exchange.lines_with("level2_batch")
    await line.send(level2("snapshot"), level2("l2update"))
    delivery = await running.inbox.receive()
    while not delivery.messages:
        assert [r.channel for r in delivery.refusals] in ([], ["level2"])
        delivery = await running.inbox.receive()

    products = ["BTC-USD"]
    assert line.requests == [
        ("subscribe", {"heartbeat": products, "ticker": products}),
        ("subscribe", {"level2": products}),
        ("subscribe", {"level2_batch": products}),
    ]
    assert [(m.topic.channel, m.also) for m in delivery.messages] == [("level2_batch", LEVEL2)] * 2
    assert running.health.alarm == ""
    assert len(exchange.served) == 1


async def test_a_refusal_of_level2_is_remembered(autojump_clock, exchange, serve):
    """A request on every reconnect would leave the book without a snapshot meanwhile."""
    await serve(channels=("level2",))
    (line,) = await exchange.lines_with("level2")
    await line.send(error(NEEDS_KEY))
    await exchange.lines_with("level2_batch")
    await line.stream.send_eof()
    await wait_all_tasks_blocked()
    (again,) = await exchange.lines_with("level2_batch")

    products = ["BTC-USD"]
    assert again.requests == [("subscribe", {"heartbeat": products, "level2_batch": products})]


@pytest.mark.parametrize("channel", ["full", "level3"])
async def test_a_refusal_of_a_channel_names_it_and_affects_no_other(
    autojump_clock, exchange, serve, channel
):
    """``full`` has no substitute: its subscribers get an error."""
    running = await serve(channels=("ticker", channel))
    (line,) = await exchange.lines_with(channel)
    await line.send(error(NEEDS_KEY), ticker())
    refusals, messages = [], []
    while not messages:
        delivery = await running.inbox.receive()
        refusals += [(refusal.product_id, refusal.channel) for refusal in delivery.refusals]
        messages += [message.payload for message in delivery.messages]
    await trio.sleep(1)
    await exchange.lines_with("ticker")
    requests = [request for line in exchange.served for request in line.requests]

    assert (refusals, messages) == ([("", channel)], [ticker()])
    assert [channel in channels for kind, channels in requests].count(True) == 1
    assert running.health.alarm == f"Failed to subscribe: {NEEDS_KEY}"


async def test_an_alarm_outlives_a_reconnect_when_its_reason_does(autojump_clock, exchange, serve):
    """A refused channel is not requested again, so the exchange does not repeat its error."""
    running = await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    await line.send(error(NEEDS_KEY), ticker())
    await trio.sleep(1)
    for line in exchange.served:
        if not line.is_over:
            await line.stream.send_eof()
    await trio.sleep(5)

    assert len(exchange.served) >= 2
    assert running.health.alarm == f"Failed to subscribe: {NEEDS_KEY}"


async def test_an_alarm_ends_when_its_reason_is_no_longer_held(autojump_clock, exchange, serve):
    """A reload that corrects a mistake opens no connection that would end the alarm."""
    running = await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    await line.send(error(NEEDS_KEY), error("slow down"), ticker())
    await trio.sleep(1)
    before = dict(running.health.alarms)
    running.demand.hold([Topic("ticker", "BTC-USD")], trio.current_time())
    await trio.sleep(2 * limits.SUBSCRIBE_COLLECT_S)

    assert list(before) == [("", "full"), ("", "")]
    assert list(running.health.alarms) == [("", "")]
    assert running.health.alarm == "Failed to subscribe: slow down"


@pytest.mark.parametrize("reconnects", [False, True])
@pytest.mark.parametrize("channel", ["ticker", "level2"])
async def test_the_alarm_of_an_error_ends_when_all_topics_have_flowed_since(
    autojump_clock, exchange, serve, channel, reconnects
):
    """A passing error must not leave the alarm on for ever; a reconnect alone must not end it."""
    running = await serve(channels=(channel,), stale_after_s=10)
    (line,) = await exchange.lines_with(channel)
    if channel == "level2":  # without a key: level2_batch serves it
        await line.send(error(NEEDS_KEY), error(NEEDS_KEY))
        (line,) = await exchange.lines_with("level2_batch")
        await line.send(level2("snapshot"))
    await line.send(error("please try again later", "Internal error"))
    await wait_all_tasks_blocked()
    alarm = "Internal error: please try again later"
    assert running.health.alarm == alarm
    if reconnects:
        await line.stream.send_eof()
        await trio.sleep(1)
        assert running.health.alarm == alarm
        (line,) = await exchange.lines_with("level2_batch" if channel == "level2" else channel)
        if channel == "level2":
            await line.send(level2("snapshot"))
    for second in range(15):
        await line.send(heartbeat(sequence=second))
        if second < 8:
            assert running.health.alarm == alarm
        await trio.sleep(1)

    assert running.health.alarm == ""
    assert running.health.complaints == 1


async def test_the_alarm_of_an_error_stays_while_a_product_is_silent(
    autojump_clock, exchange, serve
):
    """The silent product may be the reason of the error."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await line.send(error("something else"), heartbeat("ETH-USD"))
    for second in range(60):
        await line.send(heartbeat(sequence=second))
        await trio.sleep(1)

    assert running.health.alarm == "Failed to subscribe: something else"


@pytest.mark.parametrize(
    ("channel", "data"),
    [
        ("full", b'{"type":"received","product_id":"BTC-USD","sequence":5}'),
        ("level3", b'["open","BTC-USD","5","o","1","1","2026-11-29T12:00:00Z"]'),
    ],
)
async def test_a_refusal_of_a_channel_that_was_lifted_ends_with_its_alarm(
    autojump_clock, exchange, serve, channel, data
):
    """A refused channel is requested again at intervals; its data ends alarm and refusal."""

    def asking():
        """Return the connections that requested the channel, once per request."""
        requests = [(x, kind, names) for x in exchange.served for kind, names in x.requests]
        return [x for x, kind, names in requests if kind == "subscribe" and channel in names]

    running = await serve(channels=("ticker", channel))
    (line,) = await exchange.lines_with(channel)
    await line.send(error(f"{channel} is not a valid channel"), ticker())
    await trio.sleep(limits.REFUSED_AGAIN_S - 1)
    assert len(asking()) == 1
    await trio.sleep(2)
    assert len(asking()) == 2
    allowed = []
    with contextlib.suppress(trio.WouldBlock):
        while True:
            allowed += running.inbox.receive_nowait().allowed
    assert allowed == [channel]
    assert running.health.alarm == f"Failed to subscribe: {channel} is not a valid channel"
    await asking()[-1].send(data)
    await wait_all_tasks_blocked()

    assert running.health.alarm == ""


async def test_a_refusal_of_a_product_that_was_lifted_ends_with_its_alarm(
    autojump_clock, exchange, serve
):
    """Data of the product ends the alarm."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"))
    (line,) = await exchange.lines_with("ticker")
    await line.send(error("ETH-USD is delisted"), heartbeat())
    await wait_all_tasks_blocked()
    assert running.health.alarm == "Failed to subscribe: ETH-USD is delisted"
    await line.send(ticker("ETH-USD"))
    await wait_all_tasks_blocked()

    assert running.health.alarm == ""


async def test_channels_without_a_key_have_requests_of_their_own(autojump_clock, exchange, serve):
    """A refusal cancels the whole request that it answers."""
    await serve(channels=("ticker", "matches", "level2"), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    open_one, with_key = line.raw_requests

    assert asked(with_key)[1] == {"level2": ["BTC-USD"]}
    assert asked(open_one)[1].keys() == {"heartbeat", "matches", "ticker"}
    assert "signature" not in open_one


async def test_with_a_key_the_message_is_signed(autojump_clock, exchange, serve):
    """Every request on every connection is signed with the present time, unsubscribes included."""
    credentials = Credentials("k", SECRET, "p")
    running = await serve(
        channels=("level2",), credentials=credentials, wall_us=lambda: 1_700_000_000_250_000
    )
    (line,) = await exchange.lines_with("level2")
    running.demand.ask_snapshot(LEVEL2)
    await trio.sleep(0.2)
    signed = [each for each in line.raw_requests if "level2" in asked(each)[1]]

    assert [asked(each)[0] for each in signed] == ["subscribe", "unsubscribe", "subscribe"]
    assert all(credentials.verifies(each) for each in signed)
    assert {each["timestamp"] for each in signed} == {"1700000000.250"}
    assert not Credentials("k", base64.b64encode(b"another").decode(), "p").verifies(signed[0])


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("Authentication Failed", '{"message":"Invalid API Key"}'),
        ("Sorry, you could not be authenticated: Bad Request", "invalid signature"),
    ],
)
async def test_a_bad_key_is_an_alarm_and_level2_falls_back(
    autojump_clock, exchange, serve, message, reason
):
    """The operator has to act; meanwhile subscribers have a book from ``level2_batch``."""
    running = await serve(channels=("level2",), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    await line.send(error(reason, message))
    await exchange.lines_with("level2_batch")

    assert running.health.complaints == 1
    assert running.health.alarm == f"{message}: {reason}"
    line.requests.clear()
    await trio.sleep(limits.KEY_AGAIN_S)
    assert any("level2" in asked(each)[1] for each in line.raw_requests[-3:])


async def test_no_secret_is_ever_logged(autojump_clock, exchange, serve):
    """Logs are copied to places where keys must not be."""
    key, passphrase = "the-api-key", "the-passphrase"
    credentials = Credentials(key, SECRET, passphrase)
    with structlog.testing.capture_logs() as logs:
        await serve(channels=("level2", "full"), credentials=credentials)
        (line,) = await exchange.lines_with("full")
        await line.send(heartbeat(), b"junk", error("invalid", "Authentication Failed"))
        await line.stream.send_eof()
        await trio.sleep(5)
    text = repr(logs) + repr(credentials)

    assert len(logs) > 5
    for secret in (
        key,
        SECRET,
        passphrase,
        line.raw_requests[-1]["signature"],
        "a secret of the house",
    ):
        assert secret not in text


@pytest.mark.parametrize(
    "answers",
    [
        (error(NEEDS_KEY), ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"])),
        (error("invalid", "Authentication Failed"),),
    ],
)
async def test_after_a_refusal_acknowledgements_are_still_compared(
    autojump_clock, exchange, serve, answers
):
    """A refused request is acknowledged too, unless the refusal is for an invalid key."""
    await serve(channels=("ticker", "level2"), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    assert len(line.requests) == 2
    products = ["BTC-USD"]
    await line.send(ack(heartbeat=products, ticker=products), *answers)
    await exchange.lines_with("level2_batch")
    line.requests.clear()
    await line.send(ack(heartbeat=products, level2_50=products))
    await trio.sleep(0.1)

    assert ("subscribe", {"ticker": products}) in line.requests


# Dialling


async def test_after_429_no_connection_dials_for_a_while(autojump_clock, exchange, start_feed):
    """The exchange counts by address, and blocks clients that dial too often."""
    running = await start_feed(channels=("full",), pairs=[f"A{n}-USD" for n in range(6)])
    lines = [await exchange.dialled() for _ in range(6)]
    await lines[0].receive_head()
    await lines[0].stream.send_all(b"HTTP/1.1 429 Slow\r\n\r\n")
    refused_at = trio.current_time()
    for line in lines[1:]:
        await line.stream.send_eof()
    await exchange.dialled()
    exchange.dialled_at = exchange.dialled_at[6:]
    await trio.sleep(20)

    assert (running.health.losses["refused"], running.health.losses["ended"]) == (1, 5)
    assert min(exchange.dialled_at) - refused_at >= limits.RATE_LIMITED_PAUSE_S


async def test_a_429_also_delays_dials_that_wait_already(
    autojump_clock, exchange, make_feed, nursery
):
    """With nine connections, the ninth waits for its dial when the first is refused."""
    running = make_feed(channels=("full",), pairs=[f"A{n}-USD" for n in range(8)])
    running.demand.want([TICKER])
    nursery.start_soon(running.run)
    first = await exchange.dialled()
    await first.receive_head()
    await first.stream.send_all(b"HTTP/1.1 429 Slow\r\n\r\n")
    refused_at = trio.current_time()
    await trio.sleep(limits.RATE_LIMITED_PAUSE_S - 1)

    assert len(exchange.dialled_at) == limits.DIALS_BURST
    assert max(exchange.dialled_at) == refused_at
    await trio.sleep(3)
    assert len(exchange.dialled_at) > limits.DIALS_BURST


async def test_a_thousand_reconnects_keep_to_the_dials_a_second(
    autojump_clock, exchange, start_feed
):
    """The rate of dials is bounded for any number of connections and any cause."""
    exchange.failures = [OSError("no route")] * 1000
    running = await start_feed(channels=("full",), pairs=[f"A{n}-USD" for n in range(9)], lines=2)
    for number in range(100):
        running.feed.dialer.not_before = max(
            running.feed.dialer.not_before, trio.current_time() + (5 if number % 40 == 39 else 0)
        )
        for line in running.feed._lines:
            for connection in line.connections.values():
                connection._backoff.reset()
        await trio.sleep(0.5)
    at = exchange.dialled_at

    assert len(at) > 60
    for burst, earlier in enumerate(at):
        later = [each for each in at[burst:] if each - earlier <= 10]
        assert len(later) <= limits.DIALS_BURST + 10 * limits.DIALS_PER_S + 1


async def test_binary_messages_are_counted(autojump_clock, exchange, start_feed):
    """Coinbase sends no binary messages; they are dropped."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_all(bytes((0x82, 2)) + b"\x00\x01")
    await line.stream.send_eof()
    await exchange.dialled()

    assert running.health.dropped["binary"] == 1


@pytest.mark.parametrize("lines", [1, 2])
async def test_a_permanent_refusal_ends_every_line(
    autojump_clock, exchange, make_feed, nursery, lines
):
    """Both lines get the same refusal; the daemon ends with one error."""
    running = make_feed(lines=lines)
    nursery.start_soon(running.run)
    for _ in range(lines):
        line = await exchange.dialled()
        await line.receive_head()
        await line.stream.send_all(b"HTTP/1.1 403 No\r\n\r\n")
    await trio.sleep(1)

    assert running.ended_by.for_good


async def test_a_stale_relay_is_reported_once_and_kept(
    autojump_clock, exchange, start_feed, nursery
):
    """The relay is alive and has reported why it is silent; closing would add a disconnect."""
    running = await start_feed(lines=2)
    lines = [(await exchange.subscribed())[0] for _ in range(2)]
    for line in lines:
        await line.send(heartbeat(), ticker())
        nursery.start_soon(line.answer_pings)
    await running.messages()
    for line in lines:
        await line.send(notices.stale(is_stale=True, reason="closed"))
    await trio.sleep(58.7)
    assert [notices["stale"] for notices in running.notices()] == [True]
    assert running.health.state is FeedState.STALE
    for line in lines:
        await line.send(notices.stale(is_stale=False, reason="back"))
    await trio.sleep(4.9)
    for line in lines:
        await line.send(heartbeat(sequence=2))
    await trio.sleep(5)

    assert [notices["stale"] for notices in running.notices()] == [False]
    assert running.health.state is FeedState.LIVE
    assert running.health.losses == {}
