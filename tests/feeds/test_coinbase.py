"""The feed against an exchange that keeps to the script, however awkward the script is."""

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


# Asking


async def test_it_asks_for_what_is_held_and_for_heartbeats(autojump_clock, exchange, start_feed):
    """A heartbeat per product is how a silent line is told from a quiet market."""
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
    """The exchange limits requests a second, not products in one."""
    pairs = [f"A{number}-USD" for number in range(838)]
    await start_feed(pairs=pairs)
    line, request = await exchange.subscribed()
    requests = [request] + [await line.hear() for _ in range(4)]

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
    """One upstream connection, asked once, is what this program is for."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    running.demand.want([MATCHES])
    request = await line.hear()
    running.demand.want([MATCHES])

    assert asked(request) == ("subscribe", {"matches": ["BTC-USD"]})
    with trio.move_on_after(4) as nothing:
        await line.hear()
    assert nothing.cancelled_caught


async def test_the_last_one_leaving_unsubscribes_after_the_linger(
    autojump_clock, exchange, start_feed, nursery
):
    """A client that reconnects within half a minute changes nothing upstream."""
    running = await start_feed(stale_after_s=1000)
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.hear()
    left_at = trio.current_time()
    running.demand.release([MATCHES], left_at)
    request = await line.hear()

    assert asked(request) == ("unsubscribe", {"matches": ["BTC-USD"]})
    assert trio.current_time() - left_at == pytest.approx(limits.LINGER_S, abs=0.1)


async def test_a_late_joiner_of_a_book_gets_it_asked_for_anew(autojump_clock, exchange, start_feed):
    """Changes mean nothing without the snapshot that only a new subscription brings."""
    running = await start_feed(channels=("level2",))
    line, _ = await exchange.subscribed()
    assert asked(await line.hear()) == ("subscribe", {"level2": ["BTC-USD"]})
    running.demand.ask_snapshot(LEVEL2)

    assert asked(await line.hear()) == ("unsubscribe", {"level2": ["BTC-USD"]})
    assert asked(await line.hear()) == ("subscribe", {"level2": ["BTC-USD"]})


async def test_requests_keep_to_the_exchanges_rate(autojump_clock, exchange, start_feed):
    """Too many requests a second and the exchange hangs up; then the storm begins."""
    pairs = [f"{number}-USD" for number in range(11_000)]  # 55 requests, burst 50
    await start_feed(pairs=pairs)
    line, _ = await exchange.subscribed()
    times = []
    for _ in range(54):
        await line.hear()
        times.append(trio.current_time())

    assert times[48] == times[0]
    assert times[-1] - times[48] == pytest.approx(5 / limits.UPSTREAM_REQUESTS_PER_S)


# Hanging up


async def test_with_nothing_wanted_nothing_is_connected(autojump_clock, exchange, start_feed):
    """Coinbase closes connections that do not subscribe; so none is opened."""
    running = await start_feed(pairs=())
    await trio.sleep(100)

    assert exchange.dialled_at == []
    assert running.health.state is FeedState.IDLE


@pytest.mark.parametrize("answer", [True, False])
async def test_it_hangs_up_when_nothing_is_wanted_and_that_is_no_loss(
    autojump_clock, exchange, start_feed, answer
):
    """Idle is not ill: no stale notice, no loss counted, ready again at once."""
    running = await start_feed(pairs=())
    running.demand.want([TICKER])
    line, _ = await exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    frames = await line.hear_end(answer=answer)
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
async def test_what_crosses_our_close_ends_nothing(autojump_clock, exchange, start_feed, crossing):
    """A ping on its way when we hang up once ended the daemon as a bug."""
    running = await start_feed(pairs=())
    running.demand.want([TICKER])
    line, _ = await exchange.subscribed()
    running.demand.release([TICKER], trio.current_time() - limits.LINGER_S)
    while (await line.hear_frame())[0] != CLOSE:
        pass
    await line.stream.send_all(crossing + encode_close(1000))
    await trio.sleep(1)
    running.demand.want([TICKER])

    await exchange.subscribed()
    assert dict(running.health.losses) == {}


async def test_what_no_longer_flows_is_forgotten_and_its_stragglers_dropped(
    autojump_clock, exchange, start_feed
):
    """Whoever joins in an hour must not be greeted with a price of now, nor hear of a gap."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.hear()
    await line.say(match(10))
    assert await running.messages() == [match(10)]
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    assert asked(await line.hear())[0] == "unsubscribe"
    await line.say(match(11), ticker())
    assert await running.messages() == [ticker()]
    assert running.health.dropped["unwanted"] == 1
    assert [MATCHES in flows for flows in running.inbox.flows] == [False, True, False]
    running.demand.want([MATCHES])
    await line.hear()
    await line.say(match(99))
    assert await running.messages() == [match(99)]
    assert running.health.gaps == 0


