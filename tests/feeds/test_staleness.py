"""Who is told what when a part of the feed is down: those concerned, once, and of its end."""

import json

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.arbitration.batch import NoticeKind
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.limits import LINGER_S
from hedgehogd.engine.health import FeedState
from tests.feeds.script import ack, heartbeat, match, ticker

FULL_ETH = Topic("full", "ETH-USD")


async def heard(line, *payloads):
    await line.say(*payloads)
    await wait_all_tasks_blocked()


@pytest.fixture
async def light_and_heavy(autojump_clock, exchange, serve):
    """A feed with BTC-USD on one connection and ETH-USD on another, both live."""
    running = await serve()
    running.demand.want([FULL_ETH])
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await heard(light, heartbeat())
    await heard(heavy, heartbeat("ETH-USD"))
    running.taken()
    return running, light, heavy


async def test_one_connection_down_concerns_its_products_alone(
    autojump_clock, exchange, light_and_heavy
):
    """Whoever reads BTC-USD has no reason to reconnect because ETH-USD is down."""
    running, light, heavy = light_and_heavy
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    _, (down,) = running.taken()
    ready, reason = running.instance.readiness()
    await heard(light, ticker())

    assert (down["type"], down["stale"], down["product_ids"]) == ("stale", True, ["ETH-USD"])
    assert ready
    assert reason.startswith("live: 1 of 2 connections are down: closed: 1006")
    assert running.taken() == ([ticker()], [])

    (new,) = await exchange.lines_with("full", "ETH-USD")
    await heard(new, heartbeat("ETH-USD"))
    _, (back,) = running.taken()
    assert (back["stale"], back["product_ids"]) == (False, ["ETH-USD"])
    assert running.health.reason == ""


async def test_all_down_is_told_to_everybody(autojump_clock, exchange, light_and_heavy):
    """First its products, then everybody; back in the same words."""
    running, light, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 2
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    await light.stream.send_eof()
    await wait_all_tasks_blocked()
    told = running.notices()
    assert [notice.get("product_ids") for notice in told] == [["ETH-USD"], None]
    assert running.health.state is FeedState.STALE
    assert not running.instance.readiness()[0]

    while len(exchange.served) < 4:
        await trio.sleep(0.1)
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await heard(light, heartbeat())
    # ETH-USD was dialled again, without success, before BTC-USD came back
    assert [(n["stale"], n.get("product_ids")) for n in running.notices()] == [
        (False, None),
        (True, ["ETH-USD"]),
    ]
    await heard(heavy, heartbeat("ETH-USD"))
    assert [(n["stale"], n.get("product_ids")) for n in running.notices()] == [(False, ["ETH-USD"])]


async def test_a_connection_that_is_being_opened_is_not_down(
    autojump_clock, exchange, light_and_heavy
):
    """A new subscriber must not be told that its products are lost before they began."""
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


async def test_one_of_two_lines_down_is_told_to_nobody(autojump_clock, exchange, serve):
    """Nothing is missing."""
    running = await serve(lines=2)
    first, second = await exchange.lines_with("ticker", count=2)
    await heard(first, heartbeat())
    await heard(second, heartbeat())
    exchange.failures = [OSError("no route")] * 3
    await first.stream.send_eof()
    await wait_all_tasks_blocked()

    assert running.notices() == []
    assert running.instance.readiness() == (True, "live")
    losses = {line.last_loss for line in running.health.read_lines()}
    assert losses == {"", "closed: 1006"}


async def test_the_loss_of_one_line_does_not_explain_what_is_only_being_opened(
    autojump_clock, exchange, serve
):
    """``/readyz`` names what is down, and nothing that is on its way."""
    running = await serve(lines=2)
    first, second = await exchange.lines_with("ticker", count=2)
    await heard(first, heartbeat())
    await heard(second, heartbeat())
    await first.stream.send_eof()
    await wait_all_tasks_blocked()
    running.demand.want([FULL_ETH])
    await exchange.lines_with("full", "ETH-USD")

    assert running.instance.readiness() == (True, "live")
    assert running.notices() == []


def told_kinds(running):
    """Return of each notice in the inbox whom it concerns, and its kind."""
    told = []
    with pytest.raises(trio.WouldBlock):
        while True:
            told += running.inbox.receive_nowait().notices
    return [(notice.audience, notice.kind) for notice in told]


async def test_what_is_stale_and_what_is_back_are_of_two_kinds(
    autojump_clock, exchange, light_and_heavy
):
    """The broker tells late joiners of what is stale still, and of nothing that is over."""
    running, light, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 2
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    await light.stream.send_eof()
    await wait_all_tasks_blocked()
    eth = frozenset({"ETH-USD"})
    assert told_kinds(running) == [(eth, NoticeKind.STALE), (None, NoticeKind.STALE)]

    while len(exchange.served) < 4:
        await trio.sleep(0.1)
    (light,) = await exchange.lines_with("ticker")
    (heavy,) = await exchange.lines_with("full", "ETH-USD")
    await heard(light, heartbeat())
    await heard(heavy, heartbeat("ETH-USD"))
    assert told_kinds(running) == [
        (None, NoticeKind.BACK),
        (eth, NoticeKind.STALE),
        (eth, NoticeKind.BACK),
    ]


