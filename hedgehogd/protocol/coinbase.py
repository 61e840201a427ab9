"""Coinbase's dialect: the messages that are made rather than relayed.

Downstream, what the exchange would answer (acknowledgements, errors, ``last_match``);
upstream, what we ask of it. Key order follows the wire (FEED §4, §6).
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Channel, Topic
from hedgehogd.domain.limits import PRODUCTS_PER_REQUEST_MAX
from hedgehogd.domain.message import Head

_encode = msgspec.json.encode
_REFUSED_PRODUCT = re.compile(r"(\S+) is (?:not a valid product|delisted)")
_MATCH = re.compile(rb'"type"\s*:\s*"match"')


def error(message: str, reason: str = "") -> bytes:
    """Return an ``error`` message; without a ``reason`` the key is left out (FEED §6.16)."""
    body = {"type": "error", "message": message}
    if reason:
        body["reason"] = reason
    return _encode(body)


def not_a_product(product_id: str) -> str:
    """Return the reason of an error about a product that the exchange does not list."""
    return f"{product_id} is not a valid product"


def no_products(channel: Channel) -> str:
    """Return the reason of an error about a channel asked for without products."""
    return f"You need to specify at least one product ID for channel {channel.name}"


def refused_product(head: Head) -> str | None:
    """Return the product that an upstream ``error`` is about, or None when about none."""
    found = _REFUSED_PRODUCT.fullmatch(head.reason)
    return found.group(1) if found else None


def subscriptions(state: Mapping[Channel, Iterable[str]]) -> bytes:
    """Return the acknowledgement: the connection's whole state, canonical names (FEED §4)."""
    return _encode({"type": "subscriptions", "channels": subscription_rows(state)})


def subscription_rows(state: Mapping[Channel, Iterable[str]]) -> list[dict[str, object]]:
    """Return the ``channels`` of an acknowledgement, as plain values."""
    return [
        {"name": channel.name, "product_ids": list(product_ids), "account_ids": None}
        for channel, product_ids in state.items()
    ]


def last_match(payload: bytes) -> bytes:
    """Turn a ``match`` into the ``last_match`` that a new subscriber is greeted with.

    Only the type changes; a payload that is a ``last_match`` already is returned as it is.
    """
    return _MATCH.sub(b'"type":"last_match"', payload, count=1)


def requests(kind: str, topics: Iterable[Topic]) -> list[bytes]:
    """Return the fewest messages that subscribe to, or unsubscribe from, ``topics``.

    Args:
        kind: ``"subscribe"`` or ``"unsubscribe"``.
        topics: what to ask for; topics that are derived here must not be among them.

    Returns:
        JSON texts with at most ``PRODUCTS_PER_REQUEST_MAX`` product ids each.
    """
    found: list[bytes] = []
    channels: list[dict[str, object]] = []
    room = PRODUCTS_PER_REQUEST_MAX
    by_name: dict[str, list[str]] = {}
    for topic in sorted(topics):
        name = BY_TOPIC_CHANNEL[topic.channel].upstream
        if name is None:
            raise AssertionError(f"{topic} is derived, not asked for")
        by_name.setdefault(name, []).append(topic.product_id)
    for name, product_ids in by_name.items():
        if product_ids == [""]:
            channels.append({"name": name})
            continue
        while product_ids:
            now, product_ids = product_ids[:room], product_ids[room:]
            channels.append({"name": name, "product_ids": now})
            room -= len(now)
            if not room:
                found.append(_encode({"type": kind, "channels": channels}))
                channels, room = [], PRODUCTS_PER_REQUEST_MAX
    if channels:
        found.append(_encode({"type": kind, "channels": channels}))
    return found
