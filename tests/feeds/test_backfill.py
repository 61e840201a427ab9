"""Each missing trade is delivered once or counted, even if the service fails."""

import json
from random import Random

import httpx
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from hedgehogd.domain import limits
from hedgehogd.feeds.backfill import Backfill
from tests.feeds.upstream import Upstream, reply, rest_client


def trade(trade_id, **more):
    fields = {"side": "buy", "size": "0.10", "price": f"{trade_id}.50", "time": "2026-01-01"}
    return {"trade_id": trade_id, **fields, **more}


class Trades(Upstream):
    """A service of trades ``1 … newest``, which are listed ``lag_s`` after the start.

    Attributes:
        absent: ids that it never lists.
        faults: raised or returned instead of the next answers, None for no fault.
    """

    def __init__(self, newest=10_000, absent=(), faults=(), late=0, lag_s=0.0):
        super().__init__(self.page)
        self.newest, self.absent, self.faults = newest, set(absent), list(faults)
        self.late, self.lag_s = late, lag_s

    def page(self, request):
        fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            return fault()
        query = request.url.params
        newest = self.newest - (self.late if trio.current_time() < self.lag_s else 0)
        below = min(int(query["after"]) - 1, newest)
        ids = [i for i in range(below, 0, -1) if i not in self.absent][: int(query["limit"])]
        return reply([trade(i) for i in ids])


class Taker:
    def __init__(self):
        self.chunks = []

    async def deliver(self, product_id, trades):
        await trio.lowlevel.checkpoint()
        assert product_id == "BTC-USD"
        self.chunks.append([each["trade_id"] for each in trades])
        assert trades == [trade(each["trade_id"]) for each in trades]

    @property
    def ids(self):
        return [trade_id for chunk in self.chunks for trade_id in chunk]


async def filled(upstream, *gaps, for_s=600.0):
    """Fill gaps; return the receiver of the trades, and the backfill."""
    taker = Taker()
    async with trio.open_nursery() as nursery:
        rest = rest_client(upstream)
        await nursery.start(rest.run)
        backfill = Backfill(rest, taker.deliver, Random(1))
        await nursery.start(backfill.run)
        for first, last in gaps:
            backfill.ask("BTC-USD", first, last)
        await trio.sleep(for_s)
        nursery.cancel_scope.cancel()
    return taker, backfill


async def test_a_gap_is_fetched_downwards_and_delivered_ascending(autojump_clock):
    """``after`` returns the adjacent page, ``before`` does not (COINBASE §13)."""
    upstream = Trades()
    taker, backfill = await filled(upstream, (1001, 3500))

    assert taker.ids == list(range(1001, 3501))
    assert {len(chunk) for chunk in taker.chunks} == {limits.BACKFILL_CHUNK_TRADES_MAX}
    trades = "/products/BTC-USD/trades?limit=1000&after="
    assert upstream.asked == [f"{trades}3501", f"{trades}2501", f"{trades}1501"]
    assert upstream.most == 1
    assert (backfill.gaps, backfill.delivered, backfill.given_up) == (1, 2500, {})


async def test_gaps_are_filled_in_their_order(autojump_clock):
    taker, _ = await filled(Trades(), (7, 7), (9, 10))

    assert taker.chunks == [[7], [9, 10]]


async def test_trades_that_are_not_listed_yet_are_waited_for(autojump_clock):
    """The first pages are some seconds old (COINBASE §13)."""
    upstream = Trades(newest=50, late=3, lag_s=6.0)
    taker, backfill = await filled(upstream, (40, 50))

    assert (taker.ids, backfill.given_up) == (list(range(40, 51)), {})
    assert 3 <= len(upstream.seen) <= 6


