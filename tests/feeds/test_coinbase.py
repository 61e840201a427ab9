"""The feed against an exchange that keeps to the script, however awkward the script is."""

import json
import ssl
from itertools import pairwise
from random import Random

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.health import FeedState
from hedgehogd.engine.member import Member
from hedgehogd.engine.session import Session
from hedgehogd.protocol.commands import parse
from hedgehogd.protocol.frames import encode_close, encode_ping, encode_pong, encode_text
from hedgehogd.protocol.wire import WEBSOCKET
from tests.feeds.script import CLOSE, PING, heartbeat, match, ticker

TICKER = Topic("ticker", "BTC-USD")
MATCHES = Topic("matches", "BTC-USD")
LEVEL2 = Topic("level2", "BTC-USD")


def asked(request):
    """Return what a request asks for: its type, and channel -> products."""
    channels = {row["name"]: row.get("product_ids", []) for row in request["channels"]}
    return request["type"], channels


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
    line, request = await exchange.subscribed()
    assert asked(request)[1]["level2_batch"] == ["BTC-USD"]
    running.demand.ask_snapshot(LEVEL2)

    assert asked(await line.hear()) == ("unsubscribe", {"level2_batch": ["BTC-USD"]})
    assert asked(await line.hear()) == ("subscribe", {"level2_batch": ["BTC-USD"]})


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
    running.demand.want([MATCHES])
    line, _ = await exchange.subscribed()
    await line.say(match(10))
    assert await running.messages() == [match(10)]
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    assert asked(await line.hear())[0] == "unsubscribe"
    assert (await running.inbox.receive()).forgotten == (MATCHES,)

    await line.say(match(11), ticker())
    assert await running.messages() == [ticker()]
    assert running.health.dropped["unwanted"] == 1
    running.demand.want([MATCHES])
    await line.hear()
    await line.say(match(99))
    assert await running.messages() == [match(99)]
    assert running.health.gaps == 0


async def test_what_ceases_to_be_wanted_while_the_line_is_down_is_forgotten(
    autojump_clock, exchange, start_feed
):
    """The new connection never carries it, so nothing would ever refresh it."""
    running = await start_feed()
    running.demand.want([MATCHES])
    line, _ = await exchange.subscribed()
    await line.say(match(10))
    assert await running.messages() == [match(10)]
    await line.stream.aclose()
    running.demand.release([MATCHES], trio.current_time() - limits.LINGER_S)
    _, request = await exchange.subscribed()
    stale, forgets = await running.inbox.receive(), await running.inbox.receive()

    assert "matches" not in asked(request)[1]
    assert (bool(stale.notices), forgets.forgotten) == (True, (MATCHES,))


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
    running.demand.ask_snapshot(LEVEL2)
    change = b'{"type":"l2update","product_id":"BTC-USD","changes":[]}'
    for expected in ("unsubscribe", "subscribe"):
        assert asked(await line.hear())[0] == expected
        await line.say(change)
        assert await running.messages() == [change]


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
    assert running.health.state is FeedState.LIVE


async def test_a_gap_is_told_where_it_is(autojump_clock, exchange, start_feed):
    """A read may carry trades from both sides of it; the notice belongs between them."""
    running = await start_feed(channels=("matches",))
    line, _ = await exchange.subscribed()
    await line.say(match(1), match(2), match(5))
    first, second = await running.inbox.receive(), await running.inbox.receive()

    assert [m.payload for m in first.messages] == [match(1), match(2)]
    assert [m.payload for m in second.messages] == [match(5)]
    assert [len(first.notices), len(second.notices)] == [0, 1]


