"""The level-2 books of the records so far; their changes are applied when a book is needed."""

from collections.abc import Iterable, Iterator
from contextlib import suppress

from hedgehogd.domain.book import Book
from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.level2 import read_snapshot, read_update, snapshot_parts
from hedgehogd.domain.message import BadMessage, Message

CHANNELS = frozenset({LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel})
_YEAR_ONE = "0001"  # appears in real updates (COINBASE §6.6)
_CHANGES_MAX = 50_000  # of one book, before they are applied


class _Followed:
    """One book: a snapshot, and the newest change of each price since.

    Most changes are followed by another one of the same price, or by a snapshot, before a
    checkpoint needs the book: it costs 1 µs to collect a change and several to apply it.
    """

    __slots__ = ("book", "changes", "received_us", "snapshot", "time")

    def __init__(self, snapshot: bytes) -> None:
        self.book = Book()
        self.snapshot = snapshot
        self.changes: dict[tuple[str, str], str] = {}
        self.received_us = 0
        self.time = ""

    def update(self, payload: bytes) -> None:
        """Collect the changes of an update.

        Raises:
            BadMessage: it cannot be read.
        """
        changes, time = read_update(payload)
        collected = self.changes
        for change in changes:
            if change is not None:
                side, price, size = change
                key = (side, price)
                if key in collected:  # another spelling of the price may have changed meanwhile
                    del collected[key]
                collected[key] = size
        if time and not time.startswith(_YEAR_ONE):
            self.time = time
        if len(collected) > _CHANGES_MAX:
            self.apply()

    def apply(self) -> bool:
        """Bring the book up to date; say whether it is ready."""
        if self.snapshot:
            try:
                rows = read_snapshot(self.snapshot)
            except BadMessage:
                pass
            else:
                self.book.load(rows.bids, rows.asks)
            self.snapshot = b""
        if self.book.is_ready:
            self.book.apply([(side, price, size) for (side, price), size in self.changes.items()])
        self.changes.clear()
        return self.book.is_ready


class Books:
    """All books."""

    def __init__(self) -> None:
        self._books: dict[Topic, _Followed] = {}

    def follow(self, topic: Topic, message: Message) -> None:
        """Add a message of the book of ``topic``; updates before a snapshot have no effect."""
        if message.type == "snapshot":
            followed = self._books[topic] = _Followed(message.payload)
        elif topic in self._books:
            followed = self._books[topic]
            with suppress(BadMessage):  # it was sent to subscribers, and their books went on
                followed.update(message.payload)
        else:
            return
        followed.received_us = message.received_us

    def follow_all(self, topic: Topic, types: Iterable[str], payloads: Iterable[bytes]) -> None:
        """Add messages of the book of ``topic``, as columns; their receive times are not kept.

        An unreadable update drops the book until the next snapshot.
        """
        followed = self._books.get(topic)
        for kind, payload in zip(types, payloads, strict=True):
            if kind == "snapshot":
                followed = self._books[topic] = _Followed(payload)
            elif followed is not None:
                try:
                    followed.update(payload)
                except BadMessage:
                    followed = None
                    del self._books[topic]

    def end(self, topic: Topic) -> None:
        """Drop the book of ``topic``: the next snapshot begins it again."""
        self._books.pop(topic, None)

    def snapshots(self) -> Iterator[Message]:
        """Iterate over the books with a readable snapshot, each as a ``snapshot`` message.

        The book that was returned last may be ended.
        """
        for topic in sorted(self._books):
            followed = self._books[topic]
            if followed.apply():
                frozen, time = followed.book.freeze(), followed.time or None
                payload = b"".join(snapshot_parts(topic.product_id, frozen, time=time))
                message = Message(topic, "snapshot", b"", payload)
                message.received_us = followed.received_us
                yield message
