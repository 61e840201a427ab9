"""What one subscriber's socket refused, in the order in which it must be sent.

Sans-I/O; the outlet owns the socket and the clock. Three rules:

* A frame, line or event once begun is finished before anything else.
* What is not data (pongs, answers, notices) goes ahead of waiting data, between pieces.
* Waiting bytes are shared between all members of a cohort: a waiting message costs a
  reference, not a copy.

All that is held here is on the subscriber's account of the instance's budget, from the moment
it is put here until its last byte is sent or dropped.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.budget import HOLD_BYTES, Account
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.memory import weight


class _Waiting:
    """A chunk of which the bytes before ``start`` have been sent."""

    __slots__ = ("charge", "chunk", "ends", "since", "start")

    def __init__(self, chunk: Chunk, start: int, since: float) -> None:
        self.chunk = chunk
        self.start = start
        self.since = since
        self.ends = chunk.ends
        self.charge = 0

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
        ends = self.ends[self.whole(self.start) :]
        return max(end - begin for begin, end in zip((self.start, *ends), ends, strict=False))


class Backlog:
    """Bytes that wait for one socket.

    Attributes:
        bytes: data that waits.
        control_bytes: what is not data and waits.
    """

    __slots__ = (
        "_account",
        "_begun",
        "_begun_held",
        "_control",
        "_control_held",
        "_data",
        "bytes",
        "control_bytes",
    )

    def __init__(self, account: Account) -> None:
        self.bytes = 0
        self.control_bytes = 0
        self._account = account
        self._begun_held = 0  # memory of what _begun is a part of
        self._control_held = 0  # memory of _control
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
        self._hold(waiting)
        self._data.append(waiting)
        self.bytes += chunk.size - sent
        return waiting.whole(sent)

    def put_control(self, data: bytes, sent: int = 0) -> None:
        """Keep something that is not data; ``sent`` > 0 only when nothing else waits."""
        self.control_bytes += len(data) - sent
        if sent:
            self._begin(data, sent)
        else:
            held = len(data) + HOLD_BYTES
            self._account.take(held)
            self._control_held += held
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
            together = b"".join(self._control)
            self._control.clear()
            self._account.take(-self._control_held)
            self._control_held = 0
            return self._begin(together, 0)
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
            if not self._begun:
                self._account.take(-self._begun_held)
                self._begun_held = 0
            return 0
        head = self._data[0]
        before = head.whole(head.start)
        head.start += count
        self.bytes -= count
        if head.start == head.chunk.size:
            self._release(self._data.popleft())
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
                # A copy: the chunk may be a hundred times as large, and is to be freed.
                self._begin(head.chunk.data[head.start : end], 0)
                self.control_bytes += end - head.start
                dropped = -1
        dropped += sum(w.chunk.count - w.whole(w.start) for w in self._data)
        for waiting in self._data:
            self._release(waiting)
        self._data.clear()
        self.bytes = 0
        return dropped

    def clear(self) -> None:
        """Forget all that waits, also what is in flight: nothing more can be sent."""
        self.drop()
        self._account.take(-self._begun_held - self._control_held)
        self._begun_held = self._control_held = self.control_bytes = 0
        self._begun = memoryview(b"")
        self._control.clear()

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
            else:
                self._release(waiting)
                if indices:
                    kept.appendleft(_subset(waiting, indices))
                    self._hold(kept[0])
        self._data = kept
        self.bytes = sum(waiting.chunk.size - waiting.start for waiting in kept)
        return skipped

    def _hold(self, waiting: _Waiting) -> None:
        chunk = waiting.chunk
        waiting.charge = self._account.share(chunk.data, chunk.weight())

    def _release(self, waiting: _Waiting) -> None:
        self._account.release(waiting.chunk.data, waiting.charge)

    def _begin(self, data: bytes, sent: int) -> memoryview:
        """Finish ``data``, of which ``sent`` bytes have been sent, before anything else."""
        self._begun_held = len(data) + HOLD_BYTES
        self._account.take(self._begun_held)
        self._begun = memoryview(data)[sent:]
        return self._begun


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
    begins = (0, *waiting.ends)
    messages = [chunk.messages[i] for i in indices]
    part = Chunk(
        [chunk.data[begins[i] : begins[i + 1]] for i in indices],
        messages,
        [chunk.offsets[i] for i in indices],
        sum(map(weight, messages)) if chunk.kept_bytes else 0,
    )
    return _Waiting(part, start, waiting.since)