async def test_messages_behind_the_handshake_are_not_lost(autojump_clock, exchange, start_feed):
    """A relay greets before it is asked; TCP may deliver both in one packet."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.shake_hands(behind=encode_text(ticker()))

    assert await running.messages() == [ticker()]


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


# Silence


async def test_a_line_without_a_byte_is_dialled_again(autojump_clock, exchange, start_feed):
    """Ten seconds of nothing, although we pinged: dead, whatever TCP says."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    frames = await line.hear_end()
    await exchange.subscribed()

    assert PING in [first for first, _ in frames]
    assert exchange.dialled_at == pytest.approx([0, limits.STALE_AFTER_S + 0.5], abs=0.1)
    assert running.health.losses == {"silent": 1}
    assert "no byte" in running.notices()[0]["reason"]


async def test_a_line_that_answers_pings_but_beats_no_more_is_dialled_again(
    autojump_clock, exchange, start_feed, nursery
):
    """The most common complaint about this exchange: open, and says nothing."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.say(heartbeat())
    nursery.start_soon(line.answer_pings)
    await exchange.subscribed()

    assert exchange.dialled_at == pytest.approx([0, limits.STALE_AFTER_S + 0.5], abs=0.1)
    assert running.health.losses == {"silent": 1}
    assert "no heartbeat" in running.notices()[0]["reason"]


@pytest.mark.parametrize("heard_at", [0.1, 2.6, 4.9, 5.1, 9.9])
async def test_silence_is_noticed_when_patience_ends_and_no_later(
    autojump_clock, exchange, start_feed, heard_at
):
    """Ten seconds are ten seconds: a ping that waits for its answer must not add five."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await trio.sleep(heard_at)
    await line.say(ticker())
    said_at = trio.current_time()
    while running.health.state is not FeedState.STALE:
        await trio.sleep(0.01)

    assert trio.current_time() - said_at == pytest.approx(10, abs=0.1)


async def test_a_slow_handshake_is_no_silence(autojump_clock, exchange, start_feed, nursery):
    """Patience begins with the exchange's answer, not with our dial."""
    running = await start_feed(stale_after_s=5)
    line = await exchange.dialled()
    await trio.sleep(6)
    await line.shake_hands()
    await line.hear()
    nursery.start_soon(line.answer_pings)
    await trio.sleep(30)

    assert running.health.losses == {}


async def test_a_line_that_answers_pings_and_never_beat_is_kept(
    autojump_clock, exchange, start_feed, nursery
):
    """A replayed recording may have no heartbeats; a pong proves that the peer lives."""
    await start_feed()
    line, _ = await exchange.subscribed()
    nursery.start_soon(line.answer_pings)
    await trio.sleep(120)

    assert len(exchange.dialled_at) == 1


# Loss, and coming back


async def _eof(line):
    await line.stream.send_eof()


async def _reset(line):
    line.break_next_read()
    await line.say(heartbeat())


def raw(data):
    async def say(line):
        await line.stream.send_all(data)

    return say


