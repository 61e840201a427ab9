"""Bytes waiting for one subscriber's socket, in sending order.

Sans-I/O: the outlet owns the socket and the clock. A *piece* is the frame, NDJSON line or SSE
event of one message. Three rules determine the order and the memory:

* A piece that has begun, the piece in flight, is finished before any other byte is sent.
* Control bytes (pongs, acknowledgements, notices) are sent before waiting data, between pieces.
* The members of a cohort share the bytes of a waiting message: each holds a reference. Copies are
  made only of the rest of a conflated chunk, and of the piece in flight at the end.

The subscriber's account of the instance's budget is charged for all bytes held here, from ``put``
until the last byte is sent or dropped.
"""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.budget import HOLD_BYTES, Account
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.memory import weight


class _Waiting(msgspec.Struct, gc=False, eq=False):
    """A waiting chunk; slow subscribers have many of them, which form no cycle.

    Attributes:
        chunk: the chunk.
        start: its bytes before this index have been sent.
        since: the time at which it was put.
        ends: the end of each piece in its bytes.
        charge: the account's charge for it.
    """

    chunk: Chunk
    start: int
    since: float
    ends: Sequence[int]
    charge: int = 0

    def whole(self, at: int) -> int:
        """Return the number of pieces that end at or before byte ``at``."""
        return bisect_right(self.ends, at)

    def begun_end(self) -> int:
        """Return the end of the piece in flight; ``start`` when no piece is in flight."""
        done = self.whole(self.start)
        begin = self.ends[done - 1] if done else 0
        return self.ends[done] if begin < self.start else self.start

    def largest(self) -> int:
        """Return the size of the largest unsent piece; of the piece in flight, its unsent rest."""
        ends = self.ends[self.whole(self.start) :]
        return max(end - begin for begin, end in zip((self.start, *ends), ends, strict=False))


class Backlog:
    """Bytes that wait for one socket.

    Attributes:
        bytes: size of the waiting data, without control bytes.
        control_bytes: size of the waiting control bytes; after ``drop`` also of the piece in
            flight.
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
        self._begun_held = 0  # memory of the bytes object that _begun is a part of
        self._control_held = 0  # memory of _control
        self._begun: memoryview = memoryview(b"")  # unsent rest of bytes that are not in _data
        self._control: deque[bytes] = deque()
        self._data: deque[_Waiting] = deque()

    def __bool__(self) -> bool:
        """Return whether any bytes wait."""
        return bool(self._data or self._control or self._begun)

    def put(self, chunk: Chunk, sent: int, now: float) -> int:
        """Append ``chunk``, of which the socket has accepted ``sent`` bytes, but not all.

        ``sent`` > 0 requires an empty backlog.

        Returns:
            The number of messages that those bytes completed.
        """
        waiting = _Waiting(chunk, sent, now, chunk.ends)
        self._hold(waiting)
        self._data.append(waiting)
        self.bytes += chunk.size - sent
        return waiting.whole(sent)

    def put_control(self, data: bytes, sent: int = 0) -> None:
        """Append control bytes, of which the socket has accepted ``sent`` bytes already.

        ``sent`` > 0 requires an empty backlog.
        """
        self.control_bytes += len(data) - sent
        if sent:
            self._begin(data, sent)
        else:
            held = len(data) + HOLD_BYTES
            self._account.take(held)
            self._control_held += held
            self._control.append(data)

    def next(self) -> memoryview:
        """Return the bytes to send next; empty when no bytes wait.

        Control bytes that are next become one piece in flight, joined.
        """
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
        """Remove ``count`` bytes of ``next()``, which the socket has accepted.

        Returns:
            The number of messages that those bytes completed.
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
        """Return the bytes of the largest waiting piece or unsent rest; 0 without data."""
        return max((waiting.largest() for waiting in self._data), default=0)

    def oldest_since(self) -> float | None:
        """Return the time at which the oldest waiting data was put, or None without data."""
        return self._data[0].since if self._data else None

    def delivered_to(self) -> int | None:
        """Return the tape offset before the first message of which no byte was sent.

        None when no such message waits: then all messages written so far are delivered.
        The piece in flight counts as delivered: it is finished before any notice is sent.
        """
        for waiting in self._data:
            begun = waiting.whole(waiting.begun_end())
            if begun < waiting.chunk.count:
                return waiting.chunk.offsets[begun] - 1
        return None

    def waiting(self) -> Iterator[Message]:
        """Iterate over the messages of which no byte has been sent, in sending order."""
        for waiting in self._data:
            begun = waiting.whole(waiting.begun_end())
            yield from waiting.chunk.messages[begun:]

    def drop(self) -> int:
        """Drop all waiting data but the piece in flight; return the number of dropped messages.

        The piece in flight counts as control bytes from then on; so ``bytes`` is 0.
        """
        dropped = 0
        if self._data:
            head = self._data[0]
            end = head.begun_end()
            if end > head.start:  # then _begun is empty: only one piece can be in flight
                # A copy, so that the chunk can be freed: it may be a hundred times as large.
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
        """Drop all waiting bytes, the piece in flight included: nothing more can be sent."""
        self.drop()
        self._account.take(-self._begun_held - self._control_held)
        self._begun_held = self._control_held = self.control_bytes = 0
        self._begun = memoryview(b"")
        self._control.clear()

    def conflate(self, topics: AbstractSet[Topic], books: AbstractSet[Topic]) -> Counter[Topic]:
        """Drop waiting messages that newer messages replace; keep the piece in flight.

        Args:
            topics: the newest waiting message of each is kept.
            books: no waiting message of these topics is kept: a new snapshot will replace them.

        Returns:
            The number of dropped messages by topic.
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
        """Make the rest of ``data`` after ``sent`` bytes the next bytes to send; charge for it."""
        self._begun_held = len(data) + HOLD_BYTES
        self._account.take(self._begun_held)
        self._begun = memoryview(data)[sent:]
        return self._begun


def _kept_indices(
    waiting: _Waiting, topics: AbstractSet[Topic], seen: set[Topic], skipped: Counter[Topic]
) -> list[int]:
    """Return the indices of the pieces of ``waiting`` that stay, ascending.

    ``topics`` are the conflated ones. ``seen`` are the topics with a message in newer chunks, and
    the books; the topics of ``waiting`` are added to it, and the dropped messages to ``skipped``.
    """
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
    """Return the topic of ``message`` that is one of ``topics``.

    If both or none of its topics are, it is ``message.topic``.
    """
    if message.also is not None and message.topic not in topics and message.also in topics:
        return message.also
    return message.topic


def _subset(waiting: _Waiting, indices: list[int]) -> _Waiting:
    """Return ``waiting`` with the pieces at ``indices`` only.

    A piece in flight is the first of them.
    """
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
    return _Waiting(part, start, waiting.since, part.ends)
