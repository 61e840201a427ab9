"""Pages: messages that are not live, on their way to who comes back; their bytes are shared."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import TypeVar

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import Message
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.gap_marker import InBand, in_band
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import positions
from hedgehogd.protocol import notices
from hedgehogd.protocol.wire import WireForm
from hedgehogd.recovery.history_port import BackfilledTrade, PastGap, PastPage


class Part:
    """Some messages that are given at once.

    Attributes:
        messages: data and, in their places, notices about what is missing.
        holes: these notices.
        count: how many of the messages are data.
        first: the oldest sequence of each topic among them.
        last: the newest one.
    """

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.holes = [message for message in messages if isinstance(message, InBand)]
        self.count = len(messages) - len(self.holes)
        self.first: dict[Topic, int] = {}
        self.last: dict[Topic, int] = {}
        for message in messages:
            for topic in positions(message):
                self.first.setdefault(topic, message.sequence or 0)
                self.last[topic] = message.sequence or 0


class Page(Part):
    """What is read at once, and its bytes, made once for all who get it whole.

    Attributes:
        weight: how many bytes of memory it takes at most.
    """

    def __init__(self, messages: list[Message]) -> None:
        super().__init__(messages)
        self.weight = sum(map(weight, messages))
        self._parts: dict[WireForm, list[tuple[Part, Chunk]]] = {}

    def parts(self, form: WireForm) -> list[tuple[Part, Chunk]]:
        """Return the whole page in parts, with their bytes; ``form`` states no positions."""
        parts = self._parts.get(form)
        if parts is None:
            parts = self._parts[form] = [
                (Part(part), past_chunk([form.data(message, "") for message in part], part))
                for part in cut(self.messages)
            ]
        return parts


def past_chunk(pieces: Sequence[bytes], messages: list[Message]) -> Chunk:
    """Return a chunk of messages that are not live: while it waits, it alone keeps them."""
    return Chunk(pieces, messages, [], sum(map(weight, messages)))


def cut(messages: list[Message]) -> Iterable[list[Message]]:
    """Cut ``messages`` into parts of about ``RESUME_CHUNK_BYTES``, none of them empty."""
    part: list[Message] = []
    size = 0
    for message in messages:
        part.append(message)
        size += len(message.payload)
        if size >= limits.RESUME_CHUNK_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


Place = TypeVar("Place")  # of one kind, with an order


def with_holes(
    placed: list[tuple[Place, Message]], holes: Iterable[tuple[Place, InBand]]
) -> list[tuple[Place, Message]]:
    """Return messages, and before those that follow on them the ``holes``, by their places."""
    both: list[tuple[Place, Message]] = [*holes, *placed]
    both.sort(key=itemgetter(0))  # the order of those that stand at one place is kept
    return both


def with_gaps(page: PastPage) -> list[Message]:
    """Return the messages of a page, and among them what is told of its gaps."""
    following = _Following(page.messages)
    for message in page.messages:
        if isinstance(message, BackfilledTrade):
            message.up_to = following.sequence_before(message.topic, message.id)
    if not page.gaps:
        return page.messages
    placed = [((message.id, _number_at_place(message)), message) for message in page.messages]
    holes = [((gap.place, gap.first or 0), _hole(gap, following)) for gap in page.gaps]
    return [message for _, message in with_holes(placed, holes)]


class _Following:
    """What follows on places within ``messages``, which are in the order of their places."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._messages = messages
        self._found: dict[Topic, tuple[list[int], list[int]]] | None = None

    def sequence_before(self, topic: Topic, place: int) -> int | None:
        """Return the last sequence before the next message of ``topic``; None without one."""
        if self._found is None:
            self._found = {}
            for message in self._messages:
                for each in (message.topic, message.also):
                    if message.sequence is not None and each is not None:
                        places, sequences = self._found.setdefault(each, ([], []))
                        places.append(message.id)
                        sequences.append(message.sequence)
        places, sequences = self._found.get(topic, ([], []))
        at = bisect_left(places, place)
        return sequences[at] - 1 if at < len(places) else None


def _number_at_place(message: Message) -> int:
    """Return what orders messages and gaps of one place: trade ids, then what follows the gap."""
    is_backfilled = isinstance(message, BackfilledTrade)
    return (message.trade_id or 0) if is_backfilled else SEQUENCE_MAX


def _hole(gap: PastGap, following: _Following) -> InBand:
    first, last, up_to = gap.first, gap.last, gap.last
    if first is None or last is None:
        told = notices.lost(gap.topic, None, None)
    else:
        told = notices.gap(gap.topic, Gap(first, last))
    if last is None or gap.topic.channel == MATCHES.topic_channel:
        # What is missing has trade ids alone, or no numbers; what follows has sequences.
        up_to = following.sequence_before(gap.topic, gap.place)
    hole = in_band(gap.topic, told, up_to, gap.received_us)
    hole.id = gap.place
    if gap.is_undated:
        hole.received_us = 0  # its page has a later time than the gap: a replay would wait
    return hole
