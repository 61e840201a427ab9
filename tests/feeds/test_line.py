"""Lines: connections that share the work of a feed, and two feeds that save each other."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from tests.feeds.script import ack, asked, full, heartbeat, level2, match, ticker

MATCHES = Topic("matches", "BTC-USD")
FULL = Topic("full", "BTC-USD")


async def heard(line, *payloads):
    """Let the exchange say something, and the feed do all it does about it."""
    await line.say(*payloads)
    await wait_all_tasks_blocked()


# One line, several connections


async def test_heavy_products_have_connections_of_their_own(autojump_clock, exchange, serve):
    """The exchange cuts who reads a busy connection too slowly; tickers must not go with it."""
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
    """From matches to full: the new connection first, the old one dropped a moment later."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await heard(old, heartbeat(), match(10), match(11))
    running.demand.want([FULL])
    (new,) = await exchange.lines_with("full")
    assert ("matches", "BTC-USD") in old.held
    await heard(old, match(12))
    await heard(new, full(501), full(502, trade_id=12), full(503, trade_id=13))
    arrived_at = trio.current_time()
    await heard(old, match(13), match(14))
    await heard(new, full(504, trade_id=14))
    while ("matches", "BTC-USD") in old.held:
        await trio.sleep(0.01)
    kept_s = trio.current_time() - arrived_at
    payloads, told = running.taken()
    trades = [p for p in payloads if b"trade_id" in p and b"heartbeat" not in p]

    assert kept_s == pytest.approx(limits.HANDOVER_S, abs=0.1)
    assert [p for p in trades if b'"sequence": 50' not in p] == [match(n) for n in (10, 11, 12, 14)]
    assert [p for p in trades if b'"sequence": 50' in p] == [
        full(500 + n, trade_id=n + 10) for n in (2, 3, 4)
    ]
    assert told == []


async def test_a_product_that_moves_back_is_not_held_twice_for_ever(
    autojump_clock, exchange, serve
):
    """The first connection has heard of it before; that is not when it began to flow again."""
    running = await serve(channels=("matches",))
    (light,) = await exchange.lines_with("matches")
    await heard(light, heartbeat(), match(1))
    running.demand.want([FULL])
    (heavy,) = await exchange.lines_with("full")
    await heard(heavy, full(5, trade_id=2))
    await trio.sleep(limits.HANDOVER_S + 1)
    assert light.held == set() or light.is_over
    running.demand.release([FULL], trio.current_time() - limits.LINGER_S)
    (light,) = await exchange.lines_with("matches")
    await trio.sleep(3 * limits.HANDOVER_S)
    assert ("full", "BTC-USD") in heavy.held
    await heard(light, heartbeat(), match(3))
    await trio.sleep(limits.HANDOVER_S + 1)

    assert heavy.is_over
    assert ("matches", "BTC-USD") in light.held


async def test_a_product_wanted_again_and_again_has_no_gap(autojump_clock, exchange, serve):
    """What passed while nobody wanted it is not missing, however often that happens."""
    running = await serve()
    (line,) = await exchange.lines_with("ticker")
    other = Topic("matches", "ETH-USD")
    for number in (10, 500, 9000):
        running.demand.want([other])
        await exchange.lines_with("matches", "ETH-USD")
        await heard(line, heartbeat("ETH-USD"), match(number, "ETH-USD"))
        assert running.health.read_products().keys() == {"ETH-USD"}
        running.demand.release([other], trio.current_time() - limits.LINGER_S)
        while ("matches", "ETH-USD") in line.held:
            await trio.sleep(0.01)
    payloads, told = running.taken()

    assert [p for p in payloads if b'"match"' in p] == [
        match(n, "ETH-USD") for n in (10, 500, 9000)
    ]
    assert (told, running.health.gaps) == ([], 0)


async def test_a_product_nobody_wants_any_more_is_not_quiet(autojump_clock, exchange, serve):
    """Its heartbeats stop because we asked for that."""
    running = await serve(stale_after_s=10)
    running.demand.want([Topic("ticker", "ETH-USD")])
    (line,) = await exchange.lines_with("ticker", "ETH-USD")
    await heard(line, heartbeat(), heartbeat("ETH-USD"))
    running.demand.release([Topic("ticker", "ETH-USD")], trio.current_time() - limits.LINGER_S)
    for number in range(30):
        await trio.sleep(1)
        await heard(line, heartbeat(sequence=number), ticker(sequence=number))
        assert running.health.quiet_products == 0

    assert running.notices() == []


