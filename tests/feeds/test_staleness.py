"""Notices about a part of the feed that is down: to its subscribers, once, with its end."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.arbitration.batch import NoticeKind
from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import LINGER_S
from hedgehogd.engine.health import FeedState
from tests.feeds.script import ack, heartbeat, match, ticker

FULL_ETH = Topic("full", "ETH-USD")


async def send(line, *payloads):
    await line.send(*payloads)
    await wait_all_tasks_blocked()


@pytest.fixture
async def light_and_heavy(autojump_clock, exchange, serve):
    """A feed with BTC-USD on one connection and ETH-USD on another, both live."""
    running = await serve()
    running.demand.want([FULL_ETH])
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await send(light, heartbeat())
    await send(heavy, heartbeat("ETH-USD"))
    running.received()
    return running, light, heavy


async def test_one_connection_down_concerns_its_products_alone(
    autojump_clock, exchange, light_and_heavy
):
    """Subscribers of BTC-USD have no reason to reconnect because ETH-USD is down."""
    running, light, heavy = light_and_heavy
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    _, (down,) = running.received()
    ready, reason = running.instance.readiness()
    await send(light, ticker())

    assert (down["type"], down["stale"], down["product_ids"]) == ("stale", True, ["ETH-USD"])
    assert ready
    assert reason.startswith("live: 1 of 2 connections are down: closed: 1006")
    assert running.received() == ([ticker()], [])

    (new,) = await exchange.lines_with("full", "ETH-USD")
    await send(new, heartbeat("ETH-USD"))
    _, (back,) = running.received()
    assert (back["stale"], back["product_ids"]) == (False, ["ETH-USD"])
    assert running.health.reason == ""


async def test_an_outage_of_all_connections_is_reported_to_all(
    autojump_clock, exchange, light_and_heavy
):
    """First subscribers of its products get a notice, then all; the end is reported likewise."""
    running, light, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 2
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    await light.stream.send_eof()
    await wait_all_tasks_blocked()
    notices = running.notices()
    assert [notice.get("product_ids") for notice in notices] == [["ETH-USD"], None]
    assert running.health.state is FeedState.STALE
    assert not running.instance.readiness()[0]

    while len(exchange.served) < 4:
        await trio.sleep(0.1)
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await send(light, heartbeat())
    # ETH-USD was dialled again, without success, before BTC-USD was live again
    assert [(n["stale"], n.get("product_ids")) for n in running.notices()] == [
        (False, None),
        (True, ["ETH-USD"]),
    ]
    await send(heavy, heartbeat("ETH-USD"))
    assert [(n["stale"], n.get("product_ids")) for n in running.notices()] == [(False, ["ETH-USD"])]


async def test_a_connection_that_is_being_opened_is_not_down(
    autojump_clock, exchange, light_and_heavy
):
    """A new subscriber must not get a stale notice before its first connection."""
    running, light, _ = light_and_heavy
    exchange.failures = [OSError("no route")] * 3
    await light.stream.send_eof()
    await wait_all_tasks_blocked()
    (down,) = running.notices()
    assert down["product_ids"] == ["BTC-USD"]
    exchange.failures.clear()
    running.demand.want([Topic("full", "SOL-USD")])
    await exchange.lines_with("full", "SOL-USD")
    await wait_all_tasks_blocked()

    assert [n for n in running.notices() if "SOL-USD" in n.get("product_ids", ())] == []


async def test_the_outage_of_one_of_two_lines_is_not_reported(autojump_clock, exchange, serve):
    """The other line delivers all messages."""
    running = await serve(lines=2)
    first, second = await exchange.lines_with("ticker", count=2)
    await send(first, heartbeat())
    await send(second, heartbeat())
    exchange.failures = [OSError("no route")] * 3
    await first.stream.send_eof()
    await wait_all_tasks_blocked()

    assert running.notices() == []
    assert running.instance.readiness() == (True, "live")
    losses = {line.last_loss for line in running.health.read_lines()}
    assert losses == {"", "closed: 1006"}


async def test_the_outage_of_one_line_is_no_reason_for_a_connection_being_opened(
    autojump_clock, exchange, serve
):
    """``/readyz`` names connections that are down, not those that are being opened."""
    running = await serve(lines=2)
    first, second = await exchange.lines_with("ticker", count=2)
    await send(first, heartbeat())
    await send(second, heartbeat())
    await first.stream.send_eof()
    await wait_all_tasks_blocked()
    running.demand.want([FULL_ETH])
    await exchange.lines_with("full", "ETH-USD")

    assert running.instance.readiness() == (True, "live")
    assert running.notices() == []


def notice_kinds(running):
    """Return audience and kind of each notice in the inbox."""
    notices = []
    with pytest.raises(trio.WouldBlock):
        while True:
            notices += running.inbox.receive_nowait().notices
    return [(notice.audience, notice.kind) for notice in notices]


async def test_begin_and_end_of_staleness_have_two_kinds(autojump_clock, exchange, light_and_heavy):
    """The broker sends notices in force to late joiners, and none that has ended."""
    running, light, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 2
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    await light.stream.send_eof()
    await wait_all_tasks_blocked()
    eth = frozenset({"ETH-USD"})
    assert notice_kinds(running) == [(eth, NoticeKind.STALE), (None, NoticeKind.STALE)]

    while len(exchange.served) < 4:
        await trio.sleep(0.1)
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await send(light, heartbeat())
    await send(heavy, heartbeat("ETH-USD"))
    assert notice_kinds(running) == [
        (None, NoticeKind.BACK),
        (eth, NoticeKind.STALE),
        (eth, NoticeKind.BACK),
    ]


async def test_a_product_that_moves_stays_stale_until_its_connection_is_live(
    autojump_clock, exchange, light_and_heavy
):
    """Its new connection has had no disconnect, but it has no data yet."""
    running, _, heavy = light_and_heavy
    running.demand.want([Topic("full", "BTC-USD")])  # BTC-USD leaves the light connection
    (btc,) = await exchange.lines_with("full", "BTC-USD")
    await send(btc, heartbeat())
    await trio.sleep(2)
    running.received()
    exchange.failures = [OSError("no route")]
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    assert [(n["stale"], n["product_ids"]) for n in running.notices()] == [(True, ["ETH-USD"])]

    # A connection that carried full cannot carry matches: ETH-USD moves to a light one.
    running.demand.release([FULL_ETH], trio.current_time() - LINGER_S)
    running.demand.want([Topic("matches", "ETH-USD")])
    (new,) = await exchange.lines_with("matches", "ETH-USD")
    await wait_all_tasks_blocked()
    assert ("full", "ETH-USD") not in new.held
    assert running.notices() == []
    await send(new, heartbeat("ETH-USD"))
    assert [(n["stale"], n["product_ids"]) for n in running.notices()] == [(False, ["ETH-USD"])]


async def test_an_outage_of_one_connection_is_reported_once(
    autojump_clock, exchange, light_and_heavy
):
    """Ten failed dials are one outage to a subscriber."""
    running, _, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 6
    await heavy.stream.send_eof()
    await trio.sleep(90)
    (new,) = await exchange.lines_with("full", "ETH-USD")
    await send(new, heartbeat("ETH-USD"))

    assert [n["stale"] for n in running.notices()] == [True, False]
    assert running.health.losses == {"closed": 1, "network": 6}


# Products


async def test_a_product_without_heartbeats_is_reported_and_resubscribed(
    autojump_clock, exchange, serve
):
    """One product can stop on a live connection; other products are not affected."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await send(line, heartbeat(), heartbeat("ETH-USD"), ticker(), ticker("ETH-USD"))
    line.requests.clear()
    begun = trio.current_time()
    notices = []
    for number in range(2, 42):
        await trio.sleep(1)
        await send(line, heartbeat(sequence=number))
        notices += [(trio.current_time() - begun, notice) for notice in running.received()[1]]
    assert running.health.quiet_products == 1
    await send(line, heartbeat("ETH-USD", 2))
    await send(line, heartbeat("ETH-USD", 3), heartbeat(sequence=43))
    await trio.sleep(3)
    notices += [(0, notice) for notice in running.notices()]

    assert [(n["stale"], n["product_ids"]) for _, n in notices] == [
        (True, ["ETH-USD"]),
        (False, ["ETH-USD"]),
    ]
    assert notices[0][0] == pytest.approx(11.5, abs=1.6)
    eth = {"heartbeat": ["ETH-USD"], "ticker": ["ETH-USD"]}
    assert line.requests[:2] == [("unsubscribe", eth), ("subscribe", eth)]
    assert all(channels == eth for _, channels in line.requests)
    assert 2 <= len(line.requests) <= 2 * (30 / 5 + 1)
    assert running.health.losses == {}
    assert running.health.quiet_products == 0