@pytest.mark.parametrize(
    ("absent", "gap", "listed", "given_up"),
    [
        ({50}, (40, 50), range(40, 50), 1),
        ({44, 46}, (40, 50), (40, 41, 42, 43, 45, 47, 48, 49, 50), 2),
        ({40, 41}, (40, 50), range(42, 51), 2),
        (set(range(30, 60)), (40, 50), (), 11),
        (set(range(1, 60)), (40, 50), (), 11),
    ],
)
async def test_trades_that_never_come_are_given_up(autojump_clock, absent, gap, listed, given_up):
    """They are abandoned after fifteen seconds; adjacent trades are delivered."""
    upstream = Trades(absent=absent)
    with capture_logs() as lines:
        taker, backfill = await filled(upstream, gap)

    assert taker.ids == list(listed)
    assert backfill.given_up == {"not_listed": given_up}
    assert 15 <= upstream.seen[-1][0] <= 16
    assert [line["event"] for line in lines] == ["trades stay missing"]


async def test_errors_are_tried_again(autojump_clock):
    """Pauses grow with each error; a good page resets them."""
    faults = [lambda: httpx.ReadTimeout(""), lambda: reply({}, 500), lambda: reply({"a": 1})] * 2
    upstream = Trades(faults=[*faults[:5], None, *faults[:5]])
    taker, backfill = await filled(upstream, (1, 1500))

    assert (taker.ids, backfill.given_up) == (list(range(1, 1501)), {})
    pauses = [b - a for (a, _), (b, _) in zip(upstream.seen, upstream.seen[1:], strict=False)]
    assert all(pause >= 0.5 for pause in pauses[:5])
    assert pauses[4] > 1 >= pauses[6]


async def test_after_so_many_errors_the_rest_is_given_up(autojump_clock):
    """Received trades are delivered; the failure is logged once."""
    upstream = Trades(faults=[None, *[lambda: reply({}, 503)] * 99])
    with capture_logs() as lines:
        taker, backfill = await filled(upstream, (1, 1500))

    assert taker.ids == list(range(501, 1501))
    assert backfill.given_up == {"unavailable": 500}
    assert len(upstream.seen) == 1 + limits.BACKFILL_TRIES_MAX
    assert [line["event"] for line in lines] == ["no backfill", "trades stay missing"]


async def test_a_long_pause_of_the_service_is_waited_for(autojump_clock):
    """Further requests would only use up the tries."""
    upstream = Trades(faults=[lambda: reply({}, 429, Retry_After="60")])
    taker, _ = await filled(upstream, (1, 9))

    assert taker.ids == list(range(1, 10))
    assert [at for at, _ in upstream.seen] == [0, 60]


@pytest.mark.parametrize("status", [400, 404])
async def test_a_refusal_is_for_good(autojump_clock, status):
    """A feed without REST gets one request for each gap."""
    upstream = Trades(faults=[lambda: reply({}, status)])
    taker, backfill = await filled(upstream, (1, 9))

    assert (taker.ids, backfill.given_up, len(upstream.seen)) == ([], {"refused": 9}, 1)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps([trade(3)]).encode().replace(b"buy", b"\xff"),
        json.dumps([trade(3)]).encode().replace(b"buy", rb"\ud800"),
        b'[{"trade_id":3}]',
        b'[{"trade_id":3,"x":' + b"[" * 5000,
        b"{}",
        b"[1]",
        b'[{"id":1}]',
        b'[{"trade_id":"1"}]',
        b"[" * 9999,
        b'["\xff"]',
        b"[tr]",
    ],
)
async def test_an_invalid_page_of_trades_is_an_error(autojump_clock, body):
    """An invalid answer must not end the daemon."""
    upstream = Trades(faults=[lambda: reply(raw=body)])
    taker, _ = await filled(upstream, (3, 3))

    assert taker.ids == [3]


