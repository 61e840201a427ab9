"""The level-2 books at one id of the log, made from its records.

Each segment of the archive begins with them, so that a reader can start there.
"""

from collections.abc import Collection, Iterator

from hedgehogd.domain.book import Book
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.level2 import read_snapshot, read_update, snapshot_parts
from hedgehogd.domain.message import BadMessage, Message
from hedgehogd.domain.record import GapRecord, Record
from hedgehogd.log.continuity import BOOKS
from hedgehogd.protocol.frames import encode_text


class _Held:
    """A book, and the time of its last change."""

    __slots__ = ("book", "time")

    def __init__(self) -> None:
        self.book = Book()
        self.time = ""


class Checkpoint:
    """The books of some topics as of the last record that it followed.

    Args:
        topics: the topics of the books; None for all.
    """

    def __init__(self, topics: Collection[Topic] | None = None) -> None:
        self._topics = topics
        self._held: dict[Topic, _Held] = {}

    def __len__(self) -> int:
        """Return the number of books."""
        return len(self._held)

    def clear(self) -> None:
        """Drop all books; each begins again with a snapshot."""
        self._held.clear()

    def follow(self, message: Record) -> None:
        """Apply the next record of the log; one that concerns no book has no effect.

        A gap of its topic drops a book, and so does a message that cannot be read.
        """
        if isinstance(message, GapRecord):
            self._held.pop(message.topic, None)
        if not isinstance(message, Message):
            return
        if message.topic.channel not in BOOKS:
            return
        for topic in (message.topic, message.also):
            if topic is not None and (self._topics is None or topic in self._topics):
                try:
                    self._apply(topic, message)
                except BadMessage:
                    self._held.pop(topic, None)

    def _apply(self, topic: Topic, message: Message) -> None:
        if message.type == "snapshot":
            held = self._held[topic] = _Held()
            rows = read_snapshot(message.payload)
            held.book.load(rows.bids, rows.asks)
        elif topic in self._held:
            held = self._held[topic]
            changes, held.time = read_update(message.payload)
            held.book.apply(changes)

    def snapshots(self) -> Iterator[Message]:
        """Return a ``snapshot`` message of each book, made when it is reached."""
        for topic, held in self._held.items():
            parts = snapshot_parts(topic.product_id, held.book.freeze(), time=held.time or None)
            payload = b"".join(parts)
            yield Message(topic, "snapshot", encode_text(payload), payload)
