"""The tape: a ring of recent messages in memory.

``offset`` is a message's place on it: it rises by one per message, never leaves the
process, and says in one number what a subscriber has been given. ``end`` is the offset of
the newest message, 0 before the first.

The tape also knows each topic's last sequence at any offset still on it, so nobody has to
keep a position per subscriber: it is looked up on the rare day when it is needed.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.limits import TAPE_BYTES_MAX, TOPICS_MAX
from hedgehogd.domain.message import Message
from hedgehogd.protocol.deflate import DEFLATE_BYTES_MIN

_RESUMING = frozenset(name for name, channel in BY_TOPIC_CHANNEL.items() if channel.resumes)


def positions(message: Message) -> tuple[Topic, ...]:
    """Return the topics whose position ``message`` moves."""
    if message.sequence is None or message.topic.channel not in _RESUMING:
        return ()
    return (message.topic,) if message.also is None else (message.topic, message.also)


_FORMS = 4  # the payload is held again in its frame, its line and its event
_OBJECTS_BYTES = 330  # what Python wraps around them


def weight(message: Message) -> int:
    """Return how many bytes of memory ``message`` takes at most.

    Measured on the shared recording's l2updates, 120 bytes of payload each: 476 bytes while
    only WebSocket subscribers want them, 807 once all forms have been made.
    """
    size = len(message.payload)
    forms = _FORMS + (size >= DEFLATE_BYTES_MIN)  # large ones are held compressed too
    return forms * size + _OBJECTS_BYTES


class Tape:
    """Recent messages, bounded in the memory that they take.

    The newest batch is always kept whole, whatever it weighs: it is still being written out.
    """

    def __init__(self, bytes_max: int = TAPE_BYTES_MAX) -> None:
        self.end = 0
        self.bytes = 0
        self._bytes_max = bytes_max
        self._messages: deque[Message] = deque()
        self._last: dict[Topic, int] = {}  # each topic's last sequence
        # offset and sequence of each topic's last message that has left the tape
        self._left: dict[Topic, tuple[int, int]] = {}

    @property
    def begin(self) -> int:
        """The offset of the oldest message on the tape; ``end + 1`` when it is empty."""
        return self.end - len(self._messages) + 1

    def append(self, messages: Sequence[Message]) -> None:
        """Put a batch on the tape; the oldest messages leave when it is full."""
        kept = self._messages
        for message in messages:
            kept.append(message)
            self.bytes += weight(message)
            self.end += 1
            for topic in positions(message):
                if topic in self._last or len(self._last) < TOPICS_MAX:
                    self._last[topic] = message.sequence or 0
        while self.bytes > self._bytes_max and len(kept) > len(messages):
            oldest = kept.popleft()
            self.bytes -= weight(oldest)
            for topic in positions(oldest):
                if topic in self._last:
                    self._left[topic] = (self.end - len(kept), oldest.sequence or 0)

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

    def position(self, topics: Iterable[Topic], at: int) -> dict[Topic, int]:
        """Return the last sequence of each of ``topics`` at or before offset ``at``.

        A topic that has had no numbered message by then is left out, and so is one whose
        sequence at ``at`` has left the tape and is not known any more: a position never
        claims more than was delivered. Cost: nothing for ``at == end``, else the distance
        back to where every topic is found; meant for farewells, not for every message.
        """
        wanted = {topic for topic in topics if topic in self._last}
        position = {topic: self._last[topic] for topic in wanted}
        if at >= self.end:
            return position
        moved: set[Topic] = set()
        for offset, message in self._backwards(self.begin - 1):
            if offset > at:
                moved.update(wanted.intersection(positions(message)))
            elif not moved:
                break
            else:
                for topic in moved.intersection(positions(message)):
                    position[topic] = message.sequence or 0
                    moved.discard(topic)
        for topic in wanted:
            left_at, sequence = self._left.get(topic, (0, 0))
            if topic in moved or left_at > at:
                if 0 < left_at <= at:
                    position[topic] = sequence
                else:
                    del position[topic]
        return position

    def forget(self, topic: Topic) -> None:
        """Drop the sequences kept for ``topic``: it is no longer held."""
        self._last.pop(topic, None)
        self._left.pop(topic, None)

    def _backwards(self, after: int) -> Iterator[tuple[int, Message]]:
        """Yield ``(offset, message)`` from the newest down to the first above ``after``."""
        count = max(0, min(self.end - after, len(self._messages)))
        newest_first = islice(reversed(self._messages), count)
        return zip(range(self.end, self.end - count, -1), newest_first, strict=True)
