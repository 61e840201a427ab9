"""Notices that still hold: who comes later has to be told as well.

A product that is stale stays so until its connection is back. A gap in trades stands between
the last trade known and the next one, so who is greeted with the last has to hear of it.
"""

from collections.abc import Iterable

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import HEARTBEAT, Topic
from hedgehogd.domain.limits import STANDING_GAPS_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message


class Standing:
    """What was told of topics and products, and holds still."""

    def __init__(self) -> None:
        self._gaps: dict[Topic, list[bytes]] = {}
        self._stale: dict[str, bytes] = {}
        self._is_all_stale = False

    def is_stale(self, product_id: str) -> bool:
        """Say whether the feed, or what it brings of a product, is stale now."""
        return self._is_all_stale or product_id in self._stale

    def note(self, notice: TopicNotice) -> None:
        """``notice`` is being told."""
        audience, payload = notice.audience, notice.payload
        if isinstance(audience, Topic):
            if notice.kind is NoticeKind.GAP and len(self._gaps) < TOPICS_MAX:
                gaps = self._gaps.setdefault(audience, [])
                gaps.append(payload)
                del gaps[:-STANDING_GAPS_MAX]
        elif notice.kind is NoticeKind.STALE:
            self._stale.update(dict.fromkeys(audience or (), payload))
            self._is_all_stale |= audience is None
        elif notice.kind is NoticeKind.BACK:
            self._is_all_stale &= audience is not None
            back = self._stale.keys() if audience is None else audience
            self._stale = {p: told for p, told in self._stale.items() if p not in back}

    def passed(self, messages: Iterable[Message]) -> None:
        """``messages`` go out: the gaps before them stand between older ones now."""
        if self._gaps:
            for message in messages:
                self._gaps.pop(message.topic, None)
                if message.also is not None:
                    self._gaps.pop(message.also, None)

    def forget(self, topic: Topic) -> None:
        """``topic`` flows no longer; with its heartbeat a product is let go."""
        self._gaps.pop(topic, None)
        if topic.channel == HEARTBEAT.topic_channel:
            self._stale.pop(topic.product_id, None)

    def of(self, topics: Iterable[Topic]) -> list[bytes]:
        """Return the notices that a new subscriber of ``topics`` has to be told, each once."""
        told: dict[bytes, None] = {}
        for topic in sorted(topics) if self._stale or self._gaps else ():
            if topic.product_id in self._stale:
                told[self._stale[topic.product_id]] = None
            told.update(dict.fromkeys(self._gaps.get(topic, ())))
        return list(told)
