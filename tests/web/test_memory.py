"""Answers from memory: only current data is served, in Coinbase's form."""

import json

import pytest

from hedgehogd.app.daemon import make_instance
from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import Topic
from hedgehogd.engine.delivery import Delivery
from hedgehogd.settings.keys import Settings
from hedgehogd.web.memory import from_memory, live_products
from tests.fakes import make_message

BTC = "BTC-USD"
TICKER = {
    "price": "10.0", "open_24h": "9", "high_24h": "11", "low_24h": "8", "volume_24h": "5",
    "volume_30d": "50", "best_bid": "9.9", "best_ask": "10.1", "last_size": "1", "time": "t",
    "trade_id": 3,
}  # fmt: skip
STALE = TopicNotice(frozenset({BTC}), b"{}", NoticeKind.STALE)
BOOKS = frozenset(Topic(name, BTC) for name in ("level2", "ticker", "matches", "heartbeat"))


class Memory:
    def __init__(self):
        self.instance = make_instance(Settings())

    async def take(self, *messages, **more):
        await self.instance.broker.publish([Delivery(list(messages), **more)])

    def ask(self, subject, **query):
        if subject == "book":
            query = {"level": "1"} | query
        return from_memory(self.instance.pipe, BTC, subject, query)

    def read(self, subject, **query):
        return json.loads(self.ask(subject, **query).body)

    def trades(self, **query):
        answer = self.ask("trades", **query)
        return answer and [trade["trade_id"] for trade in json.loads(answer.body)]


@pytest.fixture
def memory():
    return Memory()


def match(trade_id, channel="matches", **more):
    fields = {"side": "buy", "size": "0.10", "price": "9.50", "time": "t", "trade_id": trade_id}
    return make_message(channel, sequence=trade_id, kind="match", **fields, **more)


async def fill(memory):
    await memory.take(
        make_message("ticker", sequence=3, **TICKER),
        match(3),
        make_message(
            "level2", kind="snapshot", bids=[["9.9", "1"], ["9.8", "2"]], asks=[["10.1", "3"]]
        ),
        flows=BOOKS,
    )


async def test_the_ticker_has_the_field_names_of_rest(memory):
    """Its values are unchanged."""
    await fill(memory)

    assert memory.read("ticker") == {
        "ask": "10.1", "bid": "9.9", "volume": "5", "trade_id": 3, "price": "10.0",
        "size": "1", "time": "t",
    }  # fmt: skip
    assert memory.read("stats") == {
        "open": "9", "high": "11", "low": "8", "last": "10.0", "volume": "5", "volume_30day": "50",
    }  # fmt: skip


@pytest.mark.parametrize("subject", ["ticker", "stats"])
async def test_a_ticker_without_a_field_is_no_answer(memory, subject):
    """Clients would trade on an invented zero."""
    message = make_message("ticker", sequence=3, **(TICKER | {"price": None}))
    await memory.take(message)
    assert memory.ask(subject) is None

    message.payload = b"[]"
    await memory.take(message)
    assert memory.ask(subject) is None


async def test_a_level2_book_does_not_invent_orders(memory):
    """Rows have Coinbase's three elements; the number of orders is null."""
    await fill(memory)

    expected = {
        "bids": [["9.9", "1", None]], "asks": [["10.1", "3", None]], "sequence": None,
        "auction_mode": False, "auction": None,
    }  # fmt: skip
    assert memory.read("book") == expected
    assert memory.read("book", level="2")["bids"] == [["9.9", "1", None], ["9.8", "2", None]]
    assert memory.ask("book", level="3") is None
    await memory.take(make_message("level2", changes=[["buy", "9.9", "4"]], time="now"))
    assert memory.read("book") == expected | {"bids": [["9.9", "4", None]], "time": "now"}


async def test_trades_are_the_newest_of_the_tape_up_to_a_gap(memory):
    """A page with missing trades would look complete."""
    matches = Topic("matches", BTC)
    odd = make_message("matches", sequence=5)
    await memory.take(match(3), match(5), odd, match(6), match(7, "full", also=matches))

    assert memory.trades() == [7, 6, 5]
    assert memory.trades(limit="2") == [7, 6]
    assert memory.trades(after="7") == [6, 5]
    assert (memory.trades(after="5"), memory.trades(before="3")) == (None, None)
    answer = memory.ask("trades")
    assert (answer.before, answer.after) == ("7", "5")
    assert json.loads(answer.body)[0] == {
        "trade_id": 7, "side": "buy", "size": "0.10", "price": "9.50", "time": "t",
    }  # fmt: skip


async def test_the_last_trade_of_a_quiet_market_is_an_answer(memory, monkeypatch):
    """The trade is older than the searched part of the tape."""
    await memory.take(match(3), make_message("ticker", sequence=3, **TICKER))
    monkeypatch.setattr("hedgehogd.web.memory.MEMORY_SCAN_MESSAGES_MAX", 1)

    assert memory.trades() == [3]


async def test_a_trade_without_its_fields_ends_the_page(memory):
    """An unreadable field is not invented."""
    await memory.take(make_message("matches", sequence=3, trade_id=3), match(4))
    assert memory.trades() == [4]

    await memory.take(make_message("matches", sequence=5, trade_id=5))
    assert memory.trades() is None


@pytest.mark.parametrize("subject", ["ticker", "stats", "trades", "book", "candles"])
async def test_data_that_is_not_kept_current_is_not_served(memory, subject):
    """That is so before the first message, while the product is stale, and after it is removed."""
    assert memory.ask(subject) is None
    await fill(memory)
    assert (memory.ask(subject) is None) is (subject == "candles")
    await memory.take(notices=[STALE], notices_at=[0])
    assert memory.ask(subject) is None

    await memory.take(flows=frozenset())
    await fill(memory)
    await memory.take(flows=frozenset())
    assert memory.ask(subject) is None


async def test_live_products_are_those_with_messages(memory):
    """Stale products and messages without a product do not count."""
    await memory.take(make_message("ticker", "ETH-USD"), make_message("status", ""))
    await fill(memory)
    assert live_products(memory.instance.pipe) == [BTC, "ETH-USD"]

    await memory.take(notices=[STALE], notices_at=[0])
    assert live_products(memory.instance.pipe) == ["ETH-USD"]
