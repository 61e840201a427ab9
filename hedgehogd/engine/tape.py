"""The tape: a ring of recent messages in memory.

``offset`` is the place of a message on the tape. It rises by one per message and never leaves the
process, so one number states how far a subscriber has been served. ``end`` is the offset of
the newest message, 0 before the first.

The tape also knows each topic's last sequence at any offset still on it. So no position is kept per
subscriber: it is looked up when it is needed, which is rare.

A gap of the feed restarts the unbroken record of its topic (see ``gap_index``).
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, HEARTBEAT, Topic
from hedgehogd.domain.limits import LOSSES_MAX, TAPE_BYTES_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.engine.gap_index import Holes
from hedgehogd.engine.gap_marker import InBand
from hedgehogd.engine.memory import weight

_RESUMING = frozenset(name for name, channel in BY_TOPIC_CHANNEL.items() if channel.resumes)


def positions(message: Message) -> tuple[Topic, ...]:
    """Return the topics in which ``message`` moves the position.

    The result is empty for a message without a sequence, or of a channel that cannot be resumed.
    """
    if message.sequence is None or message.topic.channel not in _RESUMING:
        return ()
    return (message.topic,) if message.also is None else (message.topic, message.also)


class Loss(NamedTuple):
    """A place on the tape where messages of topics may be missing.

    Attributes:
        number: rises by one from loss to loss.
        offset: that of the first message after it.
        audience: a topic, a set of product ids, or None for all topics.
        has_ended: True if the feed no longer held the topic.
    """

    number: int
    offset: int
    audience: Topic | frozenset[str] | None
    has_ended: bool = False

    def concerns(self, topic: Topic) -> bool:
        """Say whether messages of a topic may be missing."""
        audience = self.audience
        if isinstance(audience, Topic):
            return topic == audience
        return audience is None or topic.product_id in audience


_KEEPING_FACTOR = 4  # young messages may take this many times ``bytes_max``


class Known(NamedTuple):
    """The begin of a topic's record in memory: of the whole record, or since its newest gap.

    Attributes:
        sequence: the sequence of the message that the record begins with: the topic's first one,
            the first one after the gap, or the one that left the tape last.
        published_us: when that message was published, µs since the epoch.
        has_left: True if that message has left the tape.
    """

    sequence: int
    published_us: int
    has_left: bool = False

    @property
    def before(self) -> int:
        """The sequence after which every message of the record is on the tape."""
        return self.sequence - (not self.has_left)


class Tape:
    """Recent messages, bounded in the memory that they take.

    The newest batch is always kept whole, even above the bound: it is still being written.

    Args:
        bytes_max: how much memory the messages may take.
        keep_us: younger messages stay, up to four times ``bytes_max``: an instance that becomes the
            writer of history finds here the messages that the former writer has not written.

    Attributes:
        end: the offset of the newest message; 0 before the first.
        bytes: the memory of the messages on the tape; that of their gap notices is not included.
    """

    def __init__(self, bytes_max: int = TAPE_BYTES_MAX, keep_us: int = 0) -> None:
        self.end = 0
        self.bytes = 0
        self._bytes_max = bytes_max
        self._keep_us = keep_us
        self._messages: deque[Message] = deque()
        self._last: dict[Topic, int] = {}  # each topic's last sequence
        self._flows: dict[str, int] = {}  # when each product's first message was published, µs
        self._before: dict[Topic, int] = {}  # last known sequence before a topic's first message
        self._forgotten: dict[Topic, int] = {}  # the end of the tape when a topic was forgotten
        # offset and sequence of each topic's first message
        self._began: dict[Topic, tuple[int, Known]] = {}
        # offset and sequence of each topic's last message that has left the tape
        self._left: dict[Topic, tuple[int, Known]] = {}
        self._offsets: dict[Topic, deque[int]] = {}  # of each topic's messages on the tape
        # offset and sequence of the first message after each topic's newest gap
        self._broken: dict[Topic, tuple[int, Known]] = {}
        self._holes = Holes()
        self._losses: deque[Loss] = deque(maxlen=LOSSES_MAX)
        self._losses_noted = 0

    @property
    def begin(self) -> int:
        """The offset of the oldest message on the tape; ``end + 1`` when it is empty."""
        return self.end - len(self._messages) + 1

    def append(self, messages: Sequence[Message]) -> None:
        """Append a batch to the tape; the oldest messages of former batches leave if it is full.

        The caller has set ``published_us`` of each message.
        """
        kept, holes = self._messages, self._holes
        for message in messages:
            kept.append(message)
            self.bytes += weight(message)
            self.end += 1
            product_id = message.topic.product_id
            if product_id not in self._flows and len(self._flows) < TOPICS_MAX:
                self._flows[product_id] = message.published_us
            for topic in positions(message):
                is_after_gap = topic in holes.open
                if is_after_gap and holes.end(topic, message, self.end, self._last.get(topic)):
                    known = Known(message.sequence or 0, message.published_us)
                    self._broken[topic] = (self.end, known)
                offsets = self._offsets.get(topic)
                if offsets is not None:
                    self._last[topic] = message.sequence or 0
                    offsets.append(self.end)
                elif len(self._last) < TOPICS_MAX:
                    self._last[topic] = message.sequence or 0
                    known = Known(message.sequence or 0, message.published_us)
                    self._began[topic] = (self.end, known)
                    self._offsets[topic] = deque([self.end])
        while self._is_full() and len(kept) > len(messages):
            oldest = kept.popleft()
            self.bytes -= weight(oldest)
            holes.leave(self.begin)
            offset = self.end - len(kept)
            for topic in positions(oldest):
                # Not a message from before the topic was forgotten: later ones may be missing.
                offsets = self._offsets.get(topic)
                if offsets and offsets[0] == offset:
                    offsets.popleft()
                    known = Known(oldest.sequence or 0, oldest.published_us, has_left=True)
                    self._left[topic] = (offset, known)

    def note(self, notice: TopicNotice) -> None:
        """Record the meaning of ``notice`` for gaps between the messages so far and the next ones.

        A notice that says nothing about gaps is not recorded.
        """
        self._holes.note(notice, self._last)
        if notice.kind in {NoticeKind.GAP, NoticeKind.STALE}:
            self._note_loss(notice.audience)

    def losses(self, after: int) -> list[Loss]:
        """Return the losses with a number above ``after``, oldest first.

        Those before the oldest message, and all but the newest ``LOSSES_MAX``, are forgotten.
        """
        while self._losses and self._losses[0].offset < self.begin:
            self._losses.popleft()
        count = min(len(self._losses), self._losses_noted - after)
        return list(islice(self._losses, len(self._losses) - count, None))

    def _note_loss(
        self, audience: Topic | frozenset[str] | None, *, has_ended: bool = False
    ) -> None:
        self._losses_noted += 1
        self._losses.append(Loss(self._losses_noted, self.end + 1, audience, has_ended))

    def holes(
        self, after: int, topics: frozenset[Topic] | None = None, until: int | None = None
    ) -> list[tuple[int, InBand]]:
        """Return the gap notices of ``topics`` after offset ``after``, up to ``until`` or the end.

        Without ``topics``, of all. Each has the offset of the message that follows the gap.
        """
        return self._holes.among(after, self.end if until is None else until, topics)

    def doubts(self, topics: Iterable[Topic]) -> list[bytes]:
        """Return a gap notice for each of ``topics`` with a possible gap after its last message.

        A certain gap is left out: its own notice is still in force (``fanout.active_notices``).
        """
        return self._holes.doubts(topics, self._last)

    def is_open(self, topics: Iterable[Topic]) -> bool:
        """Say whether one of ``topics`` has a gap, certain or possible, after its last message."""
        return not self._holes.open.keys().isdisjoint(topics)

    def known_from(self, topic: Topic) -> Known | None:
        """Return the begin of the record of ``topic`` without gaps; None before its first message.

        It begins with the first message after the newest gap. Without a gap, or when that message
        has left the tape, it is the record of ``held_from``. All messages after its begin are on
        the tape, except for a gap that ``is_open``.
        """
        broken, left = self._broken.get(topic), self._left.get(topic)
        if broken is None or (left is not None and left[0] >= broken[0]):
            return self.held_from(topic)
        return broken[1]

    def held_from(self, topic: Topic) -> Known | None:
        """Return the begin of the record of ``topic``, gaps included; None before any message.

        It begins with the message that left the tape last, or the topic's first if none has left.
        """
        found = self._left.get(topic) or self._began.get(topic)
        return None if found is None else found[1]

    def precede(self, topic: Topic, sequence: int) -> None:
        """Record the last known sequence of ``topic`` before its first message on this tape.

        The highest of several calls counts; once ``TOPICS_MAX`` topics are recorded, no call does.
        Nothing changes after the topic's first message: then
        the tape knows the positions itself.
        """
        if topic not in self._last and len(self._before) < TOPICS_MAX:
            self._before[topic] = max(sequence, self._before.get(topic, 0))

    def preceding(self, topics: Iterable[Topic]) -> dict[Topic, int]:
        """Return the sequences recorded by ``precede``, for those of ``topics`` that have one."""
        return {topic: self._before[topic] for topic in topics if topic in self._before}

    def flows_since(self, product_id: str) -> int | None:
        """Return when the product's first message was published, µs since the epoch, or None.

        The heartbeat is the first message of a quiet market.
        """
        return self._flows.get(product_id)

    def last_sequence(self, topic: Topic) -> int | None:
        """Return the newest sequence of ``topic``, on the tape or not; None before the first."""
        return self._last.get(topic)

    def read_all(self, after: int) -> list[Message]:
        """Return the messages of all topics with an offset above ``after``, oldest first.

        The last one has the offset ``end``. Messages that left the tape are not returned; compare
        ``after`` with ``begin``. Cost: the distance from ``after`` to ``end``, 2 ms for 40,000.
        """
        found = list(islice(reversed(self._messages), max(0, self.end - after)))
        found.reverse()
        return found

    def read(self, after: int, topics: frozenset[Topic]) -> list[tuple[int, Message]]:
        """Return ``(offset, message)`` of ``topics`` with an offset above ``after``, oldest first.

        Messages that left the tape are not returned; compare ``after`` with ``begin``.
        Cost: the distance from ``after`` to ``end``.
        """
        found = self.read_all(after)
        return [
            (offset, message)
            for offset, message in enumerate(found, self.end - len(found) + 1)
            if message.topic in topics or message.also in topics
        ]

    def products(self) -> list[str]:
        """Return the ids of products with messages since their heartbeat was last forgotten.

        ``""`` is among them if there were messages without a product.
        """
        return list(self._flows)

    def newest(self, topic: Topic, messages_max: int) -> list[Message]:
        """Return the messages of ``topic`` among the newest ``messages_max``, newest first."""
        newest_first = islice(reversed(self._messages), messages_max)
        return [each for each in newest_first if topic in (each.topic, each.also)]

    def part(self, after: int, count: int, topics: frozenset[Topic]) -> list[tuple[int, Message]]:
        """Return ``(offset, message)`` of ``topics`` among the ``count`` messages after ``after``.

        The oldest is first. Messages that left the tape are not returned.
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

        Before a topic's first message its sequence is the one that ``precede`` recorded. The topic
        is left out without one, if it was forgotten after ``at``, and if its sequence at ``at`` has
        left the tape and is unknown: a position never states more than was delivered. Cost: a
        search for each topic that has moved since.
        """
        topics = frozenset(topics)
        wanted = {topic for topic in topics if topic in self._last}
        before = {
            topic: sequence
            for topic, sequence in self.preceding(topics).items()
            if self._forgotten.get(topic, 0) <= at  # else it may be newer than a delivery
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
        """Drop the sequences of ``topic``, which the feed no longer holds.

        Its messages stay on the tape. With a heartbeat, ``flows_since`` of its product is dropped.
        """
        self._note_loss(topic, has_ended=True)
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
        age_us = max(0, self._messages[-1].published_us - self._messages[0].published_us)
        return age_us >= self._keep_us or self.bytes > _KEEPING_FACTOR * self._bytes_max
