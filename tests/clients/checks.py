"""What every client must have got, whichever it is."""

import re
from decimal import Decimal

import trio

from tests.clients.books import FullBook, contiguous, fold_level2, get_json, orders_of
from tests.clients.harness import Driver, Relay, driving

WRONG = {"message": "Failed to subscribe", "reason": "XYZ-ABC is not a valid product"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


def check_trades(driver: Driver, product: str) -> None:
    """Trades come once each, in order, behind the last one before them; tickers are of trades."""
    trades = [m for m in driver.messages("last_match", "match") if m["product_id"] == product]
    tickers = [m for m in driver.messages("ticker") if m["product_id"] == product]
    assert [m["type"] for m in trades][:2] == ["last_match", "match"]
    assert "last_match" not in [m["type"] for m in trades[1:]]
    assert contiguous([m["trade_id"] for m in trades])
    assert len(tickers) > 1
    prices = {m["trade_id"]: Decimal(m["price"]) for m in trades}
    seen = [m for m in tickers if m["trade_id"] in prices]
    assert seen
    assert [Decimal(m["price"]) for m in seen] == [prices[m["trade_id"]] for m in seen]


def check_level2(driver: Driver, product: str) -> None:
    """A snapshot first, then changes that make an uncrossed book of it."""
    changes = [m for m in driver.messages("snapshot", "l2update") if m["product_id"] == product]
    assert [m["type"] for m in changes][:2] == ["snapshot", "l2update"]
    book = fold_level2(changes)
    assert max(map(Decimal, book["buy"])) < min(map(Decimal, book["sell"]))


def check_heartbeats(driver: Driver, product: str) -> None:
    """No heartbeat is ahead of the trades it tells of."""
    last = 0
    beats = 0
    for message in driver.messages("last_match", "match", "heartbeat"):
        if message["product_id"] == product:
            if message["type"] == "heartbeat":
                beats += 1
                assert last in {0, message["last_trade_id"]}
            else:
                last = message["trade_id"]
    assert beats


async def wait_for_trades(exchange_rest: str, product: str, count: int) -> None:
    """Let the exchange have so many trades of the product; its page has a thousand at most."""
    path = f"{exchange_rest}/products/{product}/trades"
    with trio.fail_after(60):
        while True:
            page = await get_json(path)
            older = await get_json(f"{path}?after={page[-1]['trade_id']}")
            if len(page) + len(older) >= count:
                return
            await trio.sleep(0.5)


async def check_rest(driver: Driver, exchange_rest: str, trades: int) -> None:
    """The answers have Coinbase's shapes, and the exchange's values where those stand still."""
    assert driver.answer("products") == await get_json(f"{exchange_rest}/products")
    assert driver.answer("currencies") == await get_json(f"{exchange_rest}/currencies")
    for level in (1, 2, 3):
        _check_book(driver.answer(f"book {level}"), level)
    ticker = driver.answer("ticker")
    assert {"ask", "bid", "volume", "trade_id", "price", "size", "time"} <= ticker.keys()
    assert isinstance(ticker["trade_id"], int)
    assert Decimal(ticker["bid"]) < Decimal(ticker["ask"])
    _check_trades(driver.answer("trades"), trades)
    _check_candles(driver.answer("candles"))
    time = driver.answer("time")
    assert isinstance(time["epoch"], float)
    assert time["iso"].endswith("Z")


def _check_book(book: dict, level: int) -> None:
    bids, asks = ([Decimal(row[0]) for row in book[side]] for side in ("bids", "asks"))
    assert isinstance(book["sequence"], int)
    assert bids == sorted(bids, reverse=True)
    assert asks == sorted(asks)
    assert bids[0] < asks[0]
    assert {len(row) for row in book["bids"] + book["asks"]} == {3}
    third = {type(row[2]) for row in book["bids"] + book["asks"]}
    assert third == ({str} if level == 3 else {int})
    if level < 3:
        assert len(set(bids)) == len(bids)
    if level == 1:
        assert (1, 1) == (len(bids), len(asks))
    else:
        assert len(bids) > 1


def _check_trades(trades: list[dict], count: int) -> None:
    assert len(trades) == count
    numbers = [trade["trade_id"] for trade in trades]
    assert contiguous(sorted(numbers))
    assert numbers in (sorted(numbers), sorted(numbers, reverse=True))
    for trade in trades:
        assert {"trade_id", "side", "size", "price", "time"} == trade.keys()
        assert trade["side"] in {"buy", "sell"}
        assert TIME.fullmatch(trade["time"])


def _check_candles(rows: list[list]) -> None:
    assert rows
    starts = [row[0] for row in rows]
    assert starts == sorted(set(starts), reverse=True)
    for start, low, high, opened, closed, volume in rows:
        assert start % 60 == 0
        assert low <= min(opened, closed) <= max(opened, closed) <= high
        assert volume >= 0


async def check_book(command: list[str], relay: Relay, product: str) -> Driver:
    """Let the client keep a book for 10 s: it is the exchange's, after one load only.

    The relay holds no ``full`` of the product before the client asks. First our own book is
    proved on the exchange's; so ``full`` had it all. Then the client's is, at its sequence.
    """
    ours = FullBook(relay.exchange_rest, product)

    async def follow(task_status: trio.TaskStatus[None]) -> None:
        await ours.follow(relay.port, product, task_status)

    async with trio.open_nursery() as nursery:
        async with driving(command, "book", relay.url, relay.api_url, product, 10) as driver:
            await driver.wait_for("loaded")
            await nursery.start(follow)
        sequence, truth = await ours.load()
        assert await ours.at(sequence) == truth
        book = driver.of("book")[0]
        mine = orders_of(book)
        expected = await ours.at(book["sequence"])
        nursery.cancel_scope.cancel()
    assert len(driver.of("loaded")) == 1, driver.words()
    assert driver.of("error") == []
    assert len(mine) == len(book["bids"]) + len(book["asks"]), "an order is there twice"
    assert mine == expected
    assert book["sequence"] > driver.of("loaded")[0]["sequence"] + 100, "the market was not busy"
    return driver
