"""The tape: a ring of recent messages in memory.

``offset`` is a message's place on it: it rises by one per message, never leaves the
process, and says in one number what a subscriber has been given. ``end`` is the offset of
the newest message, 0 before the first.

The tape also knows each topic's last sequence at any offset still on it, so nobody has to
keep a position per subscriber: it is looked up on the rare day when it is needed.

Behind what the feed did not give us (``holes``) a topic's record begins anew.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from hedgehogd.arbitration.batch import TopicNotice
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, HEARTBEAT, Topic
from hedgehogd.domain.limits import TAPE_BYTES_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.engine.gap_index import Holes
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.engine.memory import weight

_RESUMING = frozenset(name for name, channel in BY_TOPIC_CHANNEL.items() if channel.resumes)


def positions(message: Message) -> tuple[Topic, ...]:
    """Return the topics whose position ``message`` moves."""
    if message.sequence is None or message.topic.channel not in _RESUMING:
        return ()
    return (message.topic,) if message.also is None else (message.topic, message.also)


_KEEPING_FACTOR = 4  # times the memory allowed, for what is young


class Known(NamedTuple):
    """Where a topic's unbroken record in memory begins.

    Attributes:
        sequence: of the oldest message that is on the tape, or that has left it last.
        received_us: when that was received, µs since the epoch.
        has_left: it is the one that has left.
    """

    sequence: int
    received_us: int
    has_left: bool = False

    @property
    def before(self) -> int:
        """The sequence behind which nothing is missing: all that follows on it is on the tape."""
        return self.sequence - (not self.has_left)


class Tape:
    """Recent messages, bounded in the memory that they take.

    The newest batch is always kept whole, whatever it weighs: it is still being written out.

    Args:
        bytes_max: how much memory they may take.
        keep_us: what is younger stays, up to four times as much: whoever takes over the
            writing of history finds here what the one before has not written.
    """

    def __init__(self, bytes_max: int = TAPE_BYTES_MAX, keep_us: int = 0) -> None:
        self.end = 0
        self.bytes = 0
        self._bytes_max = bytes_max
        self._keep_us = keep_us
        self._messages: deque[Message] = deque()
        self._last: dict[Topic, int] = {}  # each topic's last sequence
        self._flows: dict[str, int] = {}  # when each product was heard first, µs
        self._before: dict[Topic, int] = {}  # what is known to precede a topic's first message
        self._forgotten: dict[Topic, int] = {}  # the end of the tape when a topic was forgotten
        # offset and sequence of each topic's first message
        self._began: dict[Topic, tuple[int, Known]] = {}
        # offset and sequence of each topic's last message that has left the tape
        self._left: dict[Topic, tuple[int, Known]] = {}
        self._offsets: dict[Topic, deque[int]] = {}  # of each topic's messages on the tape
        # offset and sequence of the first message behind each topic's newest hole
        self._broken: dict[Topic, tuple[int, Known]] = {}
        self._holes = Holes()

    @property
    def begin(self) -> int:
        """The offset of the oldest message on the tape; ``end + 1`` when it is empty."""
        return self.end - len(self._messages) + 1

    def append(self, messages: Sequence[Message]) -> None:
        """Put a batch on the tape; the oldest messages leave when it is full."""
        kept, holes = self._messages, self._holes
        for message in messages:
            kept.append(message)
            self.bytes += weight(message)
            self.end += 1
            product_id = message.topic.product_id
            if product_id not in self._flows and len(self._flows) < TOPICS_MAX:
                self._flows[product_id] = message.received_us
            for topic in positions(message):
                is_behind = topic in holes.open
                if is_behind and holes.end(topic, message, self.end, self._last.get(topic)):
                    known = Known(message.sequence or 0, message.received_us)
                    self._broken[topic] = (self.end, known)
                offsets = self._offsets.get(topic)
                if offsets is not None:
                    self._last[topic] = message.sequence or 0
                    offsets.append(self.end)
                elif len(self._last) < TOPICS_MAX:
                    self._last[topic] = message.sequence or 0
                    known = Known(message.sequence or 0, message.received_us)
                    self._began[topic] = (self.end, known)
                    self._offsets[topic] = deque([self.end])
        while self._is_full() and len(kept) > len(messages):
            oldest = kept.popleft()
            self.bytes -= weight(oldest)
            holes.leave(self.begin)
            offset = self.end - len(kept)
            for topic in positions(oldest):
                # Not one from before the topic was forgotten: what came meanwhile is nowhere.
                offsets = self._offsets.get(topic)
                if offsets and offsets[0] == offset:
                    offsets.popleft()
                    known = Known(oldest.sequence or 0, oldest.received_us, has_left=True)
                    self._left[topic] = (offset, known)

    def note(self, notice: TopicNotice) -> None:
        """``notice`` is told between what is on the tape and what comes next."""
        self._holes.note(notice, self._last)

    def holes(
        self, after: int, topics: frozenset[Topic], until: int | None = None
    ) -> list[tuple[int, InBand]]:
        """Return what is missing of ``topics`` before messages behind offset ``after``.

        Each with the offset of the message that follows, up to ``until`` or the end.
        """
        return self._holes.among(after, self.end if until is None else until, topics)

    def doubts(self, topics: Iterable[Topic]) -> list[bytes]:
        """Return what is to be told of ``topics`` that may lack something behind their last."""
        return self._holes.doubts(topics, self._last)

    def is_open(self, topics: Iterable[Topic]) -> bool:
        """Say whether one of ``topics`` lacks something, or may, behind what came last."""
        return not self._holes.open.keys().isdisjoint(topics)

    def known_from(self, topic: Topic) -> Known | None:
        """Return from where on nothing of ``topic`` is missing here; None before its first.

        That message itself may have left the tape; all after it are there, but for what
        ``is_open``.
        """
        broken, left = self._broken.get(topic), self._left.get(topic)
        if broken is None or (left is not None and left[0] >= broken[0]):
            return self.held_from(topic)
        return broken[1]

    def held_from(self, topic: Topic) -> Known | None:
        """Return the same where holes do not count: all that came after it is there."""
        found = self._left.get(topic) or self._began.get(topic)
        return None if found is None else found[1]

    def precede(self, topic: Topic, sequence: int) -> None:
        """Take note of the last sequence of ``topic`` before this tape's first of it.

        Nothing happens when that is here already: then positions are known without it.
        """
        if topic not in self._last and len(self._before) < TOPICS_MAX:
            self._before[topic] = max(sequence, self._before.get(topic, 0))

    def preceding(self, topics: Iterable[Topic]) -> dict[Topic, int]:
        """Return what was noted of ``topics`` by ``precede``."""
        return {topic: self._before[topic] for topic in topics if topic in self._before}

    def flows_since(self, product_id: str) -> int | None:
        """Return since when a product is heard here, µs since the epoch; None before.

        With its heartbeat every product is, however quiet its market.
        """
        return self._flows.get(product_id)

    def last_sequence(self, topic: Topic) -> int | None:
        """Return the newest sequence of ``topic``; None before the first."""
        return self._last.get(topic)

    def read(self, after: int, topics: frozenset[Topic]) -> list[tuple[int, Message]]:
        """Return ``(offset, message)`` of ``topics`` with an offset above ``after``.

        What has left the tape cannot be returned; compare ``after`` with ``begin``.
        Cost: the distance from ``after`` to ``end``.
        """
        return [
            (offset, message)
            for offset, message in reversed(list(self._backwards(after)))
            if message.topic in topics or message.also in topics
        ]

    def products(self) -> list[str]:
        """Return the products that are heard."""
        return list(self._flows)

    def newest(self, topic: Topic, messages_max: int) -> list[Message]:
        """Return the messages of ``topic`` among the newest ``messages_max``, newest first."""
        newest_first = islice(reversed(self._messages), messages_max)
        return [each for each in newest_first if topic in (each.topic, each.also)]

    def part(self, after: int, count: int, topics: frozenset[Topic]) -> list[tuple[int, Message]]:
        """Return ``(offset, message)`` of ``topics`` among the ``count`` that follow on ``after``.

        What has left the tape cannot be returned.
        """
        first = max(0, after + 1 - self.begin)
        end = max(0, after + count + 1 - self.begin)
        return [
            (offset, message)
            for offset, message in enumerate(islice(self._messages, first, end), self.begin + first)
            if message.topic in topics or message.also in topics
        ]

    def position(self, topics: Iterable[Topic], at: int) -> dict[Topic, int]:
        """Return the last sequence of each of ``topics`` at or before offset ``at``.

        A topic that has had no numbered message by then is left out, and so is one whose
        sequence at ``at`` has left the tape and is not known any more: a position never
        claims more than was delivered. Cost: a search for each topic that has moved since.
        """
        topics = frozenset(topics)
        wanted = {topic for topic in topics if topic in self._last}
        before = {
            topic: sequence
            for topic, sequence in self.preceding(topics).items()
            if self._forgotten.get(topic, 0) <= at  # else it may be newer than what was delivered
        }
        position = before | {topic: self._last[topic] for topic in wanted}
        if at >= self.end:
            return position
        for topic in wanted:
            offsets = self._offsets[topic]
            if offsets and offsets[-1] <= at:
                continue
            left_at, left = self._left.get(topic, (0, Known(0, 0)))
            if earlier := bisect_right(offsets, at):
                position[topic] = self._messages[offsets[earlier - 1] - self.begin].sequence or 0
            elif 0 < left_at <= at:
                position[topic] = left.sequence
            elif topic in before and at < self._began[topic][0]:
                position[topic] = before[topic]
            else:
                del position[topic]
        return position

    def forget(self, topic: Topic) -> None:
        """Drop the sequences kept for ``topic``: it is no longer held."""
        if topic.channel == HEARTBEAT.topic_channel:
            self._flows.pop(topic.product_id, None)
        if self._last.pop(topic, None) is not None:
            self._forgotten[topic] = self.end
            if len(self._forgotten) > TOPICS_MAX:
                del self._forgotten[next(iter(self._forgotten))]
        self._before.pop(topic, None)
        self._began.pop(topic, None)
        self._left.pop(topic, None)
        self._offsets.pop(topic, None)
        self._broken.pop(topic, None)
        self._holes.forget(topic)

    def _is_full(self) -> bool:
        if self.bytes + self._holes.bytes <= self._bytes_max:
            return False
        age_us = max(0, self._messages[-1].received_us - self._messages[0].received_us)
        return age_us >= self._keep_us or self.bytes > _KEEPING_FACTOR * self._bytes_max

    def _backwards(self, after: int) -> Iterator[tuple[int, Message]]:
        """Yield ``(offset, message)`` from the newest down to the first above ``after``."""
        count = max(0, min(self.end - after, len(self._messages)))
        newest_first = islice(reversed(self._messages), count)
        return zip(range(self.end, self.end - count, -1), newest_first, strict=True)
