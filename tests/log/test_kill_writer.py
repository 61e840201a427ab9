"""The writer's process is killed again and again: messages that another one received are archived.

``KILL_WRITER_KILLS=50`` is the long run, ``KILL_WRITER_SEED`` its seed.

Three instances share a log. The archive is compared with the messages that the exchange sent to a
client of its own.
"""

import os
import re
import secrets
import signal
from collections import Counter
from contextlib import suppress
from random import Random

import msgspec
import pytest
import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapRecord
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError
from tests.cluster.harness import Machine, get, wait_until
from tests.cluster.returning import Witness
from tests.e2e.harness import PATIENCE_S
from tests.log.migration.stores import read_all

pytestmark = pytest.mark.e2e
PAIR = "BTC-USD"
NUMBERED = [Topic(channel, PAIR) for channel in ("full", "matches", "ticker")]
LEVEL2 = Topic("level2", PAIR)
KILLS = int(os.environ.get("KILL_WRITER_KILLS", "8"))
INSTANCES = 3
RATE = 0.2
LIVES_S = 0.8  # a writer is killed after at most this time ...
HAS_ALL_S = 2.5  # ... if another one has had its feed for so long: LEASE_REACH_S, and a start
AGAIN_S = 0.5  # a killed instance is started again after at most this time
_STATE = re.compile(rb'hedgehogd_history_state\{state="(\w+)"\} 1\.0')


class Instances(Machine):
    """Some instances with one log, and an exchange.

    Attributes:
        archive: its directory.
        ready_at: when each running instance had its feed.
    """

    def __init__(self, folder, seed) -> None:
        self.archive = folder / "history"
        flags = ("--pairs", PAIR, "--channels", "ticker,matches,full,level2")
        super().__init__(folder, INSTANCES, *flags, "--history", str(self.archive))
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
        """Wait until an instance writes; return its number."""
        with trio.fail_after(PATIENCE_S):
            while True:
                for number in list(self._processes.keys() - {"exchange"}):
                    with suppress(OSError):
                        metrics = await trio.to_thread.run_sync(get, 9000 + number, "/metrics")
                        if _STATE.search(metrics)[1] == b"writing":
                            return number
                await trio.sleep(0.02)

    async def kill(self, number: int) -> None:
        """Kill an instance once another one has the messages that it may not have appended."""
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
    """A client of the exchange, which keeps the messages of the book, too.

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
    """The book after messages of ``level2``."""

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


def damages(archive) -> list[str]:
    return [finding.text for finding in check(archive, Totals()) if finding.is_damage]


def numbers_of(archive) -> dict[Topic, list[int]]:
    """Return the sequences in the archive by topic; no number may be reported missing."""
    found = {topic: read_all(archive, frozenset({topic})) for topic in NUMBERED}
    gaps = [each for records in found.values() for each in records if isinstance(each, GapRecord)]
    assert gaps == []
    return {
        topic: [each.sequence for each in records if isinstance(each, Message)]
        for topic, records in found.items()
    }


def stretches_of(archive) -> list[list[bytes]]:
    """Return the messages of the book in stretches that each begin with a snapshot."""
    stretches: list[list[bytes]] = []
    for record in read_all(archive, frozenset({LEVEL2})):
        if isinstance(record, Message):
            if record.type == "snapshot":
                stretches.append([])
            stretches[-1].append(record.payload)
    return stretches


def books_compared(found: list[list[bytes]], truth: list[bytes]) -> int:
    """Compare the book at the end of each stretch with that of the exchange at that moment."""
    theirs = Book()
    at = compared = 0
    places = {payload: place for place, payload in enumerate(truth)}
    while len(found[-1]) > 1 and found[-1][-1] not in places:  # the exchange's client left first
        del found[-1][-1]
    for stretch in found:
        ours = Book()
        for payload in stretch:
            ours.follow(payload)
        place = places.get(stretch[-1])
        if place is None:  # an instance made its snapshot, and no change followed
            assert len(stretch) == 1
            continue
        for payload in truth[at : place + 1]:
            theirs.follow(payload)
        at = place + 1
        differ = ours.levels.items() ^ theirs.levels.items()
        assert not differ, sorted(differ)[:8]
        compared += 1
    return compared


async def test_messages_that_an_instance_received_outlive_killed_writers(tmp_path):
    """Each once, without a gap; and each takeover begins the book again."""
    seed = int(os.environ.get("KILL_WRITER_SEED") or secrets.randbits(31))
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when it fails  # noqa: T201
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
                assert await trio.to_thread.run_sync(damages, instances.archive) == []
                nursery.start_soon(instances.live, writer, chance.uniform(0, AGAIN_S))
            await instances.writer()
            until = {topic: n for topic, n in witness.position().items() if topic in NUMBERED}
            with trio.move_on_after(PATIENCE_S):
                while True:
                    await trio.sleep(0.5)
                    with suppress(ArchiveError):  # it is not there yet
                        kept = await trio.to_thread.run_sync(numbers_of, instances.archive)
                        if all(kept[topic][-1:] >= [number] for topic, number in until.items()):
                            break
            nursery.cancel_scope.cancel()
    finally:
        instances.stop()
    assert witness.ended == 0
    for topic, numbers in kept.items():
        truth = [n for n in witness.got[topic] if numbers[0] <= n <= until[topic]]
        assert truth == [n for n in numbers if n <= until[topic]], topic
    found = stretches_of(instances.archive)
    compared = books_compared(found, witness.book)
    counts = Counter({str(topic): len(numbers) for topic, numbers in kept.items()})
    books = f"{compared} of {len(found)} books compared"
    print(f"{dict(killed)} killed, {dict(counts)} archived, {books}")  # noqa: T201

    assert compared > KILLS / 2  # some writers were killed before they had a book
