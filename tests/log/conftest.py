"""A window in a directory of the test's own: its directory, writers, candidates, readers."""

from pathlib import Path

import pytest
import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LeftWindow
from hedgehogd.log.lease import Candidate, Predecessor
from hedgehogd.log.reader import Reader
from hedgehogd.log.window import Window
from hedgehogd.protocol.frames import encode_text
from tests.log.instances import run_at_once

SMALL = Bounds(segment_bytes=4096, window_bytes_max=1 << 20)
NOW_US = 1_700_000_000_000_000


def message(number, size=0, product_id="BTC-USD"):
    """Return a numbered message."""
    payload = b'{"type":"ticker","sequence":%d,"x":"%b"}' % (number, b"x" * size)
    topic = Topic("ticker", product_id)
    return Message(topic, "ticker", encode_text(payload), payload, number, received_us=NOW_US)


def numbers(records):
    """Return the numbers of messages."""
    return [record.sequence for record in records]


def descriptors():
    """Return the number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def damage_page(path, first=16, last=72):
    """Overwrite bytes of a page, by default those of the fixed part; it stays mapped."""
    with path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xee" * (last - first))


class Clock:
    """Clocks that a test moves.

    Attributes:
        wall_us: the time of day, µs since the epoch.
        ns: the monotonic time, in ns.
    """

    def __init__(self):
        self.wall_us = NOW_US
        self.ns = 1_000_000_000

    def pass_s(self, seconds):
        self.wall_us += int(seconds * 1e6)
        self.ns += int(seconds * 1e9)


class Machine:
    """The instances of one test; everything that they open is closed at its end.

    Attributes:
        path: the window's directory.
        clock: the clocks of all of them.
    """

    def __init__(self, path):
        self.path = path
        self.clock = Clock()
        self._open = []

    def keep(self, opened):
        self._open.append(opened)
        return opened

    @property
    def directory(self):
        return self.keep(Directory(self.path))

    def candidate(self, deployment=None, **options):
        clock = self.clock
        options.setdefault("predecessor", Predecessor(deployment))
        return self.keep(Candidate(self.directory, monotonic_ns=lambda: clock.ns, **options))

    def window(self, page, bounds=SMALL):
        clock = self.clock
        return self.keep(
            Window(self.directory, page, lambda: clock.wall_us, bounds, lambda: clock.ns)
        )

    def writer(self, bounds=SMALL, **options):
        """Succeed the current writer, in any state."""
        candidate = self.candidate(**options)
        candidate.look()
        return self.window(candidate.take(), bounds)

    def reader(self):
        return self.keep(Reader(self.directory))

    def close(self, opened):
        self._open.remove(opened)
        opened.close()

    def close_all(self):
        while self._open:
            self._open.pop().close()


def oldest_id(machine):
    """Return the id before the oldest record of a machine's window."""
    try:
        machine.reader().read(0, 1)
    except LeftWindow as error:
        return error.oldest_id
    return 0


@pytest.fixture
def machine(tmp_path):
    """Instances on one machine, and a directory."""
    machine = Machine(tmp_path / "window")
    yield machine
    machine.close_all()


@pytest.fixture(autouse=True)
def threads(request, monkeypatch):
    """Run calls for threads at once: a clock that jumps would jump while they work."""
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(trio.to_thread, "run_sync", run_at_once)
