"""Notices still in force, sent to subscribers that join later.

A product is stale until its connection delivers again. A gap in trades lies between the last
trade and the next one, so a subscriber that joins with the last trade needs the notice of the gap.
"""

from collections.abc import Iterable

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import HEARTBEAT, Topic
from hedgehogd.domain.limits import STANDING_GAPS_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message


class ActiveNotices:
    """The notices about topics and products that are in force."""

    def __init__(self) -> None:
        self._gaps: dict[Topic, list[bytes]] = {}
        self._stale: dict[str, bytes] = {}
        self._is_all_stale = False

    def is_stale(self, product_id: str) -> bool:
        """Say whether the feed, or this product of it, is stale now."""
        return self._is_all_stale or product_id in self._stale

    def note(self, notice: TopicNotice) -> None:
        """Put a gap or stale ``notice`` in force, or end stale ones with ``BACK``.

        Notices of other kinds have no effect.
        """
        audience, payload = notice.audience, notice.payload
        if isinstance(audience, Topic):
            has_room = audience in self._gaps or len(self._gaps) < TOPICS_MAX
            if notice.kind is NoticeKind.GAP and has_room:
                gaps = self._gaps.setdefault(audience, [])
                gaps.append(payload)
                del gaps[:-STANDING_GAPS_MAX]
        elif notice.kind is NoticeKind.STALE:
            self._stale.update(dict.fromkeys(audience or (), payload))
            self._is_all_stale |= audience is None
        elif notice.kind is NoticeKind.BACK:
            self._is_all_stale &= audience is not None
            back = self._stale.keys() if audience is None else audience
            self._stale = {p: stale for p, stale in self._stale.items() if p not in back}

    def delivered(self, messages: Iterable[Message]) -> None:
        """End the gap notices of the topics of ``messages``: the gaps are before them."""
        if self._gaps:
            for message in messages:
                self._gaps.pop(message.topic, None)
                if message.also is not None:
                    self._gaps.pop(message.also, None)

    def forget(self, topic: Topic) -> None:
        """End the gap notices of ``topic``, which the feed no longer holds.

        With a heartbeat, the stale notice of its product ends too.
        """
        self._gaps.pop(topic, None)
        if topic.channel == HEARTBEAT.topic_channel:
            self._stale.pop(topic.product_id, None)

    def of(self, topics: Iterable[Topic]) -> list[bytes]:
        """Return the notices in force for a new subscriber of ``topics``, each once.

        A notice that the whole feed is stale is not among them: each stream that opens while the
        feed is stale receives one.
        """
        found: dict[bytes, None] = {}
        for topic in sorted(topics) if self._stale or self._gaps else ():
            if topic.product_id in self._stale:
                found[self._stale[topic.product_id]] = None
            found.update(dict.fromkeys(self._gaps.get(topic, ())))
        return list(found)