# Two lines


async def two(exchange, serve, channels=("matches",), **options):
    """Start a feed of two lines; return it and what it has dialled, in the lines' order."""
    running = await serve(channels=channels, lines=2, **options)
    first, second = await exchange.lines_with(channels[0], count=2)
    before = _acks_due(running)
    await heard(first, ack(**{channel: [product] for channel, product in first.held}))
    is_first = _acks_due(running) < before
    return running, *((first, second) if is_first else (second, first))


def _acks_due(running):
    """Return how many acknowledgements the first line waits for: it says which one it is."""
    return sum(each.source.acks_due for each in running.feed._lines[0].connections.values())


async def test_both_lines_hold_the_same(autojump_clock, exchange, serve):
    """Whichever ends, the other has everything."""
    running, first, second = await two(exchange, serve, ("matches", "ticker"))

    assert first.held == second.held
    assert len(first.held) == 3
    assert [line.connections for line in running.health.read_lines()] == [1, 1]


@pytest.mark.parametrize("victim", [0, 1])
async def test_killing_either_line_loses_no_trade(autojump_clock, exchange, serve, victim):
    """That is what the second one is for; nobody is told of an outage that was none."""
    running, *lines = await two(exchange, serve)
    survivor = lines[1 - victim]
    for line in lines:
        await heard(line, heartbeat(), match(1), match(2))
    await lines[victim].stream.send_eof()
    await heard(survivor, match(3), match(4))
    (new,) = [x for x in await exchange.lines_with("matches", count=2) if x is not survivor]
    await heard(survivor, match(5))
    await heard(new, match(5), match(6))
    await heard(survivor, match(6))
    payloads, told = running.taken()

    assert [p for p in payloads if b'"match"' in p] == [match(n) for n in range(1, 7)]
    assert (told, running.health.gaps) == ([], 0)
    assert running.instance.readiness()[0]
    health = running.health.read_lines()
    assert [line.losses for line in health] == [int(victim == 0), int(victim == 1)]
    assert [line.live for line in health] == [1, 1]


@pytest.mark.parametrize("victim", [0, 1])
async def test_killing_either_line_loses_nothing_of_full(autojump_clock, exchange, serve, victim):
    """Every event of a product, in order, once."""
    running, *lines = await two(exchange, serve, ("full",))
    await heard(lines[0], full(1), full(2, trade_id=7))
    await heard(lines[1], full(1), full(2, trade_id=7), full(3))
    await lines[victim].stream.send_eof()
    await heard(lines[1 - victim], full(3), full(4, trade_id=8))
    payloads, told = running.taken()

    assert payloads == [full(1), full(2, trade_id=7), full(3), full(4, trade_id=8)]
    assert told == []


async def test_a_hole_in_one_line_is_filled_by_the_other(autojump_clock, exchange, serve):
    """In order: what comes behind the hole waits for it."""
    running, first, second = await two(exchange, serve)
    await heard(first, match(1), match(2), match(5), heartbeat(sequence=5))
    assert running.taken()[0] == [match(1), match(2)]
    await heard(second, match(1), match(2), match(3), match(4), match(5))

    payloads, told = running.taken()
    assert [p for p in payloads if b'"match"' in p] == [match(3), match(4), match(5)]
    assert told == []
    assert [line.gaps_saved for line in running.health.read_lines()] == [0, 1]


async def test_a_hole_that_nobody_fills_is_a_gap_when_patience_ends(
    autojump_clock, exchange, serve
):
    """Bounded latency: the trades behind it wait exactly so long."""
    running, first, _ = await two(exchange, serve, gap_patience_s=0.25)
    await heard(first, match(1), match(4))
    begun = trio.current_time()
    assert running.taken()[0] == [match(1)]
    delivery = await running.inbox.receive()

    assert trio.current_time() - begun == pytest.approx(0.25)
    assert [m.payload for m in delivery.messages] == [match(4)]
    assert list(delivery.notices_at) == [0]
    assert running.health.missing == {"matches": 2}


async def test_a_hole_is_a_gap_at_once_when_the_other_line_ends(autojump_clock, exchange, serve):
    """Nobody is left who could fill it."""
    running, first, second = await two(exchange, serve, gap_patience_s=60)
    await heard(first, match(1), match(4))
    await second.stream.send_eof()
    await wait_all_tasks_blocked()

    payloads, told = running.taken()
    assert payloads == [match(1), match(4)]
    assert [notice["type"] for notice in told] == ["gap"]