async def test_a_product_that_moves_to_a_connection_not_there_yet_stays_stale_until_it_is(
    autojump_clock, exchange, light_and_heavy
):
    """Its new connection has lost nothing, but it brings nothing either."""
    running, _, heavy = light_and_heavy
    running.demand.want([Topic("full", "BTC-USD")])  # BTC-USD leaves the light connection
    (btc,) = await exchange.lines_with("full", "BTC-USD")
    await heard(btc, heartbeat())
    await trio.sleep(2)
    running.taken()
    exchange.failures = [OSError("no route")]
    await heavy.stream.send_eof()
    await wait_all_tasks_blocked()
    assert [(n["stale"], n["product_ids"]) for n in running.notices()] == [(True, ["ETH-USD"])]

    # What has carried full carries no matches: ETH-USD has to move to a light connection.
    running.demand.release([FULL_ETH], trio.current_time() - LINGER_S)
    running.demand.want([Topic("matches", "ETH-USD")])
    (new,) = await exchange.lines_with("matches", "ETH-USD")
    await wait_all_tasks_blocked()
    assert ("full", "ETH-USD") not in new.held
    assert running.notices() == []
    await heard(new, heartbeat("ETH-USD"))
    assert [(n["stale"], n["product_ids"]) for n in running.notices()] == [(False, ["ETH-USD"])]


async def test_what_fails_is_told_once_until_it_is_back(autojump_clock, exchange, light_and_heavy):
    """Ten failed dials are one outage to a subscriber."""
    running, _, heavy = light_and_heavy
    exchange.failures = [OSError("no route")] * 6
    await heavy.stream.send_eof()
    await trio.sleep(90)
    (new,) = await exchange.lines_with("full", "ETH-USD")
    await heard(new, heartbeat("ETH-USD"))

    assert [n["stale"] for n in running.notices()] == [True, False]
    assert running.health.losses == {"closed": 1, "network": 6}


# Products


