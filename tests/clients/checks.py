"""Checks of the messages that every client must have received."""

import re
from decimal import Decimal

import trio

from tests.clients.books import FullBook, contiguous, fold_level2, get_json, orders_of
from tests.clients.harness import Driver, Relay, driving

WRONG = {"message": "Failed to subscribe", "reason": "XYZ-ABC is not a valid product"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")


def check_trades(driver: Driver, product: str) -> None:
    """Check that trades arrive once, in order, after one last_match; tickers match trades."""
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
    """Check for a snapshot first, then changes that give an uncrossed book."""
    changes = [m for m in driver.messages("snapshot", "l2update") if m["product_id"] == product]
    assert [m["type"] for m in changes][:2] == ["snapshot", "l2update"]
    book = fold_level2(changes)
    assert max(map(Decimal, book["buy"])) < min(map(Decimal, book["sell"]))


def check_heartbeats(driver: Driver, product: str) -> None:
    """Check that no heartbeat is ahead of the trades that it counts."""
    last = 0
    heartbeats = 0
    for message in driver.messages("last_match", "match", "heartbeat"):
        if message["product_id"] == product:
            if message["type"] == "heartbeat":
                heartbeats += 1
                assert last in {0, message["last_trade_id"]}
            else:
                last = message["trade_id"]
    assert heartbeats


async def wait_for_trades(exchange_rest: str, product: str, count: int) -> None:
    """Wait until the exchange has ``count`` trades of the product; a page has at most 1000."""
    path = f"{exchange_rest}/products/{product}/trades"
    with trio.fail_after(60):
        while True:
            page = await get_json(path)
            older = await get_json(f"{path}?after={page[-1]['trade_id']}")
            if len(page) + len(older) >= count:
                return
            await trio.sleep(0.5)


async def check_rest(driver: Driver, exchange_rest: str, trades: int) -> None:
    """Check that answers have Coinbase's form, and the exchange's values where those are fixed."""
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
    """Check a client's book, kept for 10 s after one load, against the exchange's.

    The relay has no ``full`` of the product before the client subscribes. First the reference book
    is compared with the exchange's, which proves that ``full`` was complete. Then the client's
    book is compared with the reference, at its sequence.
    """
    reference = FullBook(relay.exchange_rest, product)

    async def follow(task_status: trio.TaskStatus[None]) -> None:
        await reference.follow(relay.port, product, task_status)

    async with trio.open_nursery() as nursery:
        async with driving(command, "book", relay.url, relay.api_url, product, 10) as driver:
            await driver.wait_for("loaded")
            await nursery.start(follow)
        sequence, truth = await reference.load()
        assert await reference.at(sequence) == truth
        book = driver.of("book")[0]
        orders = orders_of(book)
        expected = await reference.at(book["sequence"])
        nursery.cancel_scope.cancel()
    assert len(driver.of("loaded")) == 1, driver.all_errors()
    assert driver.of("error") == []
    assert len(orders) == len(book["bids"]) + len(book["asks"]), "an order is listed twice"
    assert orders == expected
    assert book["sequence"] > driver.of("loaded")[0]["sequence"] + 100, "the market was not busy"
    return driver