async def test_trades_that_both_lines_missed_are_asked_for(autojump_clock, exchange, serve):
    """REST may still have them."""
    missing = []
    _, first, second = await two(
        exchange, serve, on_missing_trades=lambda product, gap: missing.append((product, *gap))
    )
    await heard(first, match(1), match(4))
    await heard(second, match(1), match(4))
    await trio.sleep(1)

    assert missing == [("BTC-USD", 2, 3)]


async def test_a_lost_leader_is_followed_by_a_fresh_snapshot(autojump_clock, exchange, serve):
    """Changes of one connection mean nothing on the book of another."""
    running, first, second = await two(exchange, serve, ("level2",))
    await heard(first, heartbeat(), level2("snapshot", n=1), level2("l2update", n=1))
    await heard(second, heartbeat(), level2("snapshot", n=2), level2("l2update", n=2))
    second.requests.clear()
    await first.stream.send_eof()
    await trio.sleep(0.2)
    await heard(second, level2("l2update", n=3))
    await heard(second, level2("snapshot", n=4), level2("l2update", n=4))
    payloads, _ = running.taken()

    level2_only = {"level2": ["BTC-USD"]}
    assert second.requests == [("unsubscribe", level2_only), ("subscribe", level2_only)]
    assert [p for p in payloads if b"heartbeat" not in p] == [
        level2("snapshot", n=1),
        level2("l2update", n=1),
        level2("snapshot", n=4),
        level2("l2update", n=4),
    ]


async def test_a_leader_that_falls_silent_leads_no_longer(autojump_clock, exchange, serve):
    """Open and silent is the most common failure; the other line speaks all the while."""
    running, first, second = await two(exchange, serve, ("ticker",))
    await heard(first, heartbeat(sequence=1))
    await heard(second, heartbeat(sequence=2))
    got = []
    for number in range(3, 9):
        await trio.sleep(1)
        await heard(second, heartbeat(sequence=number))
        got += [trio.current_time() for p in running.taken()[0] if b'": %d,' % number in p]
    assert len(got) >= 2


async def test_a_line_that_is_always_second_is_no_dead_line(autojump_clock, exchange, serve):
    """All that it brings is a repeat or spare, and it is as alive as the other."""
    running, first, second = await two(exchange, serve, ("matches",), stale_after_s=10)
    for number in range(1, 60):
        await heard(first, heartbeat(sequence=number), match(number))
        await heard(second, heartbeat(sequence=number), match(number))
        await trio.sleep(1)

    assert running.health.losses == {}
    assert len(exchange.dialled_at) == 2
    assert [line.wins for line in running.health.read_lines()] == [59, 0]


async def test_the_lines_are_told_apart_by_numbers(autojump_clock, exchange, serve):
    """Which one is first, by how much, and whether the second one is worth its cost."""
    running, first, second = await two(exchange, serve)
    await heard(first, heartbeat(), match(1))
    await heard(second, heartbeat(), match(1))
    for number in range(2, 8):
        await heard(second, match(number))
        await trio.sleep(0.02)
        await heard(first, match(number))
        await trio.sleep(1)
    one, other = running.health.read_lines()

    assert (one.number, other.number) == (0, 1)
    assert (one.products, other.products) == (1, 1)
    assert (one.connects, other.connects) == (1, 1)
    assert other.wins == 6
    assert other.lead_s == pytest.approx(0.02, abs=0.001)
    assert one.heard_age_s == pytest.approx(1, abs=0.01)
    assert one.last_loss == other.last_loss == ""


async def test_a_line_that_comes_back_shares_what_is_known(autojump_clock, exchange, serve):
    """A product released and wanted again must not be known twice, by one line each."""
    running, first, second = await two(exchange, serve, ("ticker",))
    eth = Topic("matches", "ETH-USD")
    for _ in range(2):
        running.demand.want([eth])
        await exchange.lines_with("matches", "ETH-USD", count=2)
        await heard(first, heartbeat("ETH-USD"), match(1, "ETH-USD"))
        await heard(second, heartbeat("ETH-USD"), match(1, "ETH-USD"))
        running.demand.release([eth], trio.current_time() - limits.LINGER_S)
        while first.held & {("matches", "ETH-USD")} or second.held & {("matches", "ETH-USD")}:
            await trio.sleep(0.01)
    running.demand.want([eth])
    await exchange.lines_with("matches", "ETH-USD", count=2)
    await heard(first, heartbeat("ETH-USD"), match(7, "ETH-USD"))
    await second.stream.send_eof()
    await wait_all_tasks_blocked()
    both = await exchange.lines_with("matches", "ETH-USD", count=2)
    (new,) = [line for line in both if line is not first]
    running.taken()
    await heard(new, heartbeat("ETH-USD"), match(7, "ETH-USD"), match(8, "ETH-USD"))
    await heard(first, match(8, "ETH-USD"))

    assert [p for p in running.taken()[0] if b'"match"' in p] == [match(8, "ETH-USD")]


