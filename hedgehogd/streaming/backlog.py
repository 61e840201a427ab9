"""What one subscriber's socket refused, in the order in which it must be sent.

Sans-I/O; the outlet owns the socket and the clock. Three rules:

* A frame, line or event once begun is finished before anything else.
* What is not data (pongs, answers, notices) goes ahead of waiting data, between pieces.
* Waiting bytes are shared between all members of a cohort: a waiting message costs a
  reference, not a copy.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from itertools import accumulate

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.member import Chunk


class _Waiting:
    """A chunk of which the bytes before ``start`` have been sent."""

    __slots__ = ("chunk", "ends", "since", "start")

    def __init__(self, chunk: Chunk, start: int, since: float) -> None:
        self.chunk = chunk
        self.start = start
        self.since = since
        self.ends = list(accumulate(map(len, chunk.pieces)))

    def whole(self, at: int) -> int:
        """Return how many pieces end at or before byte ``at``."""
        return bisect_right(self.ends, at)

    def begun_end(self) -> int:
        """Return where the piece in flight ends; ``start`` when none is."""
        done = self.whole(self.start)
        begin = self.ends[done - 1] if done else 0
        return self.ends[done] if begin < self.start else self.start

    def largest(self) -> int:
        """Return the size of the largest piece that has not been sent, or of its rest."""
        first = self.whole(self.start)
        rest = self.ends[first] - self.start
        return max(rest, max(map(len, self.chunk.pieces[first + 1 :]), default=0))


class Backlog:
    """Bytes that wait for one socket.

    Attributes:
        bytes: data that waits.
        control_bytes: what is not data and waits.
    """

    __slots__ = ("_begun", "_control", "_data", "bytes", "control_bytes")

    def __init__(self) -> None:
        self.bytes = 0
        self.control_bytes = 0
        self._begun: memoryview = memoryview(b"")  # the rest of something not in _data
        self._control: deque[bytes] = deque()
        self._data: deque[_Waiting] = deque()

    def __bool__(self) -> bool:
        """True while anything waits."""
        return bool(self._data or self._control or self._begun)

    def put(self, chunk: Chunk, sent: int, now: float) -> int:
        """Keep ``chunk``, of which the socket took ``sent`` bytes already, but not all.

        ``sent`` > 0 only when nothing else waits.

        Returns:
            How many messages were completed by them.
        """
        waiting = _Waiting(chunk, sent, now)
        self._data.append(waiting)
        self.bytes += chunk.size - sent
        return waiting.whole(sent)

    def put_control(self, data: bytes, sent: int = 0) -> None:
        """Keep something that is not data; ``sent`` > 0 only when nothing else waits."""
        self.control_bytes += len(data) - sent
        if sent:
            self._begun = memoryview(data)[sent:]
        else:
            self._control.append(data)

    def next(self) -> memoryview:
        """Return the bytes to send now; empty when nothing waits."""
        if self._begun:
            return self._begun
        head = self._data[0] if self._data else None
        if head is not None:
            begun_end = head.begun_end()
            if begun_end > head.start:
                return memoryview(head.chunk.data)[head.start : begun_end]
        if self._control:
            self._begun = memoryview(b"".join(self._control))
            self._control.clear()
            return self._begun
        if head is not None:
            return memoryview(head.chunk.data)[head.start :]
        return self._begun

    def sent(self, count: int) -> int:
        """Account for ``count`` bytes of ``next()`` that the socket took.

        Returns:
            How many messages were completed by them.
        """
        if self._begun:
            self._begun = self._begun[count:]
            self.control_bytes -= count
            return 0
        head = self._data[0]
        before = head.whole(head.start)
        head.start += count
        self.bytes -= count
        if head.start == head.chunk.size:
            self._data.popleft()
        return head.whole(head.start) - before

    def largest(self) -> int:
        """Return the size of the largest piece that waits, or of its rest, in bytes."""
        return max((waiting.largest() for waiting in self._data), default=0)

    def oldest_since(self) -> float | None:
        """Return when the oldest waiting data was put here, or None when no data waits."""
        return self._data[0].since if self._data else None

    def delivered_to(self) -> int | None:
        """Return the tape offset before the first message not begun; None when all are.

        The piece in flight counts: it is finished before anything else can be said.
        """
        for waiting in self._data:
            begun = waiting.whole(waiting.begun_end())
            if begun < waiting.chunk.count:
                return waiting.chunk.offsets[begun] - 1
        return None

    def waiting(self) -> Iterator[Message]:
        """Iterate over the messages that are not begun, in the order of sending."""
        for waiting in self._data:
            begun = waiting.whole(waiting.begun_end())
            yield from waiting.chunk.messages[begun:]

    def drop(self) -> int:
        """Forget all waiting data but the piece in flight; return how many messages that were."""
        dropped = 0
        if self._data:
            head = self._data[0]
            end = head.begun_end()
            if end > head.start:  # implies that nothing else is in flight
                self._begun = memoryview(head.chunk.data)[head.start : end]
                self.control_bytes += end - head.start
                dropped = -1
        dropped += sum(w.chunk.count - w.whole(w.start) for w in self._data)
        self._data.clear()
        self.bytes = 0
        return dropped

    def conflate(self, topics: AbstractSet[Topic], books: AbstractSet[Topic]) -> Counter[Topic]:
        """Drop what newer things replace; the piece in flight is not touched.

        Args:
            topics: of each only the newest waiting message is kept.
            books: of each nothing is kept: a fresh snapshot will replace all of it.

        Returns:
            How many messages of each topic were dropped.
        """
        skipped: Counter[Topic] = Counter()
        seen: set[Topic] = set(books)
        kept: deque[_Waiting] = deque()
        for waiting in reversed(self._data):
            indices = _kept_indices(waiting, topics | books, seen, skipped)
            if len(indices) == waiting.chunk.count - waiting.whole(waiting.start):
                kept.appendleft(waiting)
            elif indices:
                kept.appendleft(_subset(waiting, indices))
        self._data = kept
        self.bytes = sum(waiting.chunk.size - waiting.start for waiting in kept)
        return skipped


def _kept_indices(
    waiting: _Waiting, topics: AbstractSet[Topic], seen: set[Topic], skipped: Counter[Topic]
) -> list[int]:
    """Return which pieces of ``waiting`` stay, given the topics ``seen`` in newer chunks."""
    first = waiting.whole(waiting.start)
    in_flight = waiting.begun_end() > waiting.start
    indices: list[int] = []
    for index in range(waiting.chunk.count - 1, first - 1, -1):
        topic = _topic_among(waiting.chunk.messages[index], topics)
        if in_flight and index == first:
            indices.append(index)
        elif topic in seen and topic in topics:
            skipped[topic] += 1
        else:
            seen.add(topic)
            indices.append(index)
    return indices[::-1]


def _topic_among(message: Message, topics: AbstractSet[Topic]) -> Topic:
    """Return by which of its topics the subscriber has ``message``."""
    if message.also is not None and message.topic not in topics and message.also in topics:
        return message.also
    return message.topic


def _subset(waiting: _Waiting, indices: list[int]) -> _Waiting:
    """Return ``waiting`` with the pieces at ``indices`` only; a piece in flight comes first."""
    chunk = waiting.chunk
    first = waiting.whole(waiting.start)
    begin = waiting.ends[first - 1] if first else 0
    start = waiting.start - begin if indices[0] == first else 0
    part = Chunk(
        [chunk.pieces[i] for i in indices],
        [chunk.messages[i] for i in indices],
        [chunk.offsets[i] for i in indices],
    )
    return _Waiting(part, start, waiting.since)
