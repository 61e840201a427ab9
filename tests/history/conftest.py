"""A store in a directory of the test's own, and what is written to it."""

import sqlite3
from contextlib import closing

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME
from hedgehogd.history.writer import Entry, Writer
from tests.disks import small_disk

NOW = 1_700_000_000_000_000
"""When tests begin, µs since the epoch."""
BTC = "BTC-USD"
TICKER, MATCHES, FULL, LEVEL2, LEVEL3, HEARTBEAT = (
    Topic(channel, BTC)
    for channel in ("ticker", "matches", "full", "level2", "level3", "heartbeat")
)
NAMES = {"pairs": BTC, "channels": "matches,ticker"}
NEVER_US = 2**62


def match(number, at=None, topic=MATCHES, size=1):
    """Return a trade; its sequence is ten times its trade id."""
    payload = b'{"type":"match","trade_id":%d,"sequence":%d,"product_id":"%b","size":"%b"}' % (
        number, 10 * number, topic.product_id.encode(), b"1" * size)  # fmt: skip
    return Entry(topic, NOW + number if at is None else at, payload, 10 * number, number)


def numbered(topic, sequence, at):
    """Return a message of a channel with sequences and no trade ids."""
    kind = "done" if topic.channel == "full" else topic.channel
    if topic.channel == "level3":
        payload = b'["noop","%b","%d","x"]' % (topic.product_id.encode(), sequence)
    else:
        payload = b'{"type":"%b","product_id":"%b","sequence":%d}' % (
            kind.encode(), topic.product_id.encode(), sequence)  # fmt: skip
    return Entry(topic, at, payload, sequence)


def bare(topic, text, at, kind="l2update"):
    """Return a message without numbers."""
    payload = b'{"type":"%b","product_id":"%b","text":"%b"}' % (
        kind.encode(), topic.product_id.encode(), str(text).encode())  # fmt: skip
    return Entry(topic, at, payload)


def read_all(reader, topics, after=-1):
    """Return all messages and gaps that follow on ``after``, page by page."""
    messages, gaps = [], []
    while True:
        page = reader.page(topics, after)
        assert page.end >= after
        assert page.end > after or page.is_last
        assert all(after < message.received_us <= page.end for message in page.messages)
        assert all(after < gap.place <= page.end for gap in page.gaps)
        messages += page.messages
        gaps += page.gaps
        if page.is_last:
            return messages, gaps
        after = page.end


def read_all_back(reader, topics, before=NEVER_US):
    """Return all messages and gaps before ``before``, newest first, page by page."""
    messages, gaps = [], []
    while True:
        page = reader.page_before(topics, before)
        assert page.end < before or page.is_last
        assert all(page.end <= message.id < before for message in page.messages)
        assert all(page.end <= gap.place < before for gap in page.gaps)
        messages += page.messages
        gaps += page.gaps
        if page.is_last:
            return messages, gaps
        before = page.end


def steps_of(reader, call):
    """Return how many steps of SQLite's virtual machine ``call`` takes, and its result."""
    steps = []
    reader._connection.set_progress_handler(lambda: steps.append(1), 1)
    try:
        found = call()
    finally:
        reader._connection.set_progress_handler(None, 0)
    return len(steps), found


class Store:
    """One store, with a writer and a reader that are opened when they are wanted."""

    def __init__(self, directory):
        self.directory = directory
        self._writer = self._reader = None

    @property
    def writer(self):
        self._writer = self._writer or Writer(self.directory, NAMES)
        return self._writer

    @property
    def reader(self):
        self._reader = self._reader or Reader(self.directory)
        return self._reader

    @property
    def file(self):
        return self.directory / FILE_NAME

    def reopen(self):
        """Have another writer."""
        self.close_writer()
        return self.writer

    def close_writer(self):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def close(self):
        self.close_writer()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def payloads(self, *topics):
        """Return what is kept of ``topics``, all of it."""
        return [message.payload for message in read_all(self.reader, topics)[0]]

    def gaps(self, *topics):
        """Return the gaps of ``topics``, without their places."""
        return [(g.topic, g.kind, g.first, g.last) for g in read_all(self.reader, topics)[1]]

    def rows(self, statement, *arguments):
        """Ask the database itself."""
        with closing(sqlite3.connect(self.file)) as connection:
            found = connection.execute(statement, arguments).fetchall()
            connection.commit()
        return found


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    store = Store(tmp_path)
    yield store
    store.close()


@pytest.fixture
def full_disk(tmp_path):
    """A store on a disk of 256 KiB, and what fills and clears it."""
    with small_disk(tmp_path / "disk") as disk:
        yield disk.path, disk.fill, disk.clear