async def test_requests_are_the_same_words_on_every_line(autojump_clock, exchange, serve):
    """A second line asks for nothing that the first does not."""
    _, first, second = await two(exchange, serve)

    assert [asked(each) for each in first.said] == [asked(each) for each in second.said]


async def test_a_product_quiet_on_both_lines_is_told_once(autojump_clock, exchange, serve):
    """The line that does not lead it cannot say that it is back."""
    running, first, second = await two(
        exchange, serve, ("ticker",), pairs=("BTC-USD", "ETH-USD"), stale_after_s=10
    )
    for line in (first, second):
        await heard(line, heartbeat(), heartbeat("ETH-USD"), ticker("ETH-USD"))
    for number in range(2, 40):
        await trio.sleep(1)
        await heard(first, heartbeat(sequence=number))
        await heard(second, heartbeat(sequence=number))
    told = [(notice["stale"], notice["product_ids"]) for notice in running.notices()]

    assert told == [(True, ["ETH-USD"])]
    assert running.health.quiet_products == 1


async def test_what_is_wanted_while_a_request_waits_is_asked_for_next(
    autojump_clock, exchange, serve
):
    """Requests wait for the exchange's rate; the wish must not wait for the next change."""
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
    """Trades go on where they came from until the events flow; that these do not is told."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await heard(old, heartbeat(), match(1))
    exchange.failures = [OSError("no route")] * 4
    running.demand.want([FULL])
    for number in range(2, 12):
        await trio.sleep(1)
        await heard(old, match(number), heartbeat(sequence=number))
    (new,) = await exchange.lines_with("full")
    await heard(new, full(100, trade_id=12))
    await trio.sleep(limits.HANDOVER_S + 1)
    payloads, told = running.taken()

    assert [p for p in payloads if b"heartbeat" not in p] == [
        *(match(number) for number in range(1, 12)),
        full(100, trade_id=12),
    ]
    assert [(n["stale"], n["product_ids"]) for n in told] == [
        (True, ["BTC-USD"]),
        (False, ["BTC-USD"]),
    ]
    assert old.is_over


async def test_an_old_connection_lost_in_the_middle_of_a_move_loses_no_trade(
    autojump_clock, exchange, serve
):
    """It is the moment when it is needed least."""
    running = await serve(channels=("matches",))
    (old,) = await exchange.lines_with("matches")
    await heard(old, heartbeat(), match(1))
    running.demand.want([FULL])
    (new,) = await exchange.lines_with("full")
    await heard(new, heartbeat(), full(100, trade_id=2))
    await old.stream.send_eof()
    await heard(new, full(101, trade_id=3))
    await trio.sleep(5)
    payloads, told = running.taken()

    assert [p for p in payloads if b"heartbeat" not in p] == [
        match(1),
        full(100, trade_id=2),
        full(101, trade_id=3),
    ]
    assert told == []


async def test_a_product_moves_back_to_a_connection_that_has_lived_on(
    autojump_clock, exchange, serve
):
    """It has heard of the product before; that does not say that it flows there again."""
    running = await serve(channels=("matches",))
    running.demand.want([Topic("ticker", "ETH-USD")])
    (light,) = await exchange.lines_with("ticker", "ETH-USD")
    await heard(light, heartbeat("ETH-USD"), heartbeat(), match(1))
    running.demand.want([FULL])
    (heavy,) = await exchange.lines_with("full")
    await heard(heavy, full(5, trade_id=2))
    await trio.sleep(limits.HANDOVER_S + 1)
    assert light.held == {("ticker", "ETH-USD"), ("heartbeat", "ETH-USD")}
    running.demand.release([FULL], trio.current_time() - limits.LINGER_S)
    await exchange.lines_with("matches")
    await trio.sleep(3 * limits.HANDOVER_S)
    assert ("full", "BTC-USD") in heavy.held
    await heard(light, heartbeat(), match(3))
    await trio.sleep(limits.HANDOVER_S + 1)

    assert heavy.is_over
    assert running.notices() == []