def close(code):
    async def say(line):
        await line.stream.send_all(encode_close(code, "because"))

    return say


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (_eof, "closed: 1006"),
        (_reset, "closed: 1006"),
        (close(1000), "closed: 1000 because"),
        (close(1001), "closed: 1001 because"),
        (close(1011), "closed: 1011 because"),
        (close(1012), "closed: 1012 because"),
        (close(4001), "closed: 4001 because"),
        (raw(encode_close(None)), "closed: 1005"),
        (raw(b"\x88\x01\x03"), "closed"),  # half a close code
        (raw(b"\x88\x02\x00\x01"), "closed"),  # code 1
        (raw(b"\xc1\x02{}"), "protocol: a data frame begins with 0xc1"),
        (raw(b"\x81\x82\x00\x00\x00\x00{}"), "protocol: "),  # masked
        (raw(b"\x81\xfe\x00\x80\x00\x00\x00\x00" + b"x" * 128), "protocol: "),  # masked, longer
        (raw(b"\x81\x02\xff\xff"), "protocol: a text message is not UTF-8"),
        (raw(b"\x80\x00"), "protocol: a continuation of nothing"),
        (raw(b"\x81\x7e\x00\x01x"), "protocol: a frame's length is not in its shortest form"),
        (raw(b"\x81\x7f" + (1 << 40).to_bytes(8, "big")), "protocol: a frame of 1099511627776"),
        (raw(b"\x09\x00"), "protocol: a control frame begins with 0x09"),
        (raw(b"HTTP/1.1 500 oops\r\n\r\n"), ""),
    ],
)
async def test_however_a_line_ends_all_is_asked_for_again(
    autojump_clock, exchange, start_feed, end, reason
):
    """Exchanges, proxies and cables end connections in every way there is."""
    running = await start_feed()
    running.demand.want([MATCHES])
    line, first = await exchange.subscribed()
    await line.say(ticker())
    assert await running.messages() == [ticker()]
    await end(line)
    again_line, again = await exchange.subscribed()

    assert again == first
    assert running.health.state is FeedState.STALE
    told = running.notices()
    assert [(notice["type"], notice["stale"]) for notice in told] == [("stale", True)]
    assert told[0]["reason"].startswith(reason)
    assert sum(running.health.losses.values()) == 1

    await again_line.say(ticker(sequence=2))
    delivery = await running.inbox.receive()
    assert [json.loads(n.payload)["stale"] for n in delivery.notices] == [False]
    assert [m.payload for m in delivery.messages] == [ticker(sequence=2)]
    assert running.health.state is FeedState.LIVE
    assert running.health.connects == 2


@pytest.mark.parametrize(
    ("wrong", "code"),
    [(b"\x81\x82", 1002), (b"\x81\x02\xff\xff", 1007), (b"\x81\x7e\x27\x10", 1009)],
)
async def test_a_broken_protocol_is_answered_with_its_code(
    autojump_clock, exchange, start_feed, wrong, code
):
    """The exchange's people find in their logs what we could not read."""
    await start_feed(message_bytes_max=1000)
    line, _ = await exchange.subscribed()
    await line.stream.send_all(wrong)

    assert (await line.hear_end())[-1] == (CLOSE, code.to_bytes(2, "big"))


