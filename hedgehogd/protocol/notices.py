"""hedgehogd's own messages: what ``/ws``, SSE and NDJSON subscribers receive beside the data.

Strict endpoints never see them, nor does NDJSON with ``notices=none``. Every notice is a JSON
object with a ``type`` that Coinbase does not use; docs/PROTOCOL.md is their reference.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.position import to_object

_encode = msgspec.json.encode


def session(session_id: str, instance: int) -> bytes:
    """The first message of a stream: its id, the key for controlling it by REST."""
    return _encode({"type": "session", "session": session_id, "instance": instance})


def gap(topic: Topic, missing: Gap) -> bytes:
    """Numbers that the feed did not give us, both ends included.

    They are trade ids on ``matches``, sequences on ``full`` and ``level3``.
    """
    kind = "trade_id" if topic.channel == MATCHES.topic_channel else "sequence"
    return _gap(topic, kind, missing.first, missing.last)


def restarted(topic: Topic, first: int) -> bytes:
    """The exchange counts again, from ``first``: which numbers are missing before it is unknown."""
    kind = "trade_id" if topic.channel == MATCHES.topic_channel else "sequence"
    return _gap(topic, kind, None, first - 1 if first else None)


def lost(topic: Topic, first: int | None, last: int | None) -> bytes:
    """Sequences that were to be had once and are nowhere any more, both ends included.

    Which of them were messages of this channel nobody knows. ``first`` is None for who
    asked by time; ``last`` is None when what comes next is not known yet.
    """
    return _gap(topic, "sequence", first, last)


def resumed(topics: Iterable[Topic], messages: int) -> bytes:
    """Everything after the positions has been sent; from here on the stream is live."""
    return _encode(
        {"type": "resumed", "topics": [str(t) for t in sorted(topics)], "messages": messages}
    )


def backfilled(product_id: str, trades: Sequence[Mapping[str, object]]) -> bytes:
    """Trades of a gap, fetched by REST; they have no sequence and stand outside the order."""
    return _encode({"type": "backfilled", "product_id": product_id, "trades": trades})


def stale(*, is_stale: bool, reason: str, product_ids: Iterable[str] | None = None) -> bytes:
    """The feed is down (``"stale":true``) or up again (``"stale":false``).

    With ``product_ids`` only these are concerned; without, all are.
    """
    notice: dict[str, object] = {"type": "stale", "stale": is_stale, "reason": reason}
    if product_ids is not None:
        notice["product_ids"] = sorted(product_ids)
    return _encode(notice)


def skipped(counts: Mapping[Topic, int]) -> bytes:
    """Messages that conflation replaced by newer ones while they waited."""
    return _encode(
        {
            "type": "skipped",
            "messages": sum(counts.values()),
            "topics": {str(topic): count for topic, count in sorted(counts.items())},
        }
    )


def closing(reason: str, position: Mapping[Topic, int], retry_after_s: float) -> bytes:
    """The farewell of a planned end; ``position`` covers all that was sent before it."""
    return _encode(
        {
            "type": "closing",
            "reason": reason,
            "position": to_object(position),
            "retry_after_s": retry_after_s,
        }
    )


def _gap(topic: Topic, kind: str, first: int | None, last: int | None) -> bytes:
    return _encode(
        {
            "type": "gap",
            "channel": topic.channel,
            "product_id": topic.product_id,
            f"first_{kind}": first,
            f"last_{kind}": last,
        }
    )


def slow_consumer(code: int, message: str, position: Mapping[Topic, int]) -> bytes:
    """Why a subscriber that fell behind is closed, and where it can resume."""
    return _encode(
        {
            "type": "error",
            "code": code,
            "name": "slow_consumer",
            "message": message,
            "position": to_object(position),
        }
    )
