"""Lines: several connections of one line, and two lines that fill each other's gaps."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from tests.feeds.script import ack, asked, full, heartbeat, level2, match, ticker

MATCHES = Topic("matches", "BTC-USD")
FULL = Topic("full", "BTC-USD")


async def send(line, *payloads):
    """Send messages to the feed, and wait until it has handled them."""
    await line.send(*payloads)
    await wait_all_tasks_blocked()


# One line, several connections


async def test_heavy_products_have_connections_of_their_own(autojump_clock, exchange, serve):
    """The exchange closes a busy connection that is read too slowly; tickers must survive that."""
    pairs = [f"A{number}-USD" for number in range(20)]
    running = await serve(pairs=pairs, channels=("full",))
    running.demand.want([Topic("ticker", "BTC-USD")])
    (light,) = await exchange.lines_with("ticker")
    heavy = [line for line in exchange.served if line is not light]

    assert len(heavy) == limits.HEAVY_CONNECTIONS_MAX
    assert {channel for channel, _ in light.held} == {"ticker", "heartbeat"}
    sizes = [sum(channel == "full" for channel, _ in line.held) for line in heavy]
    assert (sum(sizes), max(sizes) - min(sizes)) == (20, 1)


async def test_a_product_moves_with_every_trade_delivered_once(autojump_clock, exchange, serve):
    """From matches to full: the new connection opens first, the old one ends a moment later."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await send(old, heartbeat(), match(10), match(11))
    running.demand.want([FULL])
    (new,) = await exchange.lines_with("full")
    assert ("matches", "BTC-USD") in old.held
    await send(old, match(12))
    await send(new, full(501), full(502, trade_id=12), full(503, trade_id=13))
    arrived_at = trio.current_time()
    await send(old, match(13), match(14))
    await send(new, full(504, trade_id=14))
    while ("matches", "BTC-USD") in old.held:
        await trio.sleep(0.01)
    kept_s = trio.current_time() - arrived_at
    payloads, notices = running.received()
    trades = [p for p in payloads if b"trade_id" in p and b"heartbeat" not in p]

    assert kept_s == pytest.approx(limits.HANDOVER_S, abs=0.1)
    assert [p for p in trades if b'"sequence": 50' not in p] == [match(n) for n in (10, 11, 12, 14)]
    assert [p for p in trades if b'"sequence": 50' in p] == [
        full(500 + n, trade_id=n + 10) for n in (2, 3, 4)
    ]
    assert notices == []


async def test_a_product_that_moves_back_is_not_held_twice_for_ever(
    autojump_clock, exchange, serve
):
    """The first connection carried the product before; that must not count as its new arrival."""
    running = await serve(channels=("matches",))
    (light,) = await exchange.lines_with("matches")
    await send(light, heartbeat(), match(1))
    running.demand.want([FULL])
    (heavy,) = await exchange.lines_with("full")
    await send(heavy, full(5, trade_id=2))
    await trio.sleep(limits.HANDOVER_S + 1)
    assert light.held == set() or light.is_over
    running.demand.release([FULL], trio.current_time() - limits.LINGER_S)
    (light,) = await exchange.lines_with("matches")
    await trio.sleep(3 * limits.HANDOVER_S)
    assert ("full", "BTC-USD") in heavy.held
    await send(light, heartbeat(), match(3))
    await trio.sleep(limits.HANDOVER_S + 1)

    assert heavy.is_over
    assert ("matches", "BTC-USD") in light.held