async def test_a_loss_is_told_once_and_its_end_once(autojump_clock, exchange, start_feed):
    """Ten failed dials are one outage to a subscriber."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.say(ticker())
    await running.messages()
    exchange.failures = [ConnectionRefusedError("refused")] * 5
    await line.stream.send_eof()
    again, _ = await exchange.subscribed()
    await again.say(ticker(sequence=2))
    await again.say(ticker(sequence=3))
    await wait_all_tasks_blocked()

    assert [notice["stale"] for notice in running.notices()] == [True, False]
    assert running.health.losses == {"closed": 1, "network": 5}


async def test_trades_missed_while_the_line_was_down_are_a_gap(
    autojump_clock, exchange, start_feed
):
    """Trade ids rise by one across connections: what is missing can be named."""
    running = await start_feed(channels=("matches",))
    line, _ = await exchange.subscribed()
    await line.say(match(10))
    await running.messages()
    await line.stream.send_eof()
    again, _ = await exchange.subscribed()
    await again.say(match(10), match(13))
    await wait_all_tasks_blocked()
    gaps = [notice for notice in running.notices() if notice["type"] == "gap"]

    assert [(gap["first_trade_id"], gap["last_trade_id"]) for gap in gaps] == [(11, 12)]
    assert (running.health.gaps, running.health.trades_missing) == (1, 2)
    assert running.health.dropped["repeat"] == 1


async def test_pauses_double_up_to_a_cap(autojump_clock, exchange, start_feed):
    """An exchange that is down is not helped by being dialled every second."""
    exchange.failures = [ConnectionRefusedError("refused")] * 9
    running = await start_feed()
    await exchange.subscribed()
    at = exchange.dialled_at

    pauses = [later - earlier for earlier, later in pairwise(at)]
    assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30, 30])
    assert running.health.losses == {"network": 9}


async def test_pauses_are_jittered(autojump_clock, exchange, start_feed):
    """A fleet that lost its feed at one moment must not dial at one moment."""
    exchange.failures = [OSError("no route")] * 30
    await start_feed(random=Random(7))
    await exchange.subscribed()
    at = exchange.dialled_at

    capped = [later - earlier for earlier, later in pairwise(at[10:])]
    assert all(15 <= pause <= 30 for pause in capped)
    assert len({round(pause, 6) for pause in capped}) == len(capped)


async def test_after_a_long_life_the_first_pause_is_short_again(
    autojump_clock, exchange, start_feed, nursery
):
    """A night's outage must not slow down tomorrow's reconnect."""
    exchange.failures = [OSError("no route")] * 6
    await start_feed()
    line, _ = await exchange.subscribed()
    nursery.start_soon(line.answer_pings)
    await trio.sleep(limits.BACKOFF_RESET_S + 1)
    ended_at = trio.current_time()
    await line.stream.send_all(encode_close(1001))
    await exchange.subscribed()

    assert exchange.dialled_at[-1] - ended_at == pytest.approx(limits.BACKOFF_FIRST_S, abs=0.01)


async def test_a_line_that_ends_at_once_is_no_good_line(autojump_clock, exchange, start_feed):
    """Accepting and hanging up must not turn into a dial loop."""
    await start_feed()
    for _ in range(6):
        line, _ = await exchange.subscribed()
        await line.stream.send_all(encode_close(1008, "policy"))
    await exchange.dialled()
    at = exchange.dialled_at

    assert at[-1] - at[-2] == pytest.approx(16, abs=0.1)


# The handshake


@pytest.mark.parametrize("body", [b"", b'{"message":"not allowed"}'])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 451])
async def test_a_refusal_of_the_first_dial_is_for_good(
    autojump_clock, exchange, make_feed, nursery, status, body
):
    """A blocked address stays blocked: exit 69, and let the operator know."""
    running = make_feed()
    nursery.start_soon(running.run)
    line = await exchange.dialled()
    await line.hear_head()
    head = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n" % (status, len(body))
    await line.stream.send_all(head)
    await line.stream.send_all(body)
    await trio.sleep(1)

    assert running.ended_by.for_good
    assert str(running.ended_by) == f"ws://exchange.test/feed: refused: HTTP {status}"
    assert exchange.dialled_at == [0]
    with pytest.raises(trio.EndOfChannel):
        await running.inbox.receive()


@pytest.mark.parametrize("status", [301, 408, 425, 429, 500, 502, 503])
async def test_a_busy_exchange_is_dialled_again(autojump_clock, exchange, start_feed, status):
    """Too many requests, or an outage: it passes."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.hear_head()
    await line.stream.send_all(b"HTTP/1.1 %d Wait\r\nContent-Length: 0\r\n\r\n" % status)
    await exchange.subscribed()

    assert running.health.losses == {"refused": 1}
    assert running.notices()[0]["reason"] == f"refused: HTTP {status}"


