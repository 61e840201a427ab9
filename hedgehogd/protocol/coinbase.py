"""Coinbase's dialect: the messages that hedgehogd creates instead of relaying them.

Downstream these are the exchange's answers (acknowledgements, errors, ``last_match``), upstream
our requests. The order of keys is that of the exchange (docs/COINBASE.md §4, §6).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from hedgehogd.domain.channel import BY_ALIAS, BY_TOPIC_CHANNEL, Channel, Topic
from hedgehogd.domain.limits import PRODUCTS_PER_REQUEST_MAX
from hedgehogd.domain.message import Head
from hedgehogd.domain.rows import read_list

_encode = msgspec.json.encode
_REFUSED_PRODUCT = re.compile(r"(\S+) is (?:not a valid product|delisted)")
_REFUSED_CHANNEL = re.compile(r"(\S+) is not a valid channel")
_OUR_KEY = ("authentication failed", "could not be authenticated")
_MATCH = re.compile(rb'"type"\s*:\s*"match"')
_LAST_MATCH = re.compile(rb'"type"\s*:\s*"last_match"')


def error(message: str, reason: str = "") -> bytes:
    """Return an ``error`` message; an empty ``reason`` omits the key (COINBASE §6.16)."""
    body = {"type": "error", "message": message}
    if reason:
        body["reason"] = reason
    return _encode(body)


def not_a_product(product_id: str) -> str:
    """Return the reason of an error about a product that the exchange does not list."""
    return f"{product_id} is not a valid product"


def no_products(channel: Channel) -> str:
    """Return the reason of an error about a channel requested without products."""
    return f"You need to specify at least one product ID for channel {channel.name}"


def refused_product(head: Head) -> str | None:
    """Return the product that an ``error`` refuses; None if its reason is another one."""
    found = _REFUSED_PRODUCT.fullmatch(head.reason)
    return found.group(1) if found else None


def refused_channel(head: Head) -> str | None:
    """Return the name of the channel that an ``error`` refuses as unknown, or None."""
    found = _REFUSED_CHANNEL.fullmatch(head.reason)
    return found.group(1) if found else None


def is_about_keys(head: Head) -> bool:
    """Return True if an ``error`` refuses channels that need a key, or our key or signature.

    Source: docs/COINBASE.md §5, §6.16.
    """
    return "require authentication" in head.reason or is_about_our_key(head)


def is_about_our_key(head: Head) -> bool:
    """Return True if an ``error`` rejects our key or our signature."""
    return any(words in head.message.lower() for words in _OUR_KEY)


class _Row(msgspec.Struct):
    name: str = ""
    product_ids: list[Any] | None = None


class _Acknowledgement(msgspec.Struct):
    channels: msgspec.Raw = msgspec.Raw(b"[]")  # immutable


_decode_row = msgspec.json.Decoder(_Row).decode


def acknowledged(payload: bytes) -> frozenset[Topic]:
    """Return the topics that a ``subscriptions`` message lists (COINBASE §4).

    An unreadable or unknown channel is skipped, and so is a product id that is not a text. A
    channel that may be subscribed to without products also has its topic without a product.

    Raises:
        msgspec.DecodeError: ``payload`` has another form.
    """
    topics: set[Topic] = set()
    channels = msgspec.json.decode(payload, type=_Acknowledgement).channels
    for row in read_list(channels, _decode_row).items:
        channel = BY_ALIAS.get(row.name)
        if channel is not None:
            topics.update(channel.topic(p) for p in row.product_ids or () if isinstance(p, str))
            if not channel.needs_products:  # the products may be listed or replaced by "ALL"
                topics.add(channel.topic(""))
    return frozenset(topics)


def subscriptions(state: Mapping[Channel, Iterable[str]]) -> bytes:
    """Return the acknowledgement of all subscriptions, with canonical names (COINBASE §4).

    ``state`` has the product ids of each channel.
    """
    return _encode({"type": "subscriptions", "channels": subscription_rows(state)})


def subscription_rows(state: Mapping[Channel, Iterable[str]]) -> list[dict[str, object]]:
    """Return the ``channels`` of an acknowledgement as values ready for JSON."""
    return [
        {"name": channel.name, "product_ids": list(product_ids), "account_ids": None}
        for channel, product_ids in state.items()
    ]


def last_match(payload: bytes) -> bytes:
    """Return a ``match`` as the ``last_match`` that is sent first to a new subscriber.

    Only the type changes; a ``last_match`` is returned unchanged.
    """
    return _MATCH.sub(b'"type":"last_match"', payload, count=1)


def match_of(payload: bytes) -> bytes:
    """Return a ``last_match`` as the original ``match``; only the type changes.

    A message of another type is returned unchanged.
    """
    return _LAST_MATCH.sub(b'"type":"match"', payload, count=1)


def requests(
    kind: str, topics: Iterable[Topic], sign: Callable[[], Mapping[str, str]] | None = None
) -> list[bytes]:
    """Return the smallest number of messages that subscribe to ``topics`` or unsubscribe.

    Channels that need a key are put into separate messages: if the exchange refuses them, or the
    key, the subscriptions without a key must remain (COINBASE §16.8).

    Args:
        kind: ``"subscribe"`` or ``"unsubscribe"``.
        topics: the topics; none of them may be a topic that hedgehogd derives.
        sign: returns the root keys that sign a message; it is called once for each message
            that needs a key. None without credentials: these messages are not signed.

    Returns:
        JSON texts with at most ``PRODUCTS_PER_REQUEST_MAX`` product ids each.
    """
    ordered = sorted(topics)
    public = [t for t in ordered if not BY_TOPIC_CHANNEL[t.channel].needs_key]
    with_key = [t for t in ordered if BY_TOPIC_CHANNEL[t.channel].needs_key]
    texts = [_encode({"type": kind, "channels": channels}) for channels in _packets(public)]
    for channels in _packets(with_key):
        keys = sign() if sign else {}
        texts.append(_encode({"type": kind, "channels": channels, **keys}))
    return texts


def _packets(topics: list[Topic]) -> Iterator[list[dict[str, object]]]:
    """Yield the ``channels`` of each message, in as few messages as the limit allows."""
    channels: list[dict[str, object]] = []
    room = PRODUCTS_PER_REQUEST_MAX
    by_name: dict[str, list[str]] = {}
    for topic in topics:
        name = BY_TOPIC_CHANNEL[topic.channel].aliases[0]
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
                yield channels
                channels, room = [], PRODUCTS_PER_REQUEST_MAX
    if channels:
        yield channels
