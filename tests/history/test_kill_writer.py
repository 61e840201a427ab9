"""The instance that writes is killed again and again: what the others received is in the store.

``KILL_WRITER_KILLS=50`` is the long run, ``KILL_WRITER_SEED`` its seed.

Three instances share it; whoever is left goes on where the one before was cut off. What is
kept is compared with what the exchange said to a client of its own.
"""

import os
import re
import secrets
import signal
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from random import Random

import msgspec
import pytest
import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME
from tests.cluster.harness import Machine, get, wait_until
from tests.cluster.returning import Witness
from tests.e2e.harness import PATIENCE_S
from tests.history.conftest import read_all

pytestmark = pytest.mark.e2e
PAIR = "BTC-USD"
NUMBERED = [Topic(channel, PAIR) for channel in ("full", "matches", "ticker")]
LEVEL2 = Topic("level2", PAIR)
KILLS = int(os.environ.get("KILL_WRITER_KILLS", "12"))
INSTANCES = 3
RATE = 0.2
LIVES_S = 0.8  # how long a writer writes, at most, before it is killed ...
HAS_ALL_S = 1.0  # ... if another has had its feed for so long that it has what was not written
AGAIN_S = 0.5  # until a killed one is started again, at most
_STATE = re.compile(rb'hedgehogd_history_state\{state="(\w+)"\} 1\.0')


class Instances(Machine):
    """Some instances with one store, and an exchange; nobody but us asks them anything.

    Attributes:
        store: its directory.
        ready_at: since when each that runs has had its feed.
    """

    def __init__(self, folder, seed) -> None:
        self.store = folder / "history"
        flags = ("--pairs", PAIR, "--channels", "ticker,matches,full,level2")
        super().__init__(folder, INSTANCES, *flags, "--history", str(self.store))
        self.ready_at: dict[int, float] = {}
        self._seed = seed

    def run(self) -> None:
        (self._folder / "run").mkdir(mode=0o700)
        self.start_exchange()

    def start_exchange(self) -> None:
        where = ("--port", str(self._exchange_port), "--seed", str(self._seed))
        self._run("exchange", "simulate", *where, "--rate", str(RATE))
        wait_until(lambda: get(self._exchange_port, "/products"), "the exchange answers")

    @property
    def exchange_port(self) -> int:
        return self._exchange_port

    async def live(self, number: int, after_s: float = 0.0) -> None:
        """Start an instance after a while; return when it has its feed."""
        await trio.sleep(after_s)
        self.start(number)
        await trio.to_thread.run_sync(self.wait_ready, number)
        self.ready_at[number] = trio.current_time()

    async def writer(self) -> int:
        """Return which of those that run writes, as soon as one does."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for number in list(self._processes.keys() - {"exchange"}):
                    with suppress(OSError):
                        said = await trio.to_thread.run_sync(get, 9000 + number, "/metrics")
                        if _STATE.search(said)[1] == b"writing":
                            return number
                await trio.sleep(0.02)

    async def kill(self, number: int) -> None:
        """Kill an instance once another has all that it may not have written."""
        with trio.fail_after(PATIENCE_S):
            while not any(
                other != number and ready_at + HAS_ALL_S < trio.current_time()
                for other, ready_at in self.ready_at.items()
            ):
                await trio.sleep(0.02)
        del self.ready_at[number]
        self.signal(number, signal.SIGKILL)
        await self.end_of(number)


class BookWitness(Witness):
    """A client of the exchange's own, which keeps the book too.

    Attributes:
        book: the messages of ``level2``.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port, [*NUMBERED, LEVEL2])
        self.book: list[bytes] = []

    def _read_notice(self, kind: str, payload: bytes) -> None:
        super()._read_notice(kind, payload)
        if kind in {"snapshot", "l2update"}:
            self.book.append(payload)

    def has_begun(self) -> bool:
        return bool(self.book) and all(self.got[topic] for topic in NUMBERED)


class Book:
    """What messages of ``level2`` come to."""

    def __init__(self) -> None:
        self.levels: dict[tuple[str, float], float] = {}

    def follow(self, payload: bytes) -> None:
        value = msgspec.json.decode(payload)
        if value["type"] == "snapshot":
            sides = {"buy": value["bids"], "sell": value["asks"]}
            self.levels = {
                (side, float(price)): float(size)
                for side, rows in sides.items()
                for price, size in rows
            }
            return
        for side, price, size in value["changes"]:
            if float(size):
                self.levels[side, float(price)] = float(size)
            else:
                self.levels.pop((side, float(price)), None)


