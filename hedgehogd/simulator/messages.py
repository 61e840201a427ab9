"""The exchange's data messages, byte for byte in the key order of 2021 to 2026.

Source: docs/COINBASE.md §6.
"""

from collections.abc import Callable, Iterable

import msgspec

from hedgehogd.simulator.amounts import fixed, time_text, trimmed
from hedgehogd.simulator.book import Book, Side
from hedgehogd.simulator.events import Matched, order_id
from hedgehogd.simulator.products import Product, currencies, status_object
from hedgehogd.simulator.rolling import Day

_VOLUME_DECIMALS = 8


class MarketMessage:
    """One message of the simulated exchange.

    Attributes:
        time_ns: time of sending, ns since the epoch.
        channel: the canonical name of its channel, for example ``"level2_50"``.
        product_id: its product; empty for ``status``.
    """

    __slots__ = ("_made", "channel", "product_id", "time_ns")

    def __init__(
        self, time_ns: int, channel: str, product_id: str, made: bytes | Callable[[], bytes]
    ) -> None:
        """Store the parts of the message.

        Args:
            time_ns: see the class.
            channel: see the class.
            product_id: see the class.
            made: the JSON text, or a function that returns it, called at most once.
        """
        self.time_ns = time_ns
        self.channel = channel
        self.product_id = product_id
        self._made = made

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same bytes, time, channel and product."""
        return isinstance(other, MarketMessage) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"MarketMessage{self._key()}"

    @property
    def payload(self) -> bytes:
        """The JSON text."""
        if not isinstance(self._made, bytes):
            self._made = self._made()
        return self._made

    def _key(self) -> tuple[int, str, str, bytes]:
        return self.time_ns, self.channel, self.product_id, self.payload


def match(product: Product, salt: int, trade: Matched, kind: str = "match") -> bytes:
    """Return a ``match`` or, as ``kind``, a ``last_match`` (docs/COINBASE.md §6.4).

    The product's order ids are derived from ``salt``.
    """
    size = trimmed(trade.units, product.size_decimals)
    price = trimmed(trade.tick, product.price_decimals)
    maker, taker = order_id(salt, trade.maker), order_id(salt, trade.taker)
    return (
        f'{{"type":"{kind}","trade_id":{trade.trade_id},'
        f'"maker_order_id":"{maker}","taker_order_id":"{taker}",'
        f'"side":"{trade.maker_side}","size":"{size}","price":"{price}",'
        f'"product_id":"{product.id}","sequence":{trade.sequence},'
        f'"time":"{time_text(trade.time_ns)}"}}'
    ).encode()


def ticker(product: Product, trade: Matched, day: Day, book: Book) -> bytes:
    """Return the ``ticker`` of ``trade``; ``side`` is the taker's (docs/COINBASE.md §6.3)."""
    places, size_places = product.price_decimals, product.size_decimals
    bid, ask = book.best_bid, book.best_ask
    return (
        f'{{"type":"ticker","sequence":{trade.sequence},"product_id":"{product.id}",'
        f'"price":"{trimmed(trade.tick, places)}","open_24h":"{trimmed(day.open, places)}",'
        f'"volume_24h":"{volume(product, day.volume)}","low_24h":"{trimmed(day.low, places)}",'
        f'"high_24h":"{trimmed(day.high, places)}",'
        f'"volume_30d":"{volume(product, day.volume_30d)}",'
        f'"best_bid":"{fixed(bid, places)}",'
        f'"best_bid_size":"{fixed(book.bids[bid], size_places)}",'
        f'"best_ask":"{fixed(ask, places)}",'
        f'"best_ask_size":"{fixed(book.asks[ask], size_places)}",'
        f'"side":"{trade.taker_side}","time":"{time_text(trade.time_ns)}",'
        f'"trade_id":{trade.trade_id},"last_size":"{trimmed(trade.units, size_places)}"}}'
    ).encode()


def volume(product: Product, units: int) -> str:
    """Write a volume: always with eight decimals; a base increment has at most as many."""
    return fixed(units * 10 ** (_VOLUME_DECIMALS - product.size_decimals), _VOLUME_DECIMALS)


def heartbeat(product: Product, last_trade_id: int, sequence: int, time_ns: int) -> bytes:
    """Return a ``heartbeat`` (docs/COINBASE.md §6.1)."""
    return (
        f'{{"type":"heartbeat","last_trade_id":{last_trade_id},"product_id":"{product.id}",'
        f'"sequence":{sequence},"time":"{time_text(time_ns)}"}}'
    ).encode()


def auction(product: Product, book: Book, sequence: int, time_ns: int) -> bytes:
    """Return an ``auction`` with the prices that would open trading (docs/COINBASE.md §6.14)."""
    places, size_places = product.price_decimals, product.size_decimals
    bid, ask = book.best_bid, book.best_ask
    price, size = fixed(ask, places), fixed(book.asks[ask], size_places)
    return (
        f'{{"type":"auction","product_id":"{product.id}","sequence":{sequence},'
        f'"auction_state":"collection","best_bid_price":"{fixed(bid, places)}",'
        f'"best_bid_size":"{fixed(book.bids[bid], size_places)}",'
        f'"best_ask_price":"{price}","best_ask_size":"{size}",'
        f'"open_price":"{price}","open_size":"{size}","can_open":"yes",'
        f'"timestamp":"{time_text(time_ns)}"}}'
    ).encode()


def rfq_match(product: Product, salt: int, trade: Matched) -> bytes:
    """Return the ``rfq_match`` of a trade outside the book (docs/COINBASE.md §6.5).

    ``side`` is in capitals, as on the real feed; there is no sequence.
    """
    maker, taker = order_id(salt, trade.maker), order_id(salt, trade.taker)
    return (
        f'{{"type":"rfq_match","trade_id":{trade.trade_id},'
        f'"maker_order_id":"{maker}","taker_order_id":"{taker}",'
        f'"side":"{trade.maker_side.upper()}",'
        f'"size":"{trimmed(trade.units, product.size_decimals)}",'
        f'"price":"{trimmed(trade.tick, product.price_decimals)}",'
        f'"product_id":"{product.id}","time":"{time_text(trade.time_ns)}"}}'
    ).encode()


def snapshot(
    product: Product,
    asks: Iterable[tuple[int, int]],
    bids: Iterable[tuple[int, int]],
    time_ns: int,
) -> bytes:
    """Return a ``snapshot`` from rows of ``(tick, units)``, best first (docs/COINBASE.md §6.6)."""
    return (
        f'{{"type":"snapshot","product_id":"{product.id}","asks":{_rows(product, asks)},'
        f'"bids":{_rows(product, bids)},"time":"{time_text(time_ns)}"}}'
    ).encode()


def _rows(product: Product, rows: Iterable[tuple[int, int]]) -> str:
    places, size_places = product.price_decimals, product.size_decimals
    texts = (f'["{fixed(tick, places)}","{fixed(units, size_places)}"]' for tick, units in rows)
    return f"[{','.join(texts)}]"


def l2update(product: Product, changes: Iterable[tuple[Side, int, int]], time_ns: int) -> bytes:
    """Return an ``l2update`` from ``(side, tick, new units)`` rows (docs/COINBASE.md §6.6)."""
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
    """Return the ``status`` message of all ``products`` (docs/COINBASE.md §6.2)."""
    listed = tuple(products)
    return msgspec.json.encode(
        {
            "type": "status",
            "products": [status_object(product) for product in listed],
            "currencies": currencies(listed),
        }
    )
