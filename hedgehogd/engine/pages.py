"""Pages: messages that are not live, on their way to who comes back; their bytes are shared."""

from collections.abc import Iterable

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.engine.member import Chunk
from hedgehogd.engine.past import PastGap, PastPage
from hedgehogd.engine.tape import positions
from hedgehogd.protocol import notices
from hedgehogd.protocol.frames import encode_text
from hedgehogd.protocol.gaps import Gap
from hedgehogd.protocol.wire import WireForm


class Part:
    """Some messages that are given at once.

    Attributes:
        messages: data and, in their places, notices about what is missing.
        count: how many of them are data.
        first: the oldest sequence of each topic among them.
        last: the newest one.
    """

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.count = sum(message.type != "notice" for message in messages)
        self.first: dict[Topic, int] = {}
        self.last: dict[Topic, int] = {}
        for message in messages:
            for topic in positions(message):
                self.first.setdefault(topic, message.sequence or 0)
                self.last[topic] = message.sequence or 0


class Page(Part):
    """What is read at once, and its bytes, made once for all who get it whole."""

    def __init__(self, messages: list[Message]) -> None:
        super().__init__(messages)
        self._parts: dict[WireForm, list[tuple[Part, Chunk]]] = {}

    def parts(self, form: WireForm) -> list[tuple[Part, Chunk]]:
        """Return the whole page in parts, with their bytes; ``form`` states no positions."""
        parts = self._parts.get(form)
        if parts is None:
            parts = self._parts[form] = [
                (Part(part), Chunk([form.data(message, "") for message in part], part, []))
                for part in cut(self.messages)
            ]
        return parts


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


def in_band(topic: Topic, payload: bytes) -> Message:
    """Return a notice that keeps its place among the data."""
    message = Message(topic, "notice", encode_text(payload), payload)
    message.event = b"event: hedgehogd\ndata: " + payload + b"\n"
    return message


def with_gaps(page: PastPage) -> list[Message]:
    """Return the messages of a page, and among them what is told of its gaps."""
    if not page.gaps:
        return page.messages
    placed = [(message.received_us, message) for message in page.messages]
    placed += [(gap.place, _gap_notice(gap)) for gap in page.gaps if gap.first is not None]
    placed.sort(key=lambda each: each[0])
    return [message for _, message in placed]


def _gap_notice(gap: PastGap) -> Message:
    return in_band(gap.topic, notices.gap(gap.topic, Gap(gap.first or 0, gap.last or 0)))