async def test_matches_are_not_forgotten_while_full_is_held(autojump_clock, exchange, serve):
    """``full`` brings them all the while: a hole is one, whoever comes and goes."""
    running = await serve(channels=("full",))
    (line,) = await exchange.lines_with("full")
    running.demand.want([MATCHES])
    await trio.sleep(1)
    await line.say(full(100, trade_id=10), full(101))
    await wait_all_tasks_blocked()
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    await trio.sleep(1)
    running.demand.want([MATCHES])
    await trio.sleep(1)
    await line.say(full(102, trade_id=13))
    await trio.sleep(limits.GAP_PATIENCE_S + 1)
    _, told = running.taken()

    assert [
        (n["channel"], n["first_trade_id"], n["last_trade_id"]) for n in told if n["type"] == "gap"
    ] == [("matches", 11, 12)]


async def test_what_ceases_to_be_wanted_while_the_line_is_down_is_forgotten(
    autojump_clock, exchange, start_feed
):
    """The new connection never carries it, so nothing would ever refresh it."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    running.demand.want([MATCHES])
    await line.hear()
    await line.say(match(10))
    assert await running.messages() == [match(10)]
    await line.stream.aclose()
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    _, request = await exchange.subscribed()
    assert len((await running.inbox.receive()).notices) == 1
    running.taken()

    assert "matches" not in asked(request)[1]
    assert [MATCHES in flows for flows in running.inbox.flows] == [False, True, False]


async def test_what_was_not_asked_for_is_dropped(autojump_clock, exchange, start_feed):
    """An exchange that sends 200,000 products must not fill our memory with them."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.say(*(ticker(f"A{number}-USD") for number in range(100)), heartbeat(), ticker())

    assert await running.messages() == [heartbeat(), ticker()]
    assert running.health.dropped == {"unwanted": 100}


async def test_a_book_asked_for_anew_is_wanted_all_along(autojump_clock, exchange, start_feed):
    """Its other subscribers read on between our unsubscribe and the new snapshot."""
    running = await start_feed(channels=("level2",))
    line, _ = await exchange.subscribed()
    await line.hear()
    await line.say(level2("snapshot"), level2("l2update"))
    await running.messages()
    running.demand.ask_snapshot(LEVEL2)
    await line.hear()
    assert asked(await line.hear()) == ("subscribe", {"level2": ["BTC-USD"]})
    for kind in ("l2update", "snapshot", "l2update"):
        await line.say(level2(kind))
        assert await running.messages() == [level2(kind)]


# Receiving


