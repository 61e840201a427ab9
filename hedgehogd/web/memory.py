"""REST answers in Coinbase's form from this instance's memory, for feeds without a REST service.

Only data that the feed keeps up to date is served: the newest ticker and the trades on the tape
while messages of their topics arrive and their product is not stale, a level-2 book while it
follows its updates. There is no answer when a field would have to be invented.
"""

from typing import Any

import msgspec

from hedgehogd.domain.channel import MATCHES, TICKER, Channel
from hedgehogd.domain.limits import MEMORY_SCAN_MESSAGES_MAX
from hedgehogd.domain.message import Message
from hedgehogd.domain.rows import UNREADABLE
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.feeds.rest_cache import Answer

_TICKER = {
    "ask": "best_ask", "bid": "best_bid", "volume": "volume_24h", "trade_id": "trade_id",
    "price": "price", "size": "last_size", "time": "time",
}  # fmt: skip
_STATS = {
    "open": "open_24h", "high": "high_24h", "low": "low_24h", "last": "price",
    "volume": "volume_24h", "volume_30day": "volume_30d",
}  # fmt: skip
_TRADE = ("trade_id", "side", "size", "price", "time")
_PAGE_TRADES_MAX = 1000
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def from_memory(pipe: Pipe, product_id: str, subject: str, query: dict[str, str]) -> Answer | None:
    """Return the answer about ``subject`` of a product; None when memory has no current data.

    Args:
        pipe: the instance's parts.
        product_id: the product.
        subject: ``ticker``, ``stats``, ``trades`` or ``book``; None is returned for any other, and
            for a book of level 3.
        query: the query, validated by ``reads``.
    """
    match subject:
        case "ticker":
            return _of_ticker(pipe, product_id, _TICKER)
        case "stats":
            return _of_ticker(pipe, product_id, _STATS)
        case "trades":
            return _trades(pipe, product_id, query)
        case "book" if query["level"] != "3":
            return _level2(pipe, product_id, depth=1 if query["level"] == "1" else None)
    return None


def live_products(pipe: Pipe) -> list[str]:
    """Return the products that have had a message and are not stale now, in order of their ids."""
    return sorted(product_id for product_id in pipe.tape.products() if _is_live(pipe, product_id))


def _is_live(pipe: Pipe, product_id: str) -> bool:
    return bool(product_id) and not pipe.standing.is_stale(product_id)


def _flows(pipe: Pipe, channel: Channel, product_id: str) -> bool:
    return pipe.flows.has(channel.topic(product_id)) and _is_live(pipe, product_id)


def _fields(payload: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _decode_fields(payload)
    except UNREADABLE:
        return {}


def _of_ticker(pipe: Pipe, product_id: str, names: dict[str, str]) -> Answer | None:
    """Return the newest ticker, its values unchanged under the keys of ``names``.

    ``names`` maps each field of the answer to one of the message. None without a current ticker
    that has all of them.
    """
    newest = pipe.latest.ticker(product_id)
    if newest is None or not _flows(pipe, TICKER, product_id):
        return None
    fields = _fields(newest.payload)
    if not all(source in fields for source in names.values()):
        return None
    return Answer(200, msgspec.json.encode({n: fields[source] for n, source in names.items()}))


def _trades(pipe: Pipe, product_id: str, query: dict[str, str]) -> Answer | None:
    """Return the newest trades, or those below ``after``, newest first.

    They end at the first missing trade id, or after ``limit`` trades. None without current trades,
    and for a query with ``before``.
    """
    if "before" in query or not _flows(pipe, MATCHES, product_id):
        return None
    topic = MATCHES.topic(product_id)
    found: list[Message] = pipe.tape.newest(topic, MEMORY_SCAN_MESSAGES_MAX)
    last = pipe.latest.greeting(topic)  # in a quiet market it is older than the searched messages
    if not found and last is not None:
        found = [last]
    after = int(query["after"]) if "after" in query else None
    trades: list[dict[str, Any]] = []
    expected = None if after is None else after - 1
    for message in found:
        trade_id = message.trade_id
        if trade_id is None or (after is not None and trade_id >= after):
            continue
        fields = _fields(message.payload)
        if (expected is not None and trade_id != expected) or not fields.keys() >= set(_TRADE):
            break
        trades.append({name: fields[name] for name in _TRADE})
        expected = trade_id - 1
        if len(trades) == min(int(query.get("limit", _PAGE_TRADES_MAX)), _PAGE_TRADES_MAX):
            break
    if not trades:
        return None
    newest, oldest = (bytes(trade["trade_id"]).decode() for trade in (trades[0], trades[-1]))
    return Answer(200, msgspec.json.encode(trades), newest, oldest)


def _level2(pipe: Pipe, product_id: str, depth: int | None) -> Answer | None:
    """Return a level-2 book; ``sequence`` and each level's number of orders are null.

    ``depth`` is the number of levels of each side; None means all. None without a complete book.
    """
    held = pipe.books.get(product_id)
    if held is None:
        return None
    frozen = held.book.freeze()
    body: dict[str, Any] = {
        name: [(*row, None) for row in frozen.rows(side, 0, depth)]
        for name, side in (("bids", "buy"), ("asks", "sell"))
    }
    is_auction = pipe.catalogue.is_in_auction(product_id)
    body |= {"sequence": None, "auction_mode": is_auction, "auction": None}
    if held.time:
        body["time"] = held.time
    return Answer(200, msgspec.json.encode(body))