async def test_a_product_wanted_again_and_again_has_no_gap(autojump_clock, exchange, serve):
    """Messages sent while a product had no subscriber are not missing."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    other = Topic("matches", "ETH-USD")
    for number in (10, 500, 9000):
        running.demand.want([other])
        await exchange.lines_with("matches", "ETH-USD")
        await send(line, heartbeat("ETH-USD"), match(number, "ETH-USD"))
        assert running.health.read_products().keys() == {"ETH-USD"}
        running.demand.release([other], trio.current_time() - limits.LINGER_S)
        while ("matches", "ETH-USD") in line.held:
            await trio.sleep(0.01)
    payloads, notices = running.received()

    assert [p for p in payloads if b'"match"' in p] == [
        match(n, "ETH-USD") for n in (10, 500, 9000)
    ]
    assert (notices, running.health.gaps) == ([], 0)


async def test_a_released_product_is_not_quiet(autojump_clock, exchange, serve):
    """Its heartbeats stop because of the unsubscribe."""
    running = await serve(stale_after_s=10)
    running.demand.want([Topic("ticker", "ETH-USD")])
    (line,) = await exchange.lines_with("ticker", "ETH-USD")
    await send(line, heartbeat(), heartbeat("ETH-USD"))
    running.demand.release([Topic("ticker", "ETH-USD")], trio.current_time() - limits.LINGER_S)
    for number in range(30):
        await trio.sleep(1)
        await send(line, heartbeat(sequence=number), ticker(sequence=number))
        assert running.health.quiet_products == 0

    assert running.notices() == []


# Two lines


async def two(exchange, serve, channels=("matches",), **options):
    """Start a feed of two lines; return it and its connections, in the order of the lines."""
    running = await serve(channels=channels, lines=2, **options)
    first, second = await exchange.lines_with(channels[0], count=2)
    before = _acks_due(running)
    await send(first, ack(**{channel: [product] for channel, product in first.held}))
    is_first = _acks_due(running) < before
    return running, *((first, second) if is_first else (second, first))


def _acks_due(running):
    """Return the number of acknowledgements due on the first line, to identify that line."""
    return sum(each.source.acks_due for each in running.feed._lines[0].connections.values())


async def test_both_lines_hold_the_same(autojump_clock, exchange, serve):
    """If one line ends, the other one carries all topics."""
    running, first, second = await two(exchange, serve, ("matches", "ticker"))

    assert first.held == second.held
    assert len(first.held) == 3
    assert [line.connections for line in running.health.read_lines()] == [1, 1]


@pytest.mark.parametrize("victim", [0, 1])
async def test_killing_either_line_loses_no_trade(autojump_clock, exchange, serve, victim):
    """That is the purpose of the second line; no outage is reported."""
    running, *lines = await two(exchange, serve)
    survivor = lines[1 - victim]
    for line in lines:
        await send(line, heartbeat(), match(1), match(2))
    await lines[victim].stream.send_eof()
    await send(survivor, match(3), match(4))
    (new,) = [x for x in await exchange.lines_with("matches", count=2) if x is not survivor]
    await send(survivor, match(5))
    await send(new, match(5), match(6))
    await send(survivor, match(6))
    payloads, notices = running.received()

    assert [p for p in payloads if b'"match"' in p] == [match(n) for n in range(1, 7)]
    assert (notices, running.health.gaps) == ([], 0)
    assert running.instance.readiness()[0]
    health = running.health.read_lines()
    assert [line.losses for line in health] == [int(victim == 0), int(victim == 1)]
    assert [line.live for line in health] == [1, 1]


@pytest.mark.parametrize("victim", [0, 1])
async def test_killing_either_line_loses_nothing_of_full(autojump_clock, exchange, serve, victim):
    """Every event of a product is delivered in order, once."""
    running, *lines = await two(exchange, serve, ("full",))
    await send(lines[0], full(1), full(2, trade_id=7))
    await send(lines[1], full(1), full(2, trade_id=7), full(3))
    await lines[victim].stream.send_eof()
    await send(lines[1 - victim], full(3), full(4, trade_id=8))
    payloads, notices = running.received()

    assert payloads == [full(1), full(2, trade_id=7), full(3), full(4, trade_id=8)]
    assert notices == []


async def test_a_gap_in_one_line_is_filled_by_the_other(autojump_clock, exchange, serve):
    """Messages after the gap wait, so the order is kept."""
    running, first, second = await two(exchange, serve)
    await send(first, match(1), match(2), match(5), heartbeat(sequence=5))
    assert running.received()[0] == [match(1), match(2)]
    await send(second, match(1), match(2), match(3), match(4), match(5))

    payloads, notices = running.received()
    assert [p for p in payloads if b'"match"' in p] == [match(3), match(4), match(5)]
    assert notices == []
    assert [line.gaps_saved for line in running.health.read_lines()] == [0, 1]


async def test_an_unfilled_gap_is_reported_after_the_gap_patience(autojump_clock, exchange, serve):
    """The latency is bounded: trades after the gap wait exactly that long."""
    running, first, _ = await two(exchange, serve, gap_patience_s=0.25)
    await send(first, match(1), match(4))
    begun = trio.current_time()
    assert running.received()[0] == [match(1)]
    delivery = await running.inbox.receive()

    assert trio.current_time() - begun == pytest.approx(0.25)
    assert [m.payload for m in delivery.messages] == [match(4)]
    assert list(delivery.notices_at) == [0]
    assert running.health.missing == {"matches": 2}


async def test_a_gap_is_reported_at_once_when_the_other_line_ends(autojump_clock, exchange, serve):
    """No line is left that could fill the gap."""
    running, first, second = await two(exchange, serve, gap_patience_s=60)
    await send(first, match(1), match(4))
    await second.stream.send_eof()
    await wait_all_tasks_blocked()

    payloads, notices = running.received()
    assert payloads == [match(1), match(4)]
    assert [notice["type"] for notice in notices] == ["gap"]


async def test_trades_that_both_lines_missed_are_asked_for(autojump_clock, exchange, serve):
    """REST may still have the trades."""
    missing = []
    _, first, second = await two(
        exchange, serve, on_missing_trades=lambda product, gap: missing.append((product, *gap))
    )
    await send(first, match(1), match(4))
    await send(second, match(1), match(4))
    await trio.sleep(1)

    assert missing == [("BTC-USD", 2, 3)]


async def test_a_new_primary_connection_begins_with_a_fresh_snapshot(
    autojump_clock, exchange, serve
):
    """Updates of one connection do not fit the book of another one."""
    running, first, second = await two(exchange, serve, ("level2",))
    await send(first, heartbeat(), level2("snapshot", n=1), level2("l2update", n=1))
    await send(second, heartbeat(), level2("snapshot", n=2), level2("l2update", n=2))
    second.requests.clear()
    await first.stream.send_eof()
    await trio.sleep(0.2)
    await send(second, level2("l2update", n=3))
    await send(second, level2("snapshot", n=4), level2("l2update", n=4))
    payloads, _ = running.received()

    level2_only = {"level2": ["BTC-USD"]}
    assert second.requests == [("unsubscribe", level2_only), ("subscribe", level2_only)]
    assert [p for p in payloads if b"heartbeat" not in p] == [
        level2("snapshot", n=1),
        level2("l2update", n=1),
        level2("snapshot", n=4),
        level2("l2update", n=4),
    ]


async def test_a_silent_connection_is_primary_no_longer(autojump_clock, exchange, serve):
    """Open and silent is the most common failure; the other line has data meanwhile."""
    running, first, second = await two(exchange, serve, ("ticker",))
    await send(first, heartbeat(sequence=1))
    await send(second, heartbeat(sequence=2))
    got = []
    for number in range(3, 9):
        await trio.sleep(1)
        await send(second, heartbeat(sequence=number))
        got += [trio.current_time() for p in running.received()[0] if b'": %d,' % number in p]
    assert len(got) >= 2


async def test_a_line_that_is_always_second_is_live(autojump_clock, exchange, serve):
    """All its messages are repeats or spare, and it is as live as the other one."""
    running, first, second = await two(exchange, serve, ("matches",), stale_after_s=10)
    for number in range(1, 60):
        await send(first, heartbeat(sequence=number), match(number))
        await send(second, heartbeat(sequence=number), match(number))
        await trio.sleep(1)

    assert running.health.losses == {}
    assert len(exchange.dialled_at) == 2
    assert [line.wins for line in running.health.read_lines()] == [59, 0]


async def test_each_line_has_its_own_figures(autojump_clock, exchange, serve):
    """They show which line is first, by how much, and whether the second one pays."""
    running, first, second = await two(exchange, serve)
    await send(first, heartbeat(), match(1))
    await send(second, heartbeat(), match(1))
    for number in range(2, 8):
        await send(second, match(number))
        await trio.sleep(0.02)
        await send(first, match(number))
        await trio.sleep(1)
    one, other = running.health.read_lines()

    assert (one.number, other.number) == (0, 1)
    assert (one.products, other.products) == (1, 1)
    assert (one.connects, other.connects) == (1, 1)
    assert other.wins == 6
    assert other.lead_s == pytest.approx(0.02, abs=0.001)
    assert one.heard_age_s == pytest.approx(1, abs=0.01)
    assert one.last_loss == other.last_loss == ""


async def test_a_reconnected_line_shares_the_state_of_products(autojump_clock, exchange, serve):
    """A product released and requested again must have one state for both lines."""
    running, first, second = await two(exchange, serve, ("ticker",))
    eth = Topic("matches", "ETH-USD")
    for _ in range(2):
        running.demand.want([eth])
        await exchange.lines_with("matches", "ETH-USD", count=2)
        await send(first, heartbeat("ETH-USD"), match(1, "ETH-USD"))
        await send(second, heartbeat("ETH-USD"), match(1, "ETH-USD"))
        running.demand.release([eth], trio.current_time() - limits.LINGER_S)
        while first.held & {("matches", "ETH-USD")} or second.held & {("matches", "ETH-USD")}:
            await trio.sleep(0.01)
    running.demand.want([eth])
    await exchange.lines_with("matches", "ETH-USD", count=2)
    await send(first, heartbeat("ETH-USD"), match(7, "ETH-USD"))
    await second.stream.send_eof()
    await wait_all_tasks_blocked()
    both = await exchange.lines_with("matches", "ETH-USD", count=2)
    (new,) = [line for line in both if line is not first]
    running.received()
    await send(new, heartbeat("ETH-USD"), match(7, "ETH-USD"), match(8, "ETH-USD"))
    await send(first, match(8, "ETH-USD"))

    assert [p for p in running.received()[0] if b'"match"' in p] == [match(8, "ETH-USD")]


async def test_requests_are_the_same_on_every_line(autojump_clock, exchange, serve):
    """The second line sends the same requests as the first one."""
    _, first, second = await two(exchange, serve)

    assert [asked(each) for each in first.raw_requests] == [
        asked(each) for each in second.raw_requests
    ]


async def test_a_product_quiet_on_both_lines_is_reported_once(autojump_clock, exchange, serve):
    """A line that is not primary for the product cannot end its staleness."""
    running, first, second = await two(
        exchange, serve, ("ticker",), pairs=("BTC-USD", "ETH-USD"), stale_after_s=10
    )
    for line in (first, second):
        await send(line, heartbeat(), heartbeat("ETH-USD"), ticker("ETH-USD"))
    for number in range(2, 40):
        await trio.sleep(1)
        await send(first, heartbeat(sequence=number))
        await send(second, heartbeat(sequence=number))
    notices = [(notice["stale"], notice["product_ids"]) for notice in running.notices()]

    assert notices == [(True, ["ETH-USD"])]
    assert running.health.quiet_products == 1


async def test_demand_that_comes_while_a_request_waits_is_requested_next(
    autojump_clock, exchange, serve
):
    """A request may wait for the rate limit; later demand must not wait for another change."""
    running = await serve()
    await exchange.lines_with("ticker")
    for _ in range(limits.UPSTREAM_REQUESTS_BURST + 8):
        running.feed.dialer.requests.take(trio.current_time())
    running.demand.want([MATCHES])
    await trio.sleep(0.1)
    running.demand.want([Topic("auctionfeed", "BTC-USD")])
    await trio.sleep(0.1)
    running.demand.want([Topic("ticker", "ETH-USD")])
    await trio.sleep(0.1)

    await exchange.lines_with("matches")
    await exchange.lines_with("ticker", "ETH-USD")


async def test_a_move_whose_new_connection_cannot_be_opened_keeps_the_old_one(
    autojump_clock, exchange, serve
):
    """Trades continue on the old connection; the missing events are reported as stale."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await send(old, heartbeat(), match(1))
    exchange.failures = [OSError("no route")] * 4
    running.demand.want([FULL])
    for number in range(2, 12):
        await trio.sleep(1)
        await send(old, match(number), heartbeat(sequence=number))
    (new,) = await exchange.lines_with("full")
    await send(new, full(100, trade_id=12))
    await trio.sleep(limits.HANDOVER_S + 1)
    payloads, notices = running.received()

    assert [p for p in payloads if b"heartbeat" not in p] == [
        *(match(number) for number in range(1, 12)),
        full(100, trade_id=12),
    ]
    assert [(n["stale"], n["product_ids"]) for n in notices] == [
        (True, ["BTC-USD"]),
        (False, ["BTC-USD"]),
    ]
    assert old.is_over