async def test_a_message_is_the_very_frame_that_came(autojump_clock, exchange, start_feed):
    """Raw is sacred; and one read is one delivery, in order."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    odd = b'{ "type":"ticker" , "price":"1.10000000", "product_id":"BTC-USD","sequence":7}'
    await line.say(heartbeat(), odd, ticker(sequence=8))
    delivery = await running.inbox.receive()

    assert [m.payload for m in delivery.messages] == [heartbeat(), odd, ticker(sequence=8)]
    assert delivery.messages[1].frame == encode_text(odd)
    await wait_all_tasks_blocked()
    assert running.health.state is FeedState.LIVE


async def test_a_gap_is_told_where_it_is(autojump_clock, exchange, start_feed):
    """A read may carry trades from both sides of it; the notice belongs between them."""
    running = await start_feed(channels=("matches",))
    line, _ = await exchange.subscribed()
    await line.say(match(1), match(2), match(5))
    delivery = await running.inbox.receive()

    assert [m.payload for m in delivery.messages] == [match(1), match(2), match(5)]
    assert (len(delivery.notices), list(delivery.notices_at)) == (1, [2])


async def test_what_is_said_behind_the_handshake_is_heard(autojump_clock, exchange, start_feed):
    """A relay greets before it is asked; TCP may deliver both in one packet."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.shake_hands(behind=encode_text(error("slow down")) + encode_text(ticker()))
    await wait_all_tasks_blocked()

    assert running.health.alarm == "Failed to subscribe: slow down"
    assert running.health.dropped["unwanted"] == 1  # nobody had asked for it yet


