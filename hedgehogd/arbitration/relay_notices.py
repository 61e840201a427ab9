"""Parse the notices of another hedgehogd, when its ``/ws`` is the feed of this one.

``parse`` reads a notice and changes nothing; ``UpstreamSession`` applies the value. ``session``,
``resumed`` and ``skipped`` have no value: they concern the connection between the two instances,
not the subscribers of this one.
"""

from typing import Any, NamedTuple

import msgspec

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import Head

TYPES = frozenset({"session", "gap", "stale", "resumed", "skipped", "closing", "backfilled"})
"""Every ``type`` of message that is a notice."""

_LAST_NUMBER = {"matches": "last_trade_id", "full": "last_sequence", "level3": "last_sequence"}


class RelayedGap(NamedTuple):
    """The relay reports that messages are missing.

    Attributes:
        channel: the topic channel.
        product_id: the product.
        last: the last missing trade id of ``matches``, or sequence of ``full`` or ``level3``; None
            for other channels, and when the notice states no valid number.
    """

    channel: str
    product_id: str
    last: int | None


class RelayedStale(NamedTuple):
    """The relay reports that its feed, or some products of it, became stale or live again.

    Attributes:
        product_ids: the products; None for the relay's whole feed: the notice has no list of them.
        is_stale: True for stale, False for live again.
    """

    product_ids: frozenset[str] | None
    is_stale: bool


class RelayedBackfill(NamedTuple):
    """The relay has fetched missing trades of one product.

    Attributes:
        product_id: the product.
    """

    product_id: str


class RelayedClosing(NamedTuple):
    """The relay is about to close the connection on which it sent the notice."""


Relayed = RelayedGap | RelayedStale | RelayedBackfill | RelayedClosing


def parse(head: Head, payload: bytes) -> Relayed | None:
    """Parse a notice; return None for ``session``, ``resumed``, ``skipped`` and an unreadable one.

    A ``gap`` without a known channel is unreadable, and so is a ``backfilled`` without a product.

    Args:
        head: its head; the type is one of ``TYPES``.
        payload: the notice.
    """
    try:
        fields = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if head.type == "gap":
        return _gap(head.product_id, fields)
    if head.type == "stale":
        return _stale(fields)
    if head.type == "backfilled" and head.product_id:
        return RelayedBackfill(head.product_id)
    return RelayedClosing() if head.type == "closing" else None


def _gap(product_id: str, fields: dict[str, Any]) -> RelayedGap | None:
    channel = fields.get("channel")
    if not isinstance(channel, str) or channel not in BY_TOPIC_CHANNEL:
        return None
    last = fields.get(_LAST_NUMBER.get(channel, ""))
    is_number = type(last) is int and 0 <= last <= SEQUENCE_MAX  # not bool
    return RelayedGap(channel, product_id, last if is_number else None)


def _stale(fields: dict[str, Any]) -> RelayedStale:
    product_ids, is_stale = fields.get("product_ids"), fields.get("stale") is True
    if not isinstance(product_ids, list):
        return RelayedStale(None, is_stale)
    return RelayedStale(frozenset(p for p in product_ids if isinstance(p, str)), is_stale)
