"""The text of a backfilled trade: a trade of the exchange's REST answer as a ``match`` message."""

from collections.abc import Mapping
from typing import Any

import msgspec


def encode_trade(product_id: str, trade: Mapping[str, Any]) -> bytes:
    """Return a trade of ``product_id`` as JSON in the form of a ``match`` message.

    REST has neither sequence nor order ids, so the text has none. All fields of ``trade`` are
    kept; ``type`` and ``product_id`` are added.
    """
    return msgspec.json.encode(
        {"type": "match"} | dict(trade) | {"type": "match", "product_id": product_id}
    )