async def test_an_old_connection_lost_in_the_middle_of_a_move_loses_no_trade(
    autojump_clock, exchange, serve
):
    """The new connection carries the trades already."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await send(old, heartbeat(), match(1))
    running.demand.want([FULL])
    (new,) = await exchange.lines_with("full")
    await send(new, heartbeat(), full(100, trade_id=2))
    await old.stream.send_eof()
    await send(new, full(101, trade_id=3))
    await trio.sleep(5)
    payloads, notices = running.received()

    assert [p for p in payloads if b"heartbeat" not in p] == [
        match(1),
        full(100, trade_id=2),
        full(101, trade_id=3),
    ]
    assert notices == []


async def test_a_product_moves_back_to_a_connection_that_has_lived_on(
    autojump_clock, exchange, serve
):
    """The connection carried the product before; that does not prove that it arrives again."""
    running = await serve(channels=("matches",))
    running.demand.want([Topic("ticker", "ETH-USD")])
    (light,) = await exchange.lines_with("ticker", "ETH-USD")
    await send(light, heartbeat("ETH-USD"), heartbeat(), match(1))
    running.demand.want([FULL])
    (heavy,) = await exchange.lines_with("full")
    await send(heavy, full(5, trade_id=2))
    await trio.sleep(limits.HANDOVER_S + 1)
    assert light.held == {("ticker", "ETH-USD"), ("heartbeat", "ETH-USD")}
    running.demand.release([FULL], trio.current_time() - limits.LINGER_S)
    await exchange.lines_with("matches")
    await trio.sleep(3 * limits.HANDOVER_S)
    assert ("full", "BTC-USD") in heavy.held
    await send(light, heartbeat(), match(3))
    await trio.sleep(limits.HANDOVER_S + 1)

    assert heavy.is_over
    assert running.notices() == []
