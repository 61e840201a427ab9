"""Another hedgehogd's notices, when its ``/ws`` is our feed: they pass down the chain.

A gap that it tells is not found again here; its stale feed is ours too; trades that it got
later are passed on. Its greetings and farewells concern this connection alone.
"""

from typing import TYPE_CHECKING, Any

import msgspec

from hedgehogd.arbitration.batch import NoticeKind, Received, TopicNotice
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import Head, intern_topic

if TYPE_CHECKING:
    from hedgehogd.arbitration.session import UpstreamSession

TYPES = frozenset({"session", "gap", "stale", "resumed", "skipped", "closing", "backfilled"})

_LAST_NUMBER = {"matches": "last_trade_id", "full": "last_sequence", "level3": "last_sequence"}


def take(
    session: "UpstreamSession", source: Source, head: Head, payload: bytes, received: Received
) -> None:
    """Pass on what concerns subscribers."""
    try:
        value = msgspec.json.decode(payload, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if head.type == "gap":
        _take_gap(session, head.product_id, value, payload, received)
    elif head.type == "stale":
        _take_stale(source, value, payload, received)
    elif head.type == "backfilled" and head.product_id and session.is_news(payload):
        received.tell(TopicNotice(intern_topic("matches", head.product_id), payload))
    elif head.type == "closing":
        received.oddities.append("the relay that feeds us is closing")


def _take_stale(source: Source, value: dict[str, Any], payload: bytes, received: Received) -> None:
    product_ids = value.get("product_ids")
    if isinstance(product_ids, list):
        products = frozenset(each for each in product_ids if isinstance(each, str))
        kind = NoticeKind.STALE if value.get("stale") is True else NoticeKind.BACK
        received.tell(TopicNotice(products, payload, kind))
        return
    source.told_stale = value.get("stale") is True  # the feed tells it, once for all lines


def _take_gap(
    session: "UpstreamSession",
    product_id: str,
    value: dict[str, Any],
    payload: bytes,
    received: Received,
) -> None:
    channel = value.get("channel")
    if not isinstance(channel, str) or channel not in BY_TOPIC_CHANNEL:
        return
    last = value.get(_LAST_NUMBER.get(channel, ""))
    state = session.products.get(product_id)
    numbers = None if state is None else state.numbers.get(channel)
    hole = None
    if numbers is not None and type(last) is int and 0 <= last <= SEQUENCE_MAX:
        if numbers.highest is not None and last <= numbers.highest:
            return  # another line has told it, or brought what is missing there
        hole = numbers.hole_before(last + 1)
    if hole is not None and numbers is not None:
        numbers.skip_to(hole.last)
        session.arbiter.missing[channel] += hole.last - hole.first + 1
    elif not session.is_news(payload):
        return
    session.arbiter.gaps += 1
    received.tell(TopicNotice(intern_topic(channel, product_id), payload, NoticeKind.GAP))
