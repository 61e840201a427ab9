"""Many subscribers of all kinds that reconnect at once after each farewell."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from tests.systemd.reference import CHANNELS, Reference, Topic
from tests.systemd.subscriber import KINDS, BadAnswer, Refused, Subscriber

DETAILS_MAX = 10
OPENING_AT_ONCE = 20
FULL_S = 60.0
PAUSE_AFTER_REFUSAL_S = 0.2
PROBE_EVERY_S = 0.05


@dataclass
class Tally:
    """Faults, counted over the whole run.

    Attributes:
        details: the first faults, as text.
    """

    pairs: int = 0
    failed: int = 0
    refused: int = 0
    five_hundreds: int = 0
    unannounced: int = 0
    details: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep ``text``, up to ``DETAILS_MAX`` texts."""
        if len(self.details) < DETAILS_MAX:
            self.details.append(text.strip())

    def note_refusal(self, error: Refused | BadAnswer) -> None:
        """Count a stream that could not be opened."""
        if isinstance(error, BadAnswer) and error.status >= 500:
            self.five_hundreds += 1
        elif isinstance(error, Refused):
            self.refused += 1
        else:
            self.failed += 1
        self.note(f"not opened: {error}")


@dataclass
class Record:
    """Messages of one stream, from its opening to its end.

    Attributes:
        opened: in seconds of ``trio.current_time``; so is ``ended``.
        received: topic → its messages.
    """

    subscriber: Subscriber
    opened: float = field(default_factory=trio.current_time)
    ended: float = 0.0
    received: dict[Topic, list[bytes]] = field(default_factory=lambda: defaultdict(list))


class Crowd:
    """A number of permanently connected subscribers.

    Attributes:
        records: one for every stream so far.
        farewells: instance → time of each farewell, in seconds of ``trio.current_time``.
    """

    def __init__(self, reference: Reference, tally: Tally, size: int) -> None:
        self.size = size
        self.records: list[Record] = []
        self.farewells: dict[int, list[float]] = defaultdict(list)
        self._reference = reference
        self._tally = tally
        self._open: set[Subscriber] = set()
        self._opening = trio.CapacityLimiter(OPENING_AT_ONCE)

    def balance(self) -> Counter[int]:
        """Return instance → its number of open streams."""
        return Counter(subscriber.instance for subscriber in self._open)

    def start_in(self, nursery: trio.Nursery, *, reconnects: bool = True) -> None:
        """Start all subscribers in ``nursery``; they end on its cancellation or on a farewell."""
        for number in range(self.size):
            nursery.start_soon(self._stay, KINDS[number % len(KINDS)], reconnects)

    async def wait_full(self) -> None:
        """Wait until all have a stream.

        Raises:
            trio.TooSlowError: some do not get one.
        """
        with trio.fail_after(FULL_S):
            while len(self._open) < self.size:
                await trio.sleep(0.05)

    async def _stay(self, kind: str, reconnects: bool) -> None:
        while True:
            try:
                async with self._opening:
                    subscriber = await Subscriber.open(kind, self._reference.pairs, CHANNELS)
            except (Refused, BadAnswer) as error:
                self._tally.note_refusal(error)
                await trio.sleep(PAUSE_AFTER_REFUSAL_S)
                continue
            record = Record(subscriber)
            self.records.append(record)
            self._open.add(subscriber)
            try:
                async with subscriber:
                    await self._read(record)
            finally:
                record.ended = trio.current_time()
                self._open.discard(subscriber)
            self._note_end(subscriber)
            if not reconnects:
                return

    async def _read(self, record: Record) -> None:
        reference = self._reference
        while (messages := await record.subscriber.receive()) is not None:
            for raw in messages:
                try:
                    topic = reference.topic_of(raw)
                except ValueError as error:
                    self._tally.failed += 1
                    self._tally.note(f"{record.subscriber.kind} got {error}")
                    continue
                if topic is not None:
                    record.received[topic].append(reference.known(raw))

    def _note_end(self, subscriber: Subscriber) -> None:
        if missing := subscriber.farewell_missing():
            self._tally.unannounced += 1
            self._tally.note(f"{subscriber.kind} of {subscriber.instance} ended without {missing}")
        else:
            self.farewells[subscriber.instance].append(trio.current_time())

    async def verify(self) -> tuple[int, Sequence[str]]:
        """Return the number of messages of all streams, and their faults.

        Raises:
            trio.TooSlowError: a stream has a message that the reference did not receive.
        """
        faults, count = [], 0
        topics = list(itertools.product(CHANNELS, self._reference.pairs))
        for record, topic in itertools.product(self.records, topics):
            received = record.received[topic]
            count += len(received)
            if received:
                await self._reference.wait_for(received[-1])
            if fault := self._reference.fault(topic, received, (record.opened, record.ended)):
                stream = f"{record.subscriber.kind} of {record.subscriber.instance}"
                faults.append(f"{stream}: {fault}")
        return count, faults


class Probe:
    """Opens one stream after the other, waits for its first trade or price, and closes it.

    Attributes:
        opened: number of opened streams, by instance.
        longest_s: the longest wait for the first message.
    """

    def __init__(self, reference: Reference, tally: Tally) -> None:
        self.opened: Counter[int] = Counter()
        self.longest_s = 0.0
        self._reference = reference
        self._tally = tally

    async def run(self) -> None:
        """Probe until cancelled."""
        number = 0
        while True:
            began = trio.current_time()
            try:
                kind = KINDS[number % len(KINDS)]
                subscriber = await Subscriber.open(kind, self._reference.pairs, CHANNELS)
            except (Refused, BadAnswer) as error:
                self._tally.note_refusal(error)
            else:
                async with subscriber:
                    await self._wait_for_data(subscriber)
            self.longest_s = max(self.longest_s, trio.current_time() - began)
            number += 1
            await trio.sleep(PROBE_EVERY_S)

    async def _wait_for_data(self, subscriber: Subscriber) -> None:
        while (messages := await subscriber.receive()) is not None:
            if any(self._reference.topic_of(raw) for raw in messages):
                self.opened[subscriber.instance] += 1
                return
        # Ended before its first message: the test killed the instance.