async def test_a_fragmented_message_is_one_message(autojump_clock, exchange, start_feed):
    """RFC 6455 lets an exchange send a snapshot in pieces, with pings between."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    text = ticker()
    first = bytes((0x01, 10)) + text[:10]
    last = bytes((0x80, len(text) - 10)) + text[10:]
    await line.stream.send_all(first + encode_ping(b"x") + last)

    delivery = await running.inbox.receive()
    assert [m.frame for m in delivery.messages] == [encode_text(text)]
    assert await line.hear_frame() == (0x8A, b"x")


async def test_garbage_is_dropped_and_counted(autojump_clock, exchange, start_feed):
    """Crash never on what others send."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    junk = [b"hello", b"[]", b"{}", b'{"type":1}', b"[" * 5000]
    await line.say(*junk, b'{"type":"new_thing"}', ticker())
    await line.stream.send_all(bytes((0x82, 2)) + b"\x00\x01")  # a binary message
    await line.say(ticker(sequence=2))

    assert await running.messages() == [ticker()]
    assert await running.messages() == [ticker(sequence=2)]
    assert running.health.dropped == {"garbage": 5, "unknown_type": 1}
    assert len(exchange.dialled_at) == 1


async def test_complaints_of_the_exchange_are_counted(autojump_clock, exchange, start_feed):
    """An error about no product means that we are doing something wrong: an alarm."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.say(b'{"type":"error","message":"Failed to subscribe","reason":"too many"}')
    await line.say(b'{"type":"subscriptions","channels":[]}', ticker())
    await running.messages()

    assert running.health.complaints == 1


async def test_a_full_inbox_pushes_back_and_loses_nothing(autojump_clock, exchange, start_feed):
    """TCP makes the exchange wait; memory does not grow."""
    running = await start_feed(inbox=1)
    line, _ = await exchange.subscribed()
    for number in range(5):
        await line.say(ticker(sequence=number))
        await wait_all_tasks_blocked()

    got = []
    while len(got) < 5:
        got += await running.messages()
    assert got == [ticker(sequence=number) for number in range(5)]


class Quiet(Member):
    """A subscriber that remembers what it was told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def write(self, chunk):
        pass

    def tell(self, payload):
        self.told.append(json.loads(payload)["type"])

    def end(self, code, reason):
        raise AssertionError


async def test_a_refused_product_hurts_nobody_else(autojump_clock, exchange, start_feed, nursery):
    """One typo of one subscriber must not cost another one its stream."""
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
    await line.say(json.dumps(answer).encode())

    kind, channels = asked(await line.hear())
    assert (kind, channels["ticker"]) == ("unsubscribe", ["NO-SUCH"])
    assert wrong.told == ["error", "subscriptions"]
    assert right.told == []
    assert not instance.pipe.catalogue.accepts("NO-SUCH")
    assert len(exchange.dialled_at) == 1


# Channels that need a key

NEEDS_KEY = (
    "level2, level3, and full channels now require authentication."
    " https://docs.cloud.coinbase.com/exchange/docs/websocket-auth"
)
SECRET = base64.b64encode(b"a secret of the house").decode()


async def test_without_a_key_level2_is_served_from_level2_batch(autojump_clock, exchange, serve):
    """The exchange refuses it in so many words; subscribers notice nothing."""
    running = await serve(channels=("ticker", "level2"))
    (line,) = await exchange.lines_with("level2")
    await line.say(error(NEEDS_KEY))
    await exchange.lines_with("level2_batch")
    await line.say(level2("snapshot"), level2("l2update"))
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
    """Asking again on every reconnect would leave the book without a snapshot meanwhile."""
    await serve(channels=("level2",))
    (line,) = await exchange.lines_with("level2")
    await line.say(error(NEEDS_KEY))
    await exchange.lines_with("level2_batch")
    await line.stream.send_eof()
    await wait_all_tasks_blocked()
    (again,) = await exchange.lines_with("level2_batch")

    products = ["BTC-USD"]
    assert again.requests == [("subscribe", {"heartbeat": products, "level2_batch": products})]


@pytest.mark.parametrize("channel", ["full", "level3"])
async def test_a_refusal_of_a_channel_names_it_and_hurts_no_other(
    autojump_clock, exchange, serve, channel
):
    """Nothing stands in for ``full``: whoever asked for it has to know."""
    running = await serve(channels=("ticker", channel))
    (line,) = await exchange.lines_with(channel)
    await line.say(error(NEEDS_KEY), ticker())
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
    """What is refused is not asked for again, so the exchange will not say it again."""
    running = await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    await line.say(error(NEEDS_KEY), ticker())
    await trio.sleep(1)
    for line in exchange.served:
        if not line.is_over:
            await line.stream.send_eof()
    await trio.sleep(5)

    assert len(exchange.served) >= 2
    assert running.health.alarm == f"Failed to subscribe: {NEEDS_KEY}"


async def test_an_alarm_ends_when_its_reason_is_no_longer_held(autojump_clock, exchange, serve):
    """A mistake that a reload has mended brings no new connection that would end it."""
    running = await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    await line.say(error(NEEDS_KEY), error("slow down"), ticker())
    await trio.sleep(1)
    before = dict(running.health.alarms)
    running.demand.hold([Topic("ticker", "BTC-USD")], trio.current_time())
    await trio.sleep(2 * limits.SUBSCRIBE_COLLECT_S)

    assert list(before) == [("", "full"), ("", "")]
    assert list(running.health.alarms) == [("", "")]
    assert running.health.alarm == "Failed to subscribe: slow down"


@pytest.mark.parametrize("reconnects", [False, True])
@pytest.mark.parametrize("channel", ["ticker", "level2"])
async def test_a_complaint_ends_when_all_has_flowed_since(
    autojump_clock, exchange, serve, channel, reconnects
):
    """A passing error must not leave the alarm on for ever, nor the next connection end it."""
    running = await serve(channels=(channel,), stale_after_s=10)
    (line,) = await exchange.lines_with(channel)
    if channel == "level2":  # without a key: level2_batch serves it
        await line.say(error(NEEDS_KEY), error(NEEDS_KEY))
        (line,) = await exchange.lines_with("level2_batch")
        await line.say(level2("snapshot"))
    await line.say(error("please try again later", "Internal error"))
    await wait_all_tasks_blocked()
    complaint = "Internal error: please try again later"
    assert running.health.alarm == complaint
    if reconnects:
        await line.stream.send_eof()
        await trio.sleep(1)
        assert running.health.alarm == complaint
        (line,) = await exchange.lines_with("level2_batch" if channel == "level2" else channel)
        if channel == "level2":
            await line.say(level2("snapshot"))
    for second in range(15):
        await line.say(heartbeat(sequence=second))
        if second < 8:
            assert running.health.alarm == complaint
        await trio.sleep(1)

    assert running.health.alarm == ""
    assert running.health.complaints == 1


async def test_a_complaint_stays_while_a_product_is_silent(autojump_clock, exchange, serve):
    """It may be the reason."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await line.say(error("something else"), heartbeat("ETH-USD"))
    for second in range(60):
        await line.say(heartbeat(sequence=second))
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
    """Asked for again now and then; its data ends the alarm, and subscribers may have it."""

    def asking():
        """Return the lines that asked for the channel, one for each time."""
        requests = [(x, kind, names) for x in exchange.served for kind, names in x.requests]
        return [x for x, kind, names in requests if kind == "subscribe" and channel in names]

    running = await serve(channels=("ticker", channel))
    (line,) = await exchange.lines_with(channel)
    await line.say(error(f"{channel} is not a valid channel"), ticker())
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
    await asking()[-1].say(data)
    await wait_all_tasks_blocked()

    assert running.health.alarm == ""


async def test_a_refusal_of_a_product_that_was_lifted_ends_with_its_alarm(
    autojump_clock, exchange, serve
):
    """Its data disproves it."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"))
    (line,) = await exchange.lines_with("ticker")
    await line.say(error("ETH-USD is delisted"), heartbeat())
    await wait_all_tasks_blocked()
    assert running.health.alarm == "Failed to subscribe: ETH-USD is delisted"
    await line.say(ticker("ETH-USD"))
    await wait_all_tasks_blocked()

    assert running.health.alarm == ""