def check(store) -> None:
    """See that the file is sound."""
    with closing(sqlite3.connect(f"file:{store / FILE_NAME}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    Reader(store).close()


def numbers_kept(store) -> dict[Topic, list[int]]:
    """Return the numbers of what is kept, by topic, and see that nothing is told to be missing."""
    with closing(Reader(store)) as reader:
        found = {topic: read_all(reader, [topic]) for topic in NUMBERED}
    assert [gap for _, gaps in found.values() for gap in gaps] == []
    return {topic: [m.sequence for m in messages] for topic, (messages, _) in found.items()}


def records(store) -> list[list[bytes]]:
    """Return the records of the book: what stands behind each seam."""
    with closing(Reader(store)) as reader:
        messages, gaps = read_all(reader, [LEVEL2])
    assert {gap.kind for gap in gaps} == {"seam"}
    assert messages[0].received_us > gaps[0].place
    ends = [*(gap.place for gap in gaps[1:]), 2**62]
    return [
        [m.payload for m in messages if gap.place < m.received_us < end]
        for gap, end in zip(gaps, ends, strict=True)
    ]


def books_compared(found: list[list[bytes]], truth: list[bytes]) -> int:
    """Follow each record; see that it comes to what the exchange's book was at that moment."""
    theirs = Book()
    at = compared = 0
    places = {payload: place for place, payload in enumerate(truth)}
    while len(found[-1]) > 1 and found[-1][-1] not in places:  # the exchange's client left first
        del found[-1][-1]
    for record in found:
        assert record, "a record that does not begin"
        assert msgspec.json.decode(record[0])["type"] == "snapshot"
        ours = Book()
        for payload in record:
            ours.follow(payload)
        place = places.get(record[-1])
        if place is None:  # its snapshot was made by us and nothing followed
            assert len(record) == 1
            continue
        for payload in truth[at : place + 1]:
            theirs.follow(payload)
        at = place + 1
        differ = ours.levels.items() ^ theirs.levels.items()
        assert not differ, sorted(differ)[:8]
        compared += 1
    return compared


async def test_what_anybody_received_is_kept_when_the_writer_is_killed(tmp_path):
    """Each once, without a hole; and each takeover begins the book anew."""
    seed = int(os.environ.get("KILL_WRITER_SEED") or secrets.randbits(31))
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when it fails
    chance = Random(seed)
    instances = Instances(tmp_path, seed)
    try:
        instances.run()
        async with trio.open_nursery() as nursery:
            witness = BookWitness(instances.exchange_port)
            nursery.start_soon(witness.run)
            with trio.fail_after(PATIENCE_S):
                while not witness.has_begun():
                    await trio.sleep(0.05)
            for number in instances.numbers:
                nursery.start_soon(instances.live, number)
            killed = Counter()
            for _ in range(KILLS):
                writer = await instances.writer()
                await trio.sleep(chance.uniform(0, LIVES_S))
                await instances.kill(writer)
                killed[writer] += 1
                await trio.to_thread.run_sync(check, instances.store)
                nursery.start_soon(instances.live, writer, chance.uniform(0, AGAIN_S))
            await instances.writer()
            until = {topic: n for topic, n in witness.position().items() if topic in NUMBERED}
            with trio.move_on_after(PATIENCE_S):
                while True:
                    await trio.sleep(0.5)
                    kept = await trio.to_thread.run_sync(numbers_kept, instances.store)
                    if all(kept[topic][-1] >= number for topic, number in until.items()):
                        break
            nursery.cancel_scope.cancel()
    finally:
        instances.stop()
    assert witness.ended == 0
    for topic, numbers in kept.items():
        truth = [n for n in witness.got[topic] if numbers[0] <= n <= until[topic]]
        assert truth == [n for n in numbers if n <= until[topic]], topic
    found = records(instances.store)
    compared = books_compared(found, witness.book)
    counts = Counter({str(topic): len(numbers) for topic, numbers in kept.items()})
    print(f"{dict(killed)} killed, {dict(counts)} kept, {compared} of {len(found)} books compared")  # noqa: T201

    assert compared > KILLS / 2  # some were killed before they had a book
