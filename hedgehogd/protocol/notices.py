"""Notices: hedgehogd's own messages to ``/ws``, SSE and NDJSON subscribers.

Subscribers of strict endpoints, and of NDJSON with ``notices=none``, never receive notices. Every
notice is a JSON object with a ``type`` that Coinbase does not use; docs/PROTOCOL.md is their
reference.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.position import to_object

_encode = msgspec.json.encode


def session(session_id: str, instance: int) -> bytes:
    """Return the first message of a stream: the id by which REST controls it."""
    return _encode({"type": "session", "session": session_id, "instance": instance})


def gap(topic: Topic, missing: Gap) -> bytes:
    """Return the notice of a gap: the first and last number that the feed did not deliver.

    The numbers are trade ids on ``matches``, sequences on every other channel.
    """
    kind = "trade_id" if topic.channel == MATCHES.topic_channel else "sequence"
    return _gap(topic, kind, missing.first, missing.last)


def restarted(topic: Topic, first: int) -> bytes:
    """Return the notice of a gap with an unknown beginning, caused by a reset of the numbers.

    ``first`` is the first number after the reset by the exchange. The gap ends before it; if it
    is 0, the end is unknown too (null).
    """
    kind = "trade_id" if topic.channel == MATCHES.topic_channel else "sequence"
    return _gap(topic, kind, None, first - 1 if first else None)


def lost(topic: Topic, first: int | None, last: int | None) -> bytes:
    """Return the notice of a gap between messages that a subscriber receives again on resuming.

    Neither an instance nor the archive can fill it any more. The sequences from ``first`` to
    ``last`` (inclusive) may belong to other channels too. ``first`` is None if the subscriber
    resumes from a time; ``last`` is None while the next message is unknown.
    """
    return _gap(topic, "sequence", first, last)


def resumed(topics: Iterable[Topic], messages: int) -> bytes:
    """Return the notice that all messages after the positions were sent and the stream is live.

    ``messages`` is their number.
    """
    return _encode(
        {"type": "resumed", "topics": [str(t) for t in sorted(topics)], "messages": messages}
    )


def backfilled(product_id: str, trades: Sequence[Mapping[str, object]]) -> bytes:
    """Return the notice with trades of a gap on ``matches``, fetched by REST.

    The trades have no sequence, and no place in the order of the stream.
    """
    return _encode({"type": "backfilled", "product_id": product_id, "trades": trades})


def stale(*, is_stale: bool, reason: str, product_ids: Iterable[str] | None = None) -> bytes:
    """Return the notice that the feed is down (``"stale":true``) or up again (``"stale":false``).

    It applies to ``product_ids`` only, or to all products if that is None.
    """
    notice: dict[str, object] = {"type": "stale", "stale": is_stale, "reason": reason}
    if product_ids is not None:
        notice["product_ids"] = sorted(product_ids)
    return _encode(notice)


def skipped(counts: Mapping[Topic, int]) -> bytes:
    """Return the notice with the number of messages per topic that conflation replaced."""
    return _encode(
        {
            "type": "skipped",
            "messages": sum(counts.values()),
            "topics": {str(topic): count for topic, count in sorted(counts.items())},
        }
    )


def closing(reason: str, position: Mapping[Topic, int], retry_after_s: float) -> bytes:
    """Return the farewell of a planned end, with the position after all messages sent so far.

    Args:
        reason: a stable name for programs.
        position: the last sequence sent completely, by topic.
        retry_after_s: seconds that the subscriber should wait before it reconnects.
    """
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
    """Return the error for a slow subscriber before its stream is closed.

    Args:
        code: the close code.
        message: the limit that the backlog exceeded, for people.
        position: the last sequence sent completely, by topic.
    """
    return _encode(
        {
            "type": "error",
            "code": code,
            "name": "slow_consumer",
            "message": message,
            "position": to_object(position),
        }
    )