async def test_open_channels_are_asked_for_in_messages_of_their_own(
    autojump_clock, exchange, serve
):
    """A refusal voids the message that it answers."""
    await serve(channels=("ticker", "matches", "level2"), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    open_one, with_key = line.said

    assert asked(with_key)[1] == {"level2": ["BTC-USD"]}
    assert asked(open_one)[1].keys() == {"heartbeat", "matches", "ticker"}
    assert "signature" not in open_one


async def test_with_a_key_the_message_is_signed(autojump_clock, exchange, serve):
    """With the time of the moment, on every connection, unsubscribes included."""
    credentials = Credentials("k", SECRET, "p")
    running = await serve(
        channels=("level2",), credentials=credentials, wall_s=lambda: 1700000000.25
    )
    (line,) = await exchange.lines_with("level2")
    running.demand.ask_snapshot(LEVEL2)
    await trio.sleep(0.2)
    signed = [each for each in line.said if "level2" in asked(each)[1]]

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
    """The operator has to act; subscribers have a book meanwhile."""
    running = await serve(channels=("level2",), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    await line.say(error(reason, message))
    await exchange.lines_with("level2_batch")

    assert running.health.complaints == 1
    assert running.health.alarm == f"{message}: {reason}"
    line.requests.clear()
    await trio.sleep(limits.KEY_AGAIN_S)
    assert any("level2" in asked(each)[1] for each in line.said[-3:])  # perhaps it is believed now


async def test_no_secret_is_ever_logged(autojump_clock, exchange, serve):
    """Logs go to places where keys must not."""
    key, passphrase = "the-api-key", "the-passphrase"
    credentials = Credentials(key, SECRET, passphrase)
    with structlog.testing.capture_logs() as logs:
        await serve(channels=("level2", "full"), credentials=credentials)
        (line,) = await exchange.lines_with("full")
        await line.say(heartbeat(), b"junk", error("invalid", "Authentication Failed"))
        await line.stream.send_eof()
        await trio.sleep(5)
    text = repr(logs) + repr(credentials)

    assert len(logs) > 5
    for secret in (key, SECRET, passphrase, line.said[-1]["signature"], "a secret of the house"):
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
    """A refused request is acknowledged as well, unless it is our own key that is no good."""
    await serve(channels=("ticker", "level2"), credentials=Credentials("k", SECRET, "p"))
    (line,) = await exchange.lines_with("level2")
    assert len(line.requests) == 2
    products = ["BTC-USD"]
    await line.say(ack(heartbeat=products, ticker=products), *answers)
    await exchange.lines_with("level2_batch")
    line.requests.clear()
    await line.say(ack(heartbeat=products, level2_50=products))
    await trio.sleep(0.1)

    assert ("subscribe", {"ticker": products}) in line.requests


# Dialling


async def test_after_429_nobody_dials_for_a_while(autojump_clock, exchange, start_feed):
    """The exchange counts addresses, not connections: eager clients are locked out."""
    running = await start_feed(channels=("full",), pairs=[f"A{n}-USD" for n in range(6)])
    lines = [await exchange.dialled() for _ in range(6)]
    await lines[0].hear_head()
    await lines[0].stream.send_all(b"HTTP/1.1 429 Slow\r\n\r\n")
    refused_at = trio.current_time()
    for line in lines[1:]:
        await line.stream.send_eof()
    await exchange.dialled()
    exchange.dialled_at = exchange.dialled_at[6:]
    await trio.sleep(20)

    assert (running.health.losses["refused"], running.health.losses["ended"]) == (1, 5)
    assert min(exchange.dialled_at) - refused_at >= limits.RATE_LIMITED_PAUSE_S


async def test_who_waits_for_a_dial_already_hears_of_a_429(
    autojump_clock, exchange, make_feed, nursery
):
    """Nine connections: the ninth stands in line when the first is refused."""
    running = make_feed(channels=("full",), pairs=[f"A{n}-USD" for n in range(8)])
    running.demand.want([TICKER])
    nursery.start_soon(running.run)
    first = await exchange.dialled()
    await first.hear_head()
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
    """Whatever ends connections, and however many there are, dials are bounded."""
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
    """The feed has none; whoever sends them is no Coinbase."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_all(bytes((0x82, 2)) + b"\x00\x01")
    await line.stream.send_eof()
    await exchange.dialled()

    assert running.health.dropped["binary"] == 1


@pytest.mark.parametrize("lines", [1, 2])
async def test_for_good_is_for_good_on_every_line(
    autojump_clock, exchange, make_feed, nursery, lines
):
    """Two lines are refused in the same words; the daemon ends once."""
    running = make_feed(lines=lines)
    nursery.start_soon(running.run)
    for _ in range(lines):
        line = await exchange.dialled()
        await line.hear_head()
        await line.stream.send_all(b"HTTP/1.1 403 No\r\n\r\n")
    await trio.sleep(1)

    assert running.ended_by.for_good


async def test_a_relay_that_is_stale_itself_is_told_once_and_kept(
    autojump_clock, exchange, start_feed, nursery
):
    """It is alive and has said why it is silent; hanging up on it would be one more loss."""
    running = await start_feed(lines=2)
    lines = [(await exchange.subscribed())[0] for _ in range(2)]
    for line in lines:
        await line.say(heartbeat(), ticker())
        nursery.start_soon(line.answer_pings)
    await running.messages()
    for line in lines:
        await line.say(notices.stale(is_stale=True, reason="closed"))
    await trio.sleep(58.7)
    assert [told["stale"] for told in running.notices()] == [True]
    assert running.health.state is FeedState.STALE
    for line in lines:
        await line.say(notices.stale(is_stale=False, reason="back"))
    await trio.sleep(4.9)
    for line in lines:
        await line.say(heartbeat(sequence=2))
    await trio.sleep(5)

    assert [told["stale"] for told in running.notices()] == [False]
    assert running.health.state is FeedState.LIVE
    assert running.health.losses == {}
