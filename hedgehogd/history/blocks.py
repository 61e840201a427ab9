"""Blocks of the store, unpacked once and kept for the next reader."""

import sqlite3

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.lru import Lru
from hedgehogd.domain.message import Message
from hedgehogd.history.block_codec import BadBlock, unpack
from hedgehogd.history.schema import CorruptStore
from hedgehogd.recovery.history_port import message_of


class Blocks:
    """The messages of blocks; the blocks that were read last are kept unpacked."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._kept: Lru[int, list[Message]] = Lru(weight_max=limits.HISTORY_CACHE_BYTES_MAX)

    def __len__(self) -> int:
        """Return how many blocks are kept unpacked."""
        return len(self._kept)

    @property
    def bytes(self) -> int:
        """Estimated memory of the unpacked blocks."""
        return self._kept.weight

    def messages(self, topic: Topic, block: int) -> list[Message]:
        """Return the messages of one block; what was wanted longest ago makes room.

        Raises:
            CorruptStore: it is not what was written.
        """
        kept = self._kept.get(block)
        if kept is not None:
            return kept
        row = self._connection.execute("SELECT data FROM block WHERE id = ?", (block,)).fetchone()
        try:
            messages = [
                message_of(topic, kept.payload, kept.place) for kept in unpack(topic, row[0])
            ]
        except BadBlock as error:
            raise CorruptStore(f"block {block} of {topic}: {error}") from None
        weight = sum(4 * len(message.payload) + 400 for message in messages)
        self._kept.put(block, messages, weight)
        return messages