@pytest.mark.parametrize("status", [403, 404, 429])
async def test_once_connected_no_refusal_is_for_good(autojump_clock, exchange, start_feed, status):
    """A deployment at the exchange answers 404 for a minute; we have seen it work."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_eof()
    line = await exchange.dialled()
    await line.hear_head()
    await line.stream.send_all(b"HTTP/1.1 %d No\r\n\r\n" % status)
    await exchange.subscribed()

    assert running.health.losses == {"closed": 1, "refused": 1}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "ended: the exchange hung up before"),
        (b"HTTP/1.1 101 Swi", "ended: the exchange hung up before"),
        (b"220 smtp.example ESMTP\r\n", "ended: the exchange's handshake answer is not HTTP"),
        (
            b"HTTP/1.1 101 Yes\r\n\r\n",
            "handshake: ",
        ),  # whoever says yes to everything
    ],
)
async def test_no_handshake_is_a_loss_like_others(
    autojump_clock, exchange, start_feed, answer, reason
):
    """Whoever answers there, we stay up and keep trying."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.stream.send_all(answer)
    await line.stream.send_eof()
    await exchange.subscribed()

    assert running.notices()[0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"accept": b"bm9uc2Vuc2U="}, "Bad accept token"),
        ({"headers": b"Sec-WebSocket-Protocol: soap\r\n"}, "unrecognized subprotocol soap"),
        ({"headers": b"Sec-WebSocket-Extensions: rot13\r\n"}, "unrecognized extension"),
    ],
)
async def test_a_wrong_handshake_is_told_by_what_is_wrong_with_it(
    autojump_clock, exchange, start_feed, wrong, reason
):
    """Whoever reads "can't handle event type Response" looks for the bug at our end."""
    running = await start_feed()
    line = await exchange.dialled()
    await line.shake_hands(**wrong)
    await exchange.subscribed()

    assert running.notices()[0]["reason"].startswith(f"handshake: {reason}")
    assert running.health.losses == {"handshake": 1}


async def test_a_handshake_without_an_answer_is_given_up(autojump_clock, exchange, start_feed):
    """Accepting at TCP is the kernel's work; it says nothing about the exchange."""
    running = await start_feed()
    await exchange.dialled()
    await exchange.dialled()

    assert exchange.dialled_at == [0, limits.DIAL_TIMEOUT_S + 0.5]
    assert running.health.losses == {"timeout": 1}


async def test_dial_and_handshake_share_one_patience(
    autojump_clock, exchange, start_feed, monkeypatch
):
    """Two patiences in a row would pass for a long life and reset the backoff."""
    fast = exchange.open_stream

    async def slow(address):
        await trio.sleep(limits.DIAL_TIMEOUT_S - 1)
        return await fast(address)

    running = await start_feed(pairs=())
    running.feed._open_stream = slow
    running.demand.want([TICKER])
    await exchange.dialled()
    handshake_at = trio.current_time()
    while not running.health.losses:
        await trio.sleep(0.1)

    assert trio.current_time() - handshake_at == pytest.approx(1, abs=0.2)


async def test_a_dial_that_hangs_is_given_up(autojump_clock, exchange, start_feed):
    """A firewall that drops packets answers nothing, for two minutes if we let it."""
    running = await start_feed(pairs=())

    async def hang(address):
        await trio.sleep_forever()

    running.feed._open_stream = hang
    running.demand.want([TICKER])
    await trio.sleep(limits.DIAL_TIMEOUT_S + 0.1)

    assert running.health.losses == {"timeout": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("no route to host"), "network: no route to host"),
        (ssl.SSLCertVerificationError(1, "expired"), "network: "),
        (trio.BrokenResourceError(), "broken"),
        (trio.ClosedResourceError("gone"), "broken: gone"),
    ],
)
async def test_a_dial_that_fails_says_why(autojump_clock, exchange, start_feed, error, reason):
    """``/readyz`` shows it to whoever is woken at night."""
    exchange.failures = [error]
    running = await start_feed()
    await wait_all_tasks_blocked()

    assert running.health.state is FeedState.STALE
    assert running.instance.readiness()[0] is False
    assert running.health.reason.startswith(reason)


async def test_a_bug_is_not_taken_for_a_loss(autojump_clock, exchange, make_feed):
    """Only what others do to us is tried again; our own mistakes end the process."""
    exchange.failures = [ZeroDivisionError()]
    running = make_feed()
    with pytest.raises(ZeroDivisionError):
        await running.run()


async def test_pongs_we_did_not_ask_for_are_harmless(autojump_clock, exchange, start_feed):
    """RFC 6455 allows them as heartbeats."""
    running = await start_feed()
    line, _ = await exchange.subscribed()
    await line.stream.send_all(encode_pong(b"?") + encode_text(ticker()))

    assert await running.messages() == [ticker()]