async def test_a_product_without_any_message_is_reported_once(autojump_clock, exchange, serve):
    """The subscribe was accepted and no message arrives, so only time can show it."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    for number in range(150):
        await send(line, heartbeat(sequence=number))
        await trio.sleep(1)
        running.demand.want([Topic("ticker", f"A{number % 3}-USD")])  # plans again
    notices = [n for n in running.notices() if n["product_ids"] == ["ETH-USD"]]
    assert [n["stale"] for n in notices] == [True]
    for number in range(5):
        await send(exchange.served[-1], heartbeat("ETH-USD", number))
        await trio.sleep(1)

    notices = [n for n in running.notices() if n["product_ids"] == ["ETH-USD"]]
    assert [n["stale"] for n in notices] == [False]


async def test_a_product_that_one_of_two_lines_carries_is_not_stale(
    autojump_clock, exchange, serve
):
    """Because of the second line, no subscriber is affected."""
    running = await serve(lines=2, stale_after_s=10)
    one, two = await exchange.lines_with("ticker", count=2)
    for number in range(60):
        await send(one, heartbeat(sequence=number), ticker(sequence=number))
        await trio.sleep(1)

    assert running.notices() == []
    assert two.is_over
    assert ("ticker", "BTC-USD") in exchange.served[-1].held


async def test_a_quiet_product_is_no_longer_counted_after_its_release(
    autojump_clock, exchange, serve
):
    """The metric must return to zero when the product is released."""
    running = await serve(stale_after_s=10)
    eth = Topic("ticker", "ETH-USD")
    running.demand.want([eth])
    (line,) = await exchange.lines_with("ticker", "ETH-USD")
    await send(line, heartbeat(), heartbeat("ETH-USD"))
    for number in range(2, 20):
        await trio.sleep(1)
        await send(line, heartbeat(sequence=number))
    assert running.health.quiet_products == 1
    running.demand.release([eth], trio.current_time() - running.demand._linger_s)
    await trio.sleep(1)

    assert running.health.quiet_products == 0


async def test_a_quiet_product_with_heartbeats_is_left_alone(autojump_clock, exchange, serve):
    """A product without trades at night is no fault."""
    running = await serve(stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await send(line, heartbeat(), ticker())
    line.requests.clear()
    for number in range(60):
        await trio.sleep(1)
        await send(line, heartbeat(sequence=number))

    assert running.notices() == []
    assert line.requests == []
    (heard_age_s, data_age_s) = running.health.read_products()["BTC-USD"]
    assert (heard_age_s, data_age_s) == pytest.approx((0, 60), abs=0.1)


async def test_an_acknowledgement_that_leaves_a_topic_out_is_answered(
    autojump_clock, exchange, serve
):
    """A subscribe that the exchange ignores means no data for weeks (COINBASE §16.5, §16.8)."""
    running = await serve(channels=("ticker", "matches"))
    (line,) = await exchange.lines_with("ticker")
    line.requests.clear()
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(0.1)

    assert line.requests == [("subscribe", {"matches": ["BTC-USD"]})]
    line.requests.clear()
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"], matches=["BTC-USD"]))
    await trio.sleep(1)
    assert line.requests == []
    assert running.notices() == []


async def test_acknowledgements_are_compared_when_all_have_arrived(autojump_clock, exchange, serve):
    """The first of two acknowledgements cannot list the topics of the second request."""
    await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    assert len(line.requests) == 2
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)
    assert len(line.requests) == 2
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)

    assert line.requests[2:] == [("subscribe", {"full": ["BTC-USD"]})]


async def test_an_acknowledgement_may_precede_the_next_request(
    autojump_clock, exchange, serve, monkeypatch
):
    """On a busy machine, or at the limit of requests, the second one is sent later."""
    monkeypatch.setattr(limits, "UPSTREAM_REQUESTS_BURST", 1)
    await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("ticker")
    assert len(line.requests) == 1
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)

    assert [kind for kind, _ in line.requests] == ["subscribe"] * 2
    await send(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)
    assert line.requests[2:] == [("subscribe", {"full": ["BTC-USD"]})]


# Another hedgehogd as the feed


def notice(kind, **more):
    return json.dumps({"type": kind, **more}).encode()


async def test_a_stale_relay_is_a_stale_feed(autojump_clock, exchange, serve):
    """A relay's staleness is passed on to subscribers, and so is its end."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    await send(line, heartbeat(), notice("stale", stale=True, reason="silent"))
    assert not running.instance.readiness()[0]
    assert running.health.reason == "the upstream relay is stale"
    await send(line, notice("stale", stale=False, reason="the feed is back"))

    assert running.instance.readiness() == (True, "live")
    assert [n["stale"] for n in running.notices()] == [True, False]


