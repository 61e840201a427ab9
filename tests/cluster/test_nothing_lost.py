"""Two hundred subscribers, and instances that die, stop and start: no subscriber loses a message.

Each reconnects through HAProxy to any instance, with its position. Its messages are compared,
number by number, with those that the exchange sent to a client of its own. ``CLUSTER_ROUNDS=2``
disturbs each instance twice, ``CLUSTER_SEED`` repeats a run.
"""

import os
import secrets
import signal
from collections import Counter
from collections.abc import Iterable
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from hedgehogd.domain.channel import Topic
from tests.cluster.harness import Machine, get, wait_until
from tests.cluster.returning import (
    NdjsonSubscriber,
    SseSubscriber,
    Subscriber,
    WebSocketSubscriber,
    Witness,
    settle,
)
from tests.disks import small_disk
from tests.e2e.harness import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.cluster, pytest.mark.xdist_group("cluster_nothing_lost")]
PAIRS = ("BTC-USD", "ETH-USD")
CHANNELS = ("full", "matches", "ticker")
EVERYTHING = [Topic(channel, pair) for channel in CHANNELS for pair in PAIRS]
INSTANCES = 4
SUBSCRIBERS = 200
ROUNDS = int(os.environ.get("CLUSTER_ROUNDS", "1"))
PATIENT = 0.2  # share of subscribers that stay away for some seconds each time
RATE = 0.12  # of the exchange: about 200 messages a second
AGAIN_S = 1.0  # pause before systemd starts an ended instance (RestartSec=)
GOES_ON_S = 3.0  # time of market after the last fault


class KeepingMachine(Machine):
    """Instances with a shared history, and an exchange with a rate that all can process."""

    @property
    def exchange_port(self) -> int:
        """Port of the exchange."""
        return self._exchange_port

    def start_exchange(self) -> None:
        """Start the simulated exchange."""
        where = ("--port", str(self._exchange_port), "--seed", str(self.seed))
        self._run("exchange", "simulate", *where, "--rate", str(RATE))
        wait_until(lambda: get(self._exchange_port, "/products"), "the exchange answers")

    def readiness(self) -> bytes:
        """Return the answers of all instances to ``/readyz``."""
        return b"".join(get(8000 + number, "/readyz") for number in self.numbers)


@pytest.fixture
def seed():
    """Seed of the subscriptions and of the pauses between streams."""
    return int(os.environ.get("CLUSTER_SEED") or secrets.randbits(31))


@pytest.fixture
def disk(tmp_path):
    """A disk for the history: room for some minutes of the market."""
    with small_disk(tmp_path / "disk", size_kib=16 * 1024) as disk:
        yield disk


@pytest.fixture
def keeping(tmp_path, seed, request):
    """A cluster of its own; its history is on ``disk``, if the test has one."""
    flags = ("--pairs", ",".join(PAIRS), "--channels", ",".join((*CHANNELS, "heartbeat")))
    on_disk = "disk" in request.fixturenames
    history = request.getfixturevalue("disk").path if on_disk else tmp_path / "history"
    flags += ("--history", str(history))
    flags += ("--drain-notice-s", "1.6", "--drain-spread-s", "0.5")
    cluster = KeepingMachine(tmp_path, INSTANCES, *flags)
    cluster.seed = seed
    try:
        cluster.run()
        yield cluster
    finally:
        cluster.stop()


def crowd(port: int, random: Random) -> list[Subscriber]:
    """Return subscribers of all kinds: seven of ten on WebSockets."""
    found: list[Subscriber] = []
    for number in range(SUBSCRIBERS):
        one = Random(random.random())
        make = (SseSubscriber, SseSubscriber, NdjsonSubscriber, *[WebSocketSubscriber] * 7)[
            number % 10
        ]
        pairs = PAIRS if one.random() < 0.5 else (one.choice(PAIRS),)
        channels = one.sample(CHANNELS, one.randint(1, len(CHANNELS)))
        topics = [Topic(channel, pair) for channel in channels for pair in pairs]
        if make is NdjsonSubscriber:
            topics = topics[:1]
        found.append(make(f"{make.form} {number}", port, topics, one))
        found[-1].is_patient = one.random() < PATIENT
    return found


