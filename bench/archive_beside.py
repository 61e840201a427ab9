"""Retention of an archive beside live delivery, reads and one long reader; a part of ``archive``.

One process, as the daemon: an event loop, which delivers; a thread that appends 2,500 messages a
second and drops the sealed segments, one every few seconds; a thread that reads pages at random
places. A *live* delay is how late the loop runs a task that is due every millisecond; a *read*
delay is the time of one page of 100 records of all topics, with its unpacking; an *append* delay is
the time of the call that drops a segment: appending waits for it. The delays that overlap with such
a call are compared with all other ones.

One more reader has begun to read before and waits, as a slow export does: the files that it holds
are on disk until it closes them.
"""

import random
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import trio

from hedgehogd.domain.limits import THREAD_TURN_S
from hedgehogd.domain.message import Message
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer

BATCH = 625
BATCH_S = 0.25
DROP_S = 3.0  # from one dropped segment to the next
DROPS_MAX = 5
AFTER_S = 0.05  # a delay so soon after a drop is one of the drop
TICK_S = 0.001
Span = tuple[float, float, float]  # begin, end, delay; in s


class Beside:
    """One run; the figures are in ``result`` after ``run``."""

    def __init__(self, directory: Path, deployment: str, messages: list[Message]) -> None:
        self._directory = directory
        self._deployment = deployment
        self._messages = messages
        self._ended = threading.Event()
        self._live: list[Span] = []
        self._reads: list[Span] = []
        self._drops: list[Span] = []
        self._dropped = self._appended = 0
        self._files: dict[str, int] = {}

    async def run(self) -> dict[str, Any]:
        """Run for as long as there are segments to drop."""
        with closing(Reader(self._directory)) as held:
            page = held.read(0, None, 100)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._deliver)
                nursery.start_soon(trio.to_thread.run_sync, self._read)
                await trio.to_thread.run_sync(self._write)
                self._ended.set()
            held_bytes = _removed_and_open(self._directory)
            assert held.read(page.end_id, None, 100).records
        figures: dict[str, Any] = {
            name: {
                "beside": _longest(spans, self._drops, is_beside=True),
                "else": _longest(spans, self._drops, is_beside=False),
            }
            for name, spans in (("live", self._live), ("read", self._reads))
        }
        figures["append"] = {"beside": max(delay for *_, delay in self._drops), "else": None}
        return {
            "delays_s": figures,
            "segments": len(self._drops),
            "dropped": self._dropped,
            "appended": self._appended,
            "held": held_bytes,
            **self._files,
        }

    async def _deliver(self) -> None:
        while not self._ended.is_set():
            due = trio.current_time() + TICK_S
            begin = time.perf_counter()
            await trio.sleep_until(due)
            late = trio.current_time() - due
            self._live.append((begin, time.perf_counter(), late))

    def _read(self) -> None:
        chance = random.Random(7)
        with closing(Reader(self._directory)) as reader:
            first_id, last_id = reader.read(0, None, 1).end_id, reader.last_id()
            while not self._ended.is_set():
                begin = time.perf_counter()
                reader.read(chance.randrange(first_id, last_id), None, 100)
                end = time.perf_counter()
                self._reads.append((begin, end, end - begin))
                time.sleep(0.01)

    def _write(self) -> None:
        with closing(Writer(self._directory, self._deployment)) as writer:
            writer.seal()
            before = writer.size
            begun = dropped_at = time.perf_counter()
            for number, at in enumerate(range(0, len(self._messages) - BATCH, BATCH)):
                time.sleep(max(0.0, begun + number * BATCH_S - time.perf_counter()))
                writer.append(self._messages[at : at + BATCH])
                self._appended += BATCH
                if number % 4 == 0:
                    writer.sync()
                    writer.work()
                if time.perf_counter() < dropped_at + DROP_S:
                    continue
                begin = dropped_at = time.perf_counter()
                row = writer.retain(0, 1e12, 0)
                end = time.perf_counter()
                if row is not None:
                    self._drops.append((begin, end + AFTER_S, end - begin))
                    self._dropped += row.bytes
                if row is None or len(self._drops) == DROPS_MAX:
                    break
            writer.sync()
            files = [path.stat().st_size for path in self._directory.iterdir()]
            self._files = {"files": sum(files), "counted": writer.size, "before": before}


def _removed_and_open(directory: Path) -> int:
    """Return the bytes of the removed files of a directory that this process has open."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the descriptor of this directory
            target = str(path.readlink())
            if target.startswith(str(directory)) and target.endswith(" (deleted)"):
                found += path.stat().st_size
    return found


def _longest(spans: list[Span], drops: list[Span], *, is_beside: bool) -> float | None:
    """Return the longest delay that overlaps with a drop, or with none."""
    found = [
        delay
        for begin, end, delay in spans
        if is_beside
        == any(begin < drop_end and drop_begin < end for drop_begin, drop_end, _ in drops)
    ]
    return max(found, default=None)


def beside(directory: Path, deployment: str, messages: list[Message]) -> dict[str, Any]:
    """Run it; ``messages`` have ids above those of the archive."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(THREAD_TURN_S)
    try:
        return trio.run(Beside(directory, deployment, messages).run)
    finally:
        sys.setswitchinterval(before)
