"""What the feed did not give us: the holes in what is on the tape, each in its place.

A hole stands between two messages of one topic. It is known by a gap in numbers, or because
the feed stopped: a ticker leaves out so many numbers that its own tell nothing.
"""

from collections import deque
from collections.abc import Iterable, Mapping

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import TICKER, Topic
from hedgehogd.domain.limits import STANDING_GAPS_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.engine.gap_marker import InBand, in_band
from hedgehogd.engine.memory import weight
from hedgehogd.protocol import notices


class Holes:
    """The holes of one tape.

    Attributes:
        bytes: the memory that they take.
        open: what is told of those whose other end has not come yet.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.open: dict[Topic, list[bytes]] = {}
        self._closed: deque[tuple[int, InBand]] = deque()  # with the offset of what follows

    def note(self, notice: TopicNotice, last: Mapping[Topic, int]) -> None:
        """``notice`` is told behind the ``last`` sequence of each topic."""
        audience = notice.audience
        if notice.kind is NoticeKind.GAP and isinstance(audience, Topic):
            if audience in self.open or len(self.open) < TOPICS_MAX:
                told = self.open.setdefault(audience, [])
                told.append(notice.payload)
                del told[:-STANDING_GAPS_MAX]
            self._doubt(frozenset({audience.product_id}), last)  # it may be lost with the rest
        elif notice.kind is NoticeKind.WHOLE and isinstance(audience, Topic):
            if not self.open.get(audience):
                self.open.pop(audience, None)
        elif notice.kind is NoticeKind.STALE and not isinstance(audience, Topic):
            self._doubt(audience, last)

    def _doubt(self, product_ids: frozenset[str] | None, last: Iterable[Topic]) -> None:
        for topic in last:
            is_of_it = product_ids is None or topic.product_id in product_ids
            if is_of_it and topic.channel == TICKER.topic_channel:
                self.open.setdefault(topic, [])

    def end(self, topic: Topic, message: Message, offset: int, last: int | None) -> bool:
        """``message`` at ``offset`` follows on ``last``; say whether an open hole was one."""
        told, number = self.open.pop(topic), message.sequence or 0
        if not told and last is not None and last + 1 < number:
            told.append(notices.lost(topic, last + 1, number - 1))
        for payload in told:
            hole = in_band(topic, payload, number - 1, message.published_us)
            self._closed.append((offset, hole))
            self.bytes += weight(hole)
        return bool(told)

    def doubts(self, topics: Iterable[Topic], last: Mapping[Topic, int]) -> list[bytes]:
        """Return what is to be told of open holes of which nothing was told to anybody."""
        return [
            notices.lost(topic, last[topic] + 1, None)
            for topic in sorted(topics)
            if topic in last and self.open.get(topic) == []
        ]

    def leave(self, begin: int) -> None:
        """What is before offset ``begin`` is not on the tape any more."""
        while self._closed and self._closed[0][0] < begin:
            self.bytes -= weight(self._closed.popleft()[1])

    def among(
        self, after: int, until: int, topics: frozenset[Topic] | None
    ) -> list[tuple[int, InBand]]:
        """Return those of ``topics``, or of all, before messages after an offset, up to ``until``.

        Each with the offset of the message that follows.
        """
        return [
            (offset, hole)
            for offset, hole in self._closed
            if after < offset <= until and (topics is None or hole.topic in topics)
        ]

    def forget(self, topic: Topic) -> None:
        """``topic`` is no longer held: nothing of it is to come."""
        self.open.pop(topic, None)
