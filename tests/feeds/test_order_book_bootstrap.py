"""Level-3 books: fetched when they are missing, not too early and not too often."""

import json

import msgspec
import pytest
import trio

from hedgehogd.books.level3_books import OrderBooks
from hedgehogd.domain import limits
from hedgehogd.engine.delivery import Delivery
from hedgehogd.feeds.order_book_bootstrap import Bootstrap, read_book
from hedgehogd.feeds.rest_cache import Answer
from tests.fakes import make_message

BODY = json.dumps(
    {"sequence": 7, "bids": [["1.0", "2", "id-1"]], "asks": [], "auction_mode": False}
).encode()
FAILURE = Answer(503, b'{"message":"we are busy"}')


class Rest:
    """A REST service that records each request with its time."""

    def __init__(self):
        self.asked = []
        self.answers = []

    async def get_later(self, path, query=()):
        await trio.lowlevel.checkpoint()
        self.asked.append((trio.current_time(), path, query))
        return self.answers.pop(0) if self.answers else Answer(200, BODY)


class Booting:
    def __init__(self):
        self.books = OrderBooks()
        self.rest = Rest()
        self.bootstrap = Bootstrap(self.books, self.rest)
        self.tx, self.inbox = trio.open_memory_channel[Delivery](8)

    def flow(self, product_id="BTC-USD", sequence=7):
        self.books.follow([make_message("full", product_id, sequence, kind="noop")])

    @property
    def asked_at(self):
        return [at for at, _, _ in self.rest.asked]


@pytest.fixture
async def booting(nursery):
    booting = Booting()
    nursery.start_soon(booting.bootstrap.run, booting.tx)
    return booting


async def test_a_book_is_fetched_a_moment_after_its_events_flow(autojump_clock, booting):
    """A book older than the first event leaves a gap, and would have to be fetched again."""
    await trio.sleep(5)
    assert booting.rest.asked == []
    booting.flow()
    delivery = await booting.inbox.receive()

    at = 5 + limits.ORDER_BOOK_SETTLE_S
    assert booting.rest.asked == [(at, "/products/BTC-USD/book", (("level", "3"),))]
    assert delivery.order_book == ("BTC-USD", [["1.0", "2", "id-1"]], [], 7)
    assert delivery.messages == []


async def test_a_product_is_not_asked_for_more_often_than_that(autojump_clock, booting):
    """The exchange sanctions clients that poll level-3 books."""
    booting.rest.answers = [FAILURE] * 3
    booting.flow()
    await booting.inbox.receive()

    first = limits.ORDER_BOOK_SETTLE_S
    assert booting.asked_at == [first + n * limits.ORDER_BOOK_PAUSE_S for n in range(4)]
    assert booting.bootstrap.failures == 3


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"sequence":"7"}', b'{"a":"\xff"}', b"[" * 100_000]
)
async def test_an_invalid_book_is_a_failure(autojump_clock, booting, body):
    """An invalid answer does not end the task."""
    booting.rest.answers = [Answer(200, body)]
    booting.flow()
    await booting.inbox.receive()

    assert booting.bootstrap.failures == 1
    with pytest.raises(msgspec.DecodeError):
        read_book("BTC-USD", body)


def test_one_unreadable_row_does_not_prevent_the_book():
    """Otherwise the book would be fetched again every ten seconds, for ever."""
    body = b'{"sequence":7,"bids":[["1",2.50,"a","more"],null,[7]],"asks":null}'

    assert read_book("BTC-USD", body) == (
        "BTC-USD", [["1", "2.50", "a", "more"], None, [7]], [], 7
    )  # fmt: skip


async def test_the_pause_of_one_product_delays_no_other(autojump_clock, booting):
    """BTC-USD fails; the book of ETH-USD is fetched without delay."""
    booting.rest.answers = [FAILURE]
    booting.flow()
    await trio.sleep(3)
    booting.flow("ETH-USD")
    await booting.inbox.receive()

    assert [(at, path) for at, path, _ in booting.rest.asked] == [
        (2, "/products/BTC-USD/book"),
        (5, "/products/ETH-USD/book"),
    ]


async def test_a_product_that_flows_no_longer_is_not_fetched(autojump_clock, booting):
    """A subscriber may leave before the book is due."""
    booting.flow()
    await trio.sleep(1)
    booting.books.forget(make_message("full").topic)
    await trio.sleep(100)

    assert booting.rest.asked == []


async def test_a_book_that_is_lost_later_is_fetched_after_the_same_delay(autojump_clock, booting):
    """After a gap, REST may be older than the next event, as at the start."""
    booting.flow()
    fetched = (await booting.inbox.receive()).order_book
    await trio.sleep(1)
    held = booting.books._held["BTC-USD"]
    for _ in held.book.load_parts(fetched.bids, fetched.asks, fetched.sequence):
        pass
    await trio.sleep(100)
    lost_at = trio.current_time()
    booting.books._lose(held, "gap")
    await booting.inbox.receive()

    assert booting.asked_at == [2, lost_at + limits.ORDER_BOOK_SETTLE_S]


async def test_a_cancelled_producer_closes_the_inbox(autojump_clock):
    """The broker ends when its last producer has closed."""
    booting = Booting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(booting.bootstrap.run, booting.tx)
        booting.flow()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.EndOfChannel):
        await booting.inbox.receive()
