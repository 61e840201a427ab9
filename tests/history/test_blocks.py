"""Blocks, unpacked: ``test_reader`` reads them out of a real store."""

import sqlite3

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES
from hedgehogd.history.block_codec import Kept, pack
from hedgehogd.history.blocks import Blocks

TOPIC = MATCHES.topic("BTC-USD")


def test_what_was_wanted_last_stays(monkeypatch):
    """A thousand who come back want the same ones."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE block (id INTEGER PRIMARY KEY, data BLOB)")
    for number in range(3):
        data = pack(TOPIC, [Kept(number, b'{"type":"match"}')])
        connection.execute("INSERT INTO block VALUES (?, ?)", (number, data))
    monkeypatch.setattr(limits, "HISTORY_CACHE_BYTES_MAX", 1000)
    blocks = Blocks(connection)
    first, second = (blocks.messages(TOPIC, number) for number in (0, 1))

    assert blocks.messages(TOPIC, 0) is first
    blocks.messages(TOPIC, 2)
    assert len(blocks) == 2
    assert blocks.messages(TOPIC, 0) is first
    assert blocks.messages(TOPIC, 1) is not second
    connection.close()