class Market:
    """The subscribers, their witness, and the verdict about both."""

    def __init__(self, seed: int, witness: Witness, subscribers: list[Subscriber]) -> None:
        self._seed = seed
        self._witness = witness
        self._subscribers = subscribers

    def has_begun(self) -> bool:
        """Return whether all have a message of each of their topics."""
        clients = (self._witness, *self._subscribers)
        return all(each.position().keys() == each.topics for each in clients)

    async def wait_until_all_have(self, until: dict[Topic, int]) -> None:
        """Wait until all subscribers have caught up, and those with notices were notified of it."""
        with trio.move_on_after(PATIENCE_S * 2):
            while any(not each.has(until) for each in self._subscribers) or not all(
                each.resumed for each in self._notified
            ):
                await trio.sleep(0.1)

    @property
    def _notified(self) -> list[Subscriber]:
        return [each for each in self._subscribers if not isinstance(each, NdjsonSubscriber)]

    async def assert_nothing_lost(self) -> None:
        """Let the market run, wait until all have caught up, and assert that no message is lost."""
        await trio.sleep(GOES_ON_S)
        until = self._witness.position()
        await self.wait_until_all_have(until)
        late = [each.name for each in self._subscribers if not each.has(until)]
        subscribers = [each for each in self._subscribers if each.name not in late]
        accounts, faults = settle(subscribers, self._witness.got, until)
        counts = {
            "streams": sum(each.streams for each in self._subscribers),
            "ended": sum(each.ended for each in self._subscribers),
            "ended min": min(each.ended for each in self._subscribers),
            "refusals": sum(each.refusals for each in self._subscribers),
            "resumed": sum(each.resumed for each in self._subscribers),
            "by resume": sum(each.by_resume for each in self._subscribers),
            "seconds to catch up": _spread(t for s in self._subscribers for t in s.catch_ups_s),
            "notices": dict(sum((each.notices for each in self._subscribers), Counter())),
        }
        result = f"seed {self._seed}: {accounts}, {counts}"
        print(result)  # noqa: T201  # for runs with -s

        assert self._witness.ended == 0, result
        assert (late, faults[:20]) == ([], []), result
        assert all(accounts[channel].due for channel in CHANNELS), result
        assert counts["ended min"] >= 1, result  # each subscriber lost a stream ...
        assert all(each.resumed for each in self._notified), result  # ... then resumed ...
        assert counts["by resume"] > SUBSCRIBERS, result  # ... and received messages by it


def _spread(values: Iterable[float]) -> str:
    """Return median, 99th percentile and maximum."""
    found = sorted(values)
    places = (len(found) // 2, len(found) * 99 // 100, len(found) - 1)
    return "/".join(f"{found[place]:.2f}" for place in places)


@asynccontextmanager
async def market(cluster, seed):
    """Run a witness and two hundred subscribers; assert at the end that no message is lost."""
    random = Random(seed)
    witness = Witness(cluster.exchange_port, EVERYTHING)
    subscribers = crowd(cluster.port, random)
    market_run = Market(seed, witness, subscribers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(witness.run)
        with trio.fail_after(PATIENCE_S):
            while witness.position().keys() != witness.topics:
                await trio.sleep(0.05)
        for each in subscribers:
            nursery.start_soon(each.run)
        with trio.fail_after(PATIENCE_S * 2):
            while not market_run.has_begun():
                await trio.sleep(0.1)
        yield market_run
        await market_run.assert_nothing_lost()
        nursery.cancel_scope.cancel()


async def restart(cluster, number) -> None:
    """Start an instance again, as systemd does, and wait until HAProxy sends streams there."""

    def wait() -> None:
        cluster.wait_ready(number)
        wait_until(lambda: number in cluster.proxy.up(), f"{number} is up")

    await trio.sleep(AGAIN_S)
    cluster.start(number)
    await trio.to_thread.run_sync(wait)


async def test_nothing_is_lost_when_instances_are_killed(keeping, seed):
    """kill -9, each in turn: no farewell, no flush, half a message in transit."""
    async with market(keeping, seed):
        for number in keeping.numbers * ROUNDS:
            keeping.signal(number, signal.SIGKILL)
            await keeping.end_of(number)
            await restart(keeping, number)


async def test_nothing_is_lost_by_a_rolling_restart(keeping, seed):
    """A deploy: each sends farewells and is ready again before the next one stops."""
    async with market(keeping, seed):
        for number in keeping.numbers * ROUNDS:
            keeping.signal(number, signal.SIGTERM)
            assert await keeping.end_of(number) == 0
            await restart(keeping, number)


async def test_nothing_is_lost_where_the_disk_is_full(disk, keeping, seed):
    """The writer of the log, whichever it is, reports it; delivery and resumes go on.

    The archive has nothing, so subscribers resume from the tape of the last instance, which is
    stopped in order when all other instances run again.
    """
    last, full = keeping.numbers[-1], b"No space left on device"

    def is_full() -> bool:
        return full in keeping.readiness()

    async with market(keeping, seed):
        disk.fill()
        await trio.to_thread.run_sync(wait_until, is_full, "its disk is full")
        for number in keeping.numbers:
            keeping.signal(number, signal.SIGTERM if number == last else signal.SIGKILL)
            await keeping.end_of(number)
            await restart(keeping, number)
            await trio.to_thread.run_sync(wait_until, is_full, "its disk is still full")
        disk.clear()
        await trio.to_thread.run_sync(wait_until, lambda: not is_full(), "it records history again")
