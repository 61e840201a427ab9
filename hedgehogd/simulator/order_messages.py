"""Messages of ``full`` and ``level3`` for the engine's events, in the key order since 2022.

Source: docs/COINBASE.md §6.7 to §6.11 and §6.13; ``match`` is the same message as on
``matches``. Sizes and prices have no trailing zeros, as on the real channel.
"""

import msgspec

from hedgehogd.simulator.amounts import time_text, trimmed
from hedgehogd.simulator.events import Changed, Done, Matched, Opened, Received, Single, order_id
from hedgehogd.simulator.messages import match
from hedgehogd.simulator.products import Product

_SEPARATOR = '","'

SCHEMA = msgspec.json.encode(
    {
        "type": "level3",
        "schema": {
            "change": ["type", "product_id", "sequence", "order_id", "price", "size", "time"],
            "done": ["type", "product_id", "sequence", "order_id", "time"],
            "match": ["type", "product_id", "sequence", "maker_order_id", "taker_order_id",
                "price", "size", "time"],
            "noop": ["type", "product_id", "sequence", "time"],
            "open": ["type", "product_id", "sequence", "order_id", "side", "price", "size",
                "time"],
        },
    }
)  # fmt: skip
"""The first message of ``level3``: the names of the fields of its arrays."""


def full(product: Product, salt: int, event: Single, time_ns: int) -> bytes:
    """Return the message of ``full`` for ``event``.

    Args:
        product: the product of the event.
        salt: the product's order ids are derived from it.
        event: the event.
        time_ns: its time, ns since the epoch.
    """
    if isinstance(event, Matched):
        return match(product, salt, event)
    if isinstance(event, Received):
        head = f'"order_id":"{order_id(salt, event.sequence)}",{_order_fields(product, event)}'
        kind = "received"
    elif isinstance(event, Opened):
        head = (
            f'"price":"{_price(product, event.tick)}",'
            f'"order_id":"{order_id(salt, event.number)}",'
            f'"remaining_size":"{_size(product, event.units)}",'
        )
        kind = "open"
    elif isinstance(event, Done):
        head = f'"order_id":"{order_id(salt, event.number)}","reason":"{event.reason}",'
        if event.tick is not None:
            head += (
                f'"price":"{_price(product, event.tick)}",'
                f'"remaining_size":"{_size(product, event.units)}",'
            )
        kind = "done"
    else:
        head = _change_fields(product, event)
        head += f'"order_id":"{order_id(salt, event.number)}","reason":"{event.reason}",'
        kind = "change"
    return (
        f'{{{head}"type":"{kind}","side":"{event.side}","product_id":"{product.id}",'
        f'"time":"{time_text(time_ns)}","sequence":{event.sequence}}}'
    ).encode()


def level3(product: Product, salt: int, event: Single, time_ns: int) -> bytes:
    """Return the array of ``level3`` for ``event``; arguments as of ``full``.

    Events that do not change the book are a ``noop``, also those of orders that never rested.
    """
    own: tuple[str, ...] = ()
    kind = "noop"
    if isinstance(event, Opened):
        kind = "open"
        amounts = (_price(product, event.tick), _size(product, event.units))
        own = (order_id(salt, event.number), event.side, *amounts)
    elif isinstance(event, Matched):
        kind = "match"
        ids = (order_id(salt, event.maker), order_id(salt, event.taker))
        own = (*ids, _price(product, event.tick), _size(product, event.units))
    elif isinstance(event, Done) and event.was_open:
        kind = "done"
        own = (order_id(salt, event.number),)
    elif isinstance(event, Changed):
        kind = "change"
        amounts = (_price(product, event.new_tick), _size(product, event.new_units))
        own = (order_id(salt, event.number), *amounts)
    cells = (kind, product.id, str(event.sequence), *own, time_text(time_ns))
    return f'["{_SEPARATOR.join(cells)}"]'.encode()


def _order_fields(product: Product, event: Received) -> str:
    """Return the fields of a received order: price and size, or funds, or size alone."""
    if event.tick is not None and event.units is not None:
        size, price = _size(product, event.units), _price(product, event.tick)
        return f'"order_type":"limit","size":"{size}","price":"{price}",'
    if event.funds is not None:
        funds = trimmed(event.funds, product.price_decimals + product.size_decimals)
        return f'"order_type":"market","funds":"{funds}",'
    return f'"order_type":"market","size":"{_size(product, event.units or 0)}",'


def _change_fields(product: Product, event: Changed) -> str:
    sizes = (
        f'"old_size":"{_size(product, event.old_units)}",'
        f'"new_size":"{_size(product, event.new_units)}",'
    )
    if event.reason == "STP":
        return f'"price":"{_price(product, event.new_tick)}",{sizes}'
    return (
        f'{sizes}"old_price":"{_price(product, event.old_tick)}",'
        f'"new_price":"{_price(product, event.new_tick)}",'
    )


def _price(product: Product, tick: int) -> str:
    return trimmed(tick, product.price_decimals)


def _size(product: Product, units: int) -> str:
    return trimmed(units, product.size_decimals)