@pytest.mark.parametrize(
    "unreadable",
    ["null", "7", "{}", '{"trade_id":2}', '{"trade_id":2,"price":true,"size":"1"}', '"x"'],
)
async def test_an_unreadable_trade_alone_is_left_out(autojump_clock, unreadable):
    """The rest of its page is delivered, with the numbers as written."""
    texts = [
        json.dumps(trade(3, price="?")).replace('"?"', "3.50"),
        unreadable,
        json.dumps(trade(1)),
    ]
    body = f"[{','.join(texts)}]".encode()
    upstream = Trades(faults=[lambda: reply(raw=body)] * 99)
    taker, backfill = await filled(upstream, (1, 3))

    assert (taker.ids, backfill.given_up) == ([1, 3], {"not_listed": 1})


async def test_other_fields_of_a_trade_are_not_passed_on(autojump_clock):
    """Other fields may be invalid text, or nested too deeply."""
    page = json.dumps([trade(3, x="?", y=[[1]])]).encode().replace(b"?", b"\xff")
    taker, _ = await filled(Trades(faults=[lambda: reply(raw=page)]), (3, 3))

    assert taker.ids == [3]


async def test_of_a_long_gap_the_newest_are_fetched(autojump_clock):
    """Two hours are enough; for days there is the exchange's history."""
    newest = limits.BACKFILL_TRADES_MAX + 500
    taker, backfill = await filled(Trades(newest=newest), (101, newest))

    assert taker.ids == list(range(501, newest + 1))
    assert backfill.given_up == {"too_many": 400}


async def test_too_many_gaps_are_dropped_and_counted(autojump_clock):
    """At most a thousand gaps wait."""
    taker = Taker()
    backfill = Backfill(rest_client(Trades()), taker.deliver, Random(1))
    for _ in range(limits.BACKFILL_GAPS_MAX + 1):
        backfill.ask("BTC-USD", 5, 8)

    assert (backfill.gaps, backfill.given_up) == (limits.BACKFILL_GAPS_MAX + 1, {"queue_full": 4})


@pytest.mark.parametrize("product_id", ["", "../x", "BTC-USD\n", "BTC-USD/book", "\x00"])
async def test_a_product_that_cannot_be_is_not_asked_for(autojump_clock, product_id):
    """The id comes from an untrusted feed, and would be part of a path."""
    backfill = Backfill(rest_client(Trades()), Taker().deliver, Random(1))
    backfill.ask(product_id, 1, 3)

    assert backfill.given_up == {"refused": 3}


@settings(max_examples=60)
@given(
    gaps=st.lists(st.tuples(st.integers(0, 300), st.integers(1, 2600)), min_size=1, max_size=4),
    absent=st.sets(st.integers(1, 6000), max_size=40),
    late=st.integers(0, 30),
    lag_s=st.floats(0, 30),
    faults=st.lists(
        st.sampled_from(
            [
                None,
                None,
                lambda: httpx.ReadTimeout(""),
                lambda: reply({}, 500),
                lambda: reply({}, 429),
                lambda: reply(raw=b"<html>"),
                lambda: reply([]),
                lambda: reply({"message": "NotFound"}, 404),
                lambda: reply([trade(3), trade(10**9)]),
            ]
        ),
        max_size=30,
    ),
)
def test_every_trade_comes_once_or_is_counted(gaps, absent, late, lag_s, faults):
    """With random gaps, stale pages, missing trades and errors, no trade is lost or repeated."""
    at, wanted = 1, []
    for distance, size in gaps:
        wanted.append((at + distance, at + distance + size - 1))
        at += distance + size
    upstream = Trades(at - 1, absent, faults, late, lag_s)

    async def main():
        return await filled(upstream, *wanted, for_s=3000)

    taker, backfill = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    missing = sum(last - first + 1 for first, last in wanted)

    assert taker.ids == sorted(set(taker.ids))
    assert all(any(first <= i <= last for first, last in wanted) for i in taker.ids)
    assert len(taker.ids) + backfill.given_up.total() == missing
    assert backfill.delivered == len(taker.ids)
    assert all(len(chunk) <= limits.BACKFILL_CHUNK_TRADES_MAX for chunk in taker.chunks)
    assert upstream.most <= 1
    assert json.dumps(backfill.given_up)
