"""Pages: messages that are not live, on their way to who comes back; their bytes are shared."""

from collections.abc import Iterable, Sequence
from operator import itemgetter

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.message import Message
from hedgehogd.engine.chunk import Chunk
from hedgehogd.engine.gap_marker import InBand, in_band
from hedgehogd.engine.memory import weight
from hedgehogd.engine.tape import positions
from hedgehogd.protocol import notices
from hedgehogd.protocol.wire import WireForm
from hedgehogd.recovery.history_port import PastGap, PastPage


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


def with_holes(
    placed: list[tuple[int, Message]], holes: Iterable[tuple[int, InBand]]
) -> list[tuple[int, Message]]:
    """Return messages, and before those that follow on them the ``holes``, by their places."""
    both = [*holes, *placed]
    both.sort(key=itemgetter(0))  # the order of those that stand at one place is kept
    return both


def with_gaps(page: PastPage) -> list[Message]:
    """Return the messages of a page, and among them what is told of its gaps."""
    if not page.gaps:
        return page.messages
    placed = [(message.id, message) for message in page.messages]
    holes = [(gap.place, _hole(gap, page.messages)) for gap in page.gaps if gap.first is not None]
    return [message for _, message in with_holes(placed, holes)]


def _hole(gap: PastGap, messages: Iterable[Message]) -> InBand:
    hole = in_band(gap.topic, _told(gap), _up_to(gap, messages), gap.received_us)
    hole.id = gap.place
    return hole


def _told(gap: PastGap) -> bytes:
    return notices.gap(gap.topic, Gap(gap.first or 0, gap.last or 0))


def _up_to(gap: PastGap, messages: Iterable[Message]) -> int | None:
    """Return the last sequence of what is missing."""
    if gap.topic.channel != MATCHES.topic_channel:
        return gap.last
    for message in messages:  # what is missing has trade ids alone; what follows has both
        if message.topic == gap.topic and message.id >= gap.place:
            return (message.sequence or 0) - 1
    return None
