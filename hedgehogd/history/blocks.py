"""Blocks of the store, unpacked once and kept for the next reader."""

import sqlite3
from collections import OrderedDict

from hedgehogd.domain import limits
from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.domain.message import BadMessage, Message, read_head
from hedgehogd.history.schema import CorruptStore
from hedgehogd.protocol.block import BadBlock, Kept, unpack
from hedgehogd.protocol.frames import encode_text


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
            messages = [message_of(topic, kept) for kept in unpack(topic, row[0])]
        except BadBlock as error:
            raise CorruptStore(f"block {block} of {topic}: {error}") from None
        weight = sum(4 * len(message.payload) + 400 for message in messages)
        self._kept[block] = (weight, messages)
        self.bytes += weight
        while self.bytes > limits.HISTORY_CACHE_BYTES_MAX and len(self._kept) > 1:
            _, (oldest, _) = self._kept.popitem(last=False)
            self.bytes -= oldest
        return messages


def message_of(topic: Topic, kept: Kept) -> Message:
    """Return what was kept as a message, as it was."""
    payload = kept.payload
    try:
        head = read_head(payload)
        kind, sequence, trade_id = head.type, head.sequence, head.trade_id
    except BadMessage:  # what was relayed once is relayed again
        kind, sequence, trade_id = "", None, None
    message = Message(topic, kind, encode_text(payload), payload, sequence, trade_id)
    if kind == "match" and topic.channel == FULL.topic_channel:
        message.also = MATCHES.topic(topic.product_id)  # as when it came
    message.received_us = kept.place
    return message
