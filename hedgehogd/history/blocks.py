"""Blocks of the store, unpacked once and kept for the next reader."""

import sqlite3
from collections import OrderedDict

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.history.block_codec import BadBlock, unpack
from hedgehogd.history.schema import CorruptStore
from hedgehogd.recovery.history_port import message_of


class Blocks:
    """The messages in blocks; of what was unpacked, that which was wanted last.

    Attributes:
        bytes: memory that they take, about.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.bytes = 0
        self._connection = connection
        self._kept: OrderedDict[int, tuple[int, list[Message]]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many blocks are kept unpacked."""
        return len(self._kept)

    def messages(self, topic: Topic, block: int) -> list[Message]:
        """Return the messages of one block; what was wanted longest ago makes room.

        Raises:
            CorruptStore: it is not what was written.
        """
        kept = self._kept.get(block)
        if kept is not None:
            self._kept.move_to_end(block)
            return kept[1]
        row = self._connection.execute("SELECT data FROM block WHERE id = ?", (block,)).fetchone()
        try:
            messages = [
                message_of(topic, kept.payload, kept.place) for kept in unpack(topic, row[0])
            ]
        except BadBlock as error:
            raise CorruptStore(f"block {block} of {topic}: {error}") from None
        weight = sum(4 * len(message.payload) + 400 for message in messages)
        self._kept[block] = (weight, messages)
        self.bytes += weight
        while self.bytes > limits.HISTORY_CACHE_BYTES_MAX and len(self._kept) > 1:
            _, (oldest, _) = self._kept.popitem(last=False)
            self.bytes -= oldest
        return messages