async def test_staleness_ends_with_the_connection_to_the_relay(autojump_clock, exchange, serve):
    """The next connection is live, and sends no notice about that."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    await send(line, heartbeat(), notice("stale", stale=True, reason="silent"))
    await line.stream.send_eof()
    await wait_all_tasks_blocked()
    (line,) = await exchange.lines_with("ticker")
    await send(line, heartbeat(sequence=2))

    assert running.instance.readiness() == (True, "live")


async def test_a_stale_product_of_a_relay_does_not_make_the_feed_stale(
    autojump_clock, exchange, serve
):
    """One quiet product of 800 must not make the instance not ready."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    stale = notice("stale", stale=True, reason="no heartbeat", product_ids=["BTC-USD"])
    await send(line, heartbeat(), stale)

    assert running.instance.readiness() == (True, "live")
    assert running.notices() == [json.loads(stale)]


async def test_gap_and_backfill_of_a_relay_are_passed_on_once(autojump_clock, exchange, serve):
    """A gap that the relay reported is not reported a second time."""
    running = await serve(channels=("matches",))
    (line,) = await exchange.lines_with("matches")
    gap = notice("gap", channel="matches", product_id="BTC-USD", first_trade_id=3, last_trade_id=4)
    filled = notice("backfilled", product_id="BTC-USD", trades=[{"trade_id": 3}])
    await send(line, match(1), match(2), gap, match(5), filled, notice("closing"))
    payloads, notices = running.received()

    assert payloads == [match(1), match(2), match(5)]
    assert notices == [json.loads(gap), json.loads(filled)]
    assert running.health.gaps == 1
    assert len(exchange.served) == 1
