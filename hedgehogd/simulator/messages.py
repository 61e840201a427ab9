"""The exchange's data messages, byte for byte in the key order of 2021 to 2026 (FEED §6)."""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from hedgehogd.simulator.amounts import fixed, time_text, trimmed
from hedgehogd.simulator.book import Book, Side
from hedgehogd.simulator.products import Product, currencies, status_object
from hedgehogd.simulator.rolling import Day

_VOLUME_DECIMALS = 8


class Trade(NamedTuple):
    """One match: a resting order (the maker) met a new one (the taker).

    Attributes:
        trade_id: the product's counter of trades; rises by exactly one.
        sequence: the product's counter of engine events at this trade.
        maker_order_id: a UUID.
        taker_order_id: a UUID; the same for all trades of one order.
        maker_side: ``"sell"`` when a resting ask was lifted.
        price: ticks.
        size: units.
        time_ns: when, in ns since the epoch.
    """

    trade_id: int
    sequence: int
    maker_order_id: str
    taker_order_id: str
    maker_side: Side
    price: int
    size: int
    time_ns: int

    @property
    def taker_side(self) -> Side:
        """The side of the order that came second; what a ticker calls ``side``."""
        return "sell" if self.maker_side == "buy" else "buy"


def match(product: Product, trade: Trade, kind: str = "match") -> bytes:
    """Return a ``match`` or, as ``kind``, a ``last_match`` (FEED §6.4)."""
    size = trimmed(trade.size, product.size_decimals)
    price = trimmed(trade.price, product.price_decimals)
    return (
        f'{{"type":"{kind}","trade_id":{trade.trade_id},'
        f'"maker_order_id":"{trade.maker_order_id}","taker_order_id":"{trade.taker_order_id}",'
        f'"side":"{trade.maker_side}","size":"{size}","price":"{price}",'
        f'"product_id":"{product.id}","sequence":{trade.sequence},'
        f'"time":"{time_text(trade.time_ns)}"}}'
    ).encode()


def ticker(product: Product, trade: Trade, day: Day, book: Book) -> bytes:
    """Return the ``ticker`` that reports ``trade``; ``side`` is the taker's (FEED §6.3)."""
    places, size_places = product.price_decimals, product.size_decimals
    bid, ask = book.best_bid, book.best_ask
    return (
        f'{{"type":"ticker","sequence":{trade.sequence},"product_id":"{product.id}",'
        f'"price":"{trimmed(trade.price, places)}","open_24h":"{trimmed(day.open, places)}",'
        f'"volume_24h":"{volume(product, day.volume)}","low_24h":"{trimmed(day.low, places)}",'
        f'"high_24h":"{trimmed(day.high, places)}",'
        f'"volume_30d":"{volume(product, day.volume_30d)}",'
        f'"best_bid":"{fixed(bid, places)}",'
        f'"best_bid_size":"{fixed(book.bids[bid], size_places)}",'
        f'"best_ask":"{fixed(ask, places)}",'
        f'"best_ask_size":"{fixed(book.asks[ask], size_places)}",'
        f'"side":"{trade.taker_side}","time":"{time_text(trade.time_ns)}",'
        f'"trade_id":{trade.trade_id},"last_size":"{trimmed(trade.size, size_places)}"}}'
    ).encode()


def volume(product: Product, units: int) -> str:
    """Write a volume: always eight decimals, whatever the base increment."""
    return fixed(units * 10 ** (_VOLUME_DECIMALS - product.size_decimals), _VOLUME_DECIMALS)


def heartbeat(product: Product, last_trade_id: int, sequence: int, time_ns: int) -> bytes:
    """Return a ``heartbeat`` (FEED §6.1)."""
    return (
        f'{{"type":"heartbeat","last_trade_id":{last_trade_id},"product_id":"{product.id}",'
        f'"sequence":{sequence},"time":"{time_text(time_ns)}"}}'
    ).encode()


def snapshot(
    product: Product,
    asks: Iterable[tuple[int, int]],
    bids: Iterable[tuple[int, int]],
    time_ns: int,
) -> bytes:
    """Return a ``snapshot`` from rows of ``(tick, units)``, best first (FEED §6.6)."""
    return (
        f'{{"type":"snapshot","product_id":"{product.id}","asks":{_rows(product, asks)},'
        f'"bids":{_rows(product, bids)},"time":"{time_text(time_ns)}"}}'
    ).encode()


def _rows(product: Product, rows: Iterable[tuple[int, int]]) -> str:
    places, size_places = product.price_decimals, product.size_decimals
    texts = (f'["{fixed(tick, places)}","{fixed(units, size_places)}"]' for tick, units in rows)
    return f"[{','.join(texts)}]"


def l2update(product: Product, changes: Iterable[tuple[Side, int, int]], time_ns: int) -> bytes:
    """Return an ``l2update`` from changes of ``(side, tick, new units)`` (FEED §6.6)."""
    places, size_places = product.price_decimals, product.size_decimals
    texts = (
        f'["{side}","{fixed(tick, places)}","{fixed(units, size_places)}"]'
        for side, tick, units in changes
    )
    return (
        f'{{"type":"l2update","product_id":"{product.id}","changes":[{",".join(texts)}],'
        f'"time":"{time_text(time_ns)}"}}'
    ).encode()


def status(products: Iterable[Product]) -> bytes:
    """Return the ``status`` message about all ``products`` (FEED §6.2)."""
    listed = tuple(products)
    return msgspec.json.encode(
        {
            "type": "status",
            "products": [status_object(product) for product in listed],
            "currencies": currencies(listed),
        }
    )