async def test_a_product_whose_heartbeats_stop_is_told_and_asked_for_anew(
    autojump_clock, exchange, serve
):
    """One product can die on a connection that lives; nothing else is touched."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await heard(line, heartbeat(), heartbeat("ETH-USD"), ticker(), ticker("ETH-USD"))
    line.requests.clear()
    begun = trio.current_time()
    told = []
    for number in range(2, 42):
        await trio.sleep(1)
        await heard(line, heartbeat(sequence=number))
        told += [(trio.current_time() - begun, notice) for notice in running.taken()[1]]
    assert running.health.quiet_products == 1
    await heard(line, heartbeat("ETH-USD", 2))
    await heard(line, heartbeat("ETH-USD", 3), heartbeat(sequence=43))
    await trio.sleep(3)
    told += [(0, notice) for notice in running.notices()]

    assert [(n["stale"], n["product_ids"]) for _, n in told] == [
        (True, ["ETH-USD"]),
        (False, ["ETH-USD"]),
    ]
    assert told[0][0] == pytest.approx(11.5, abs=1.6)
    eth = {"heartbeat": ["ETH-USD"], "ticker": ["ETH-USD"]}
    assert line.requests[:2] == [("unsubscribe", eth), ("subscribe", eth)]
    assert all(channels == eth for _, channels in line.requests)
    assert 2 <= len(line.requests) <= 2 * (30 / 5 + 1)
    assert running.health.losses == {}
    assert running.health.quiet_products == 0


async def test_a_product_that_was_never_heard_is_told_once_and_back_when_it_is(
    autojump_clock, exchange, serve
):
    """Accepted and never sent: no message would ever show it."""
    running = await serve(pairs=("BTC-USD", "ETH-USD"), stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    for number in range(150):
        await heard(line, heartbeat(sequence=number))
        await trio.sleep(1)
        running.demand.want([Topic("ticker", f"A{number % 3}-USD")])  # plans anew
    told = [n for n in running.notices() if n["product_ids"] == ["ETH-USD"]]
    assert [n["stale"] for n in told] == [True]
    for number in range(5):
        await heard(exchange.served[-1], heartbeat("ETH-USD", number))
        await trio.sleep(1)

    told = [n for n in running.notices() if n["product_ids"] == ["ETH-USD"]]
    assert [n["stale"] for n in told] == [False]


async def test_a_product_that_one_of_two_lines_gives_is_not_stale(autojump_clock, exchange, serve):
    """The second line is there so that nobody notices."""
    running = await serve(lines=2, stale_after_s=10)
    one, two = await exchange.lines_with("ticker", count=2)
    for number in range(60):
        await heard(one, heartbeat(sequence=number), ticker(sequence=number))
        await trio.sleep(1)

    assert running.notices() == []
    assert two.is_over
    assert ("ticker", "BTC-USD") in exchange.served[-1].held


async def test_a_quiet_product_that_nobody_wants_is_no_longer_counted(
    autojump_clock, exchange, serve
):
    """A metric that never comes down again is one that nobody looks at."""
    running = await serve(stale_after_s=10)
    eth = Topic("ticker", "ETH-USD")
    running.demand.want([eth])
    (line,) = await exchange.lines_with("ticker", "ETH-USD")
    await heard(line, heartbeat(), heartbeat("ETH-USD"))
    for number in range(2, 20):
        await trio.sleep(1)
        await heard(line, heartbeat(sequence=number))
    assert running.health.quiet_products == 1
    running.demand.release([eth], trio.current_time() - running.demand._linger_s)
    await trio.sleep(1)

    assert running.health.quiet_products == 0


async def test_a_quiet_product_with_heartbeats_is_left_alone(autojump_clock, exchange, serve):
    """Nobody trades it at night; that is not a fault."""
    running = await serve(stale_after_s=10)
    (line,) = await exchange.lines_with("ticker")
    await heard(line, heartbeat(), ticker())
    line.requests.clear()
    for number in range(60):
        await trio.sleep(1)
        await heard(line, heartbeat(sequence=number))

    assert running.notices() == []
    assert line.requests == []
    (heard_age_s, data_age_s) = running.health.read_products()["BTC-USD"]
    assert (heard_age_s, data_age_s) == pytest.approx((0, 60), abs=0.1)


async def test_an_acknowledgement_that_leaves_a_topic_out_is_answered(
    autojump_clock, exchange, serve
):
    """A subscribe that the exchange has swallowed is no data for weeks (PAIN §5, §8)."""
    running = await serve(channels=("ticker", "matches"))
    (line,) = await exchange.lines_with("ticker")
    line.requests.clear()
    await heard(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(0.1)

    assert line.requests == [("subscribe", {"matches": ["BTC-USD"]})]
    line.requests.clear()
    await heard(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"], matches=["BTC-USD"]))
    await trio.sleep(1)
    assert line.requests == []
    assert running.notices() == []


async def test_acknowledgements_are_compared_when_all_have_come(autojump_clock, exchange, serve):
    """The first of two cannot list what the second request asked for."""
    await serve(channels=("ticker", "full"))
    (line,) = await exchange.lines_with("full")
    assert len(line.requests) == 2
    await heard(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)
    assert len(line.requests) == 2
    await heard(line, ack(heartbeat=["BTC-USD"], ticker=["BTC-USD"]))
    await trio.sleep(1)

    assert line.requests[2:] == [("subscribe", {"full": ["BTC-USD"]})]


# Another hedgehogd as the feed


def notice(kind, **more):
    return json.dumps({"type": kind, **more}).encode()


async def test_a_stale_relay_is_a_stale_feed(autojump_clock, exchange, serve):
    """The chain is as good as its first link; its end passes down as well."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    await heard(line, heartbeat(), notice("stale", stale=True, reason="silent"))
    assert not running.instance.readiness()[0]
    assert running.health.reason == "the upstream relay is stale"
    await heard(line, notice("stale", stale=False, reason="the feed is back"))

    assert running.instance.readiness() == (True, "live")
    assert [n["stale"] for n in running.notices()] == [True, False]


async def test_a_relay_that_went_while_stale_leaves_nothing_behind(autojump_clock, exchange, serve):
    """Its successor is live and has no reason to say so."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    await heard(line, heartbeat(), notice("stale", stale=True, reason="silent"))
    await line.stream.send_eof()
    await wait_all_tasks_blocked()
    (line,) = await exchange.lines_with("ticker")
    await heard(line, heartbeat(sequence=2))

    assert running.instance.readiness() == (True, "live")


async def test_a_relays_stale_product_is_no_stale_feed(autojump_clock, exchange, serve):
    """One quiet product of 800 must not send everybody away."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    said = notice("stale", stale=True, reason="no heartbeat", product_ids=["BTC-USD"])
    await heard(line, heartbeat(), said)

    assert running.instance.readiness() == (True, "live")
    assert running.notices() == [json.loads(said)]


async def test_a_relays_gap_and_its_trades_pass_down_once(autojump_clock, exchange, serve):
    """What it has told is not found again here."""
    running = await serve(channels=("matches",))
    (line,) = await exchange.lines_with("matches")
    gap = notice("gap", channel="matches", product_id="BTC-USD", first_trade_id=3, last_trade_id=4)
    filled = notice("backfilled", product_id="BTC-USD", trades=[{"trade_id": 3}])
    await heard(line, match(1), match(2), gap, match(5), filled, notice("closing"))
    payloads, told = running.taken()

    assert payloads == [match(1), match(2), match(5)]
    assert told == [json.loads(gap), json.loads(filled)]
    assert running.health.gaps == 1
    assert len(exchange.served) == 1
