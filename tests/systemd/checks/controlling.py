"""Streams and REST control through HAProxy, with the stream on any instance."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random

import msgspec
import trio

from tests.systemd.reference import CHANNELS, Topic
from tests.systemd.site import FIRST_PORT, INSTANCES, PAIRS, Site, expect
from tests.systemd.subscriber import KINDS, PUBLIC_PORT, Refused, Subscriber, request

COMMANDS = 1000
PRODUCTS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "BTC-EUR", "DOGE-USD")
CHOICES = ((), ("ticker",), ("matches",), CHANNELS)  # none: the default
STREAMS_MAX = 200
DATA_S = 10.0  # longest wait for the first message of a started topic
IN_FLIGHT_S = 3.0  # a stopped topic's messages may arrive so long after the answer
WATCHED_EVERY = 10


async def every_kind(site: Site) -> str:
    """Each kind of stream gets the exchange's own bytes through HAProxy."""
    first: dict[str, int] = {}
    for kind in KINDS:
        async with await Subscriber.open(kind, PAIRS, CHANNELS) as subscriber:
            count = 0
            with trio.fail_after(DATA_S):
                while count < 5:
                    messages = await subscriber.receive()
                    expect(messages is not None, f"{kind} ended")
                    count += sum(
                        1 for raw in messages or () if site.reference.topic_of(raw) is not None
                    )
            first[kind] = count
    return f"messages {first}"


@dataclass
class Pair:
    """One command for one stream, and its route.

    Attributes:
        watch: True to check the stream's data as well as the answer.
    """

    number: int
    method: str
    product: str
    channels: tuple[str, ...]
    by_header: bool
    port: int
    watch: bool


@dataclass(eq=False)
class Controlled:
    """A stream, its expected subscription, and its messages.

    Attributes:
        wanted: the expected topics, by the test's model.
        stopped: topic → time of the answer that stopped it.
        got: topic → number of messages so far.
        strays: messages received long after their topic was stopped.
    """

    subscriber: Subscriber
    wanted: set[Topic]
    stopped: dict[Topic, float] = field(default_factory=dict)
    got: defaultdict[Topic, int] = field(default_factory=lambda: defaultdict(int))
    strays: list[str] = field(default_factory=list)

    async def read(self, site: Site) -> None:
        """Read until cancelled.

        Raises:
            EOFError: the stream ended.
        """
        while (messages := await self.subscriber.receive()) is not None:
            now = trio.current_time()
            for raw in messages:
                topic = site.reference.topic_of(raw)
                if topic is None or topic[0] not in CHANNELS:
                    continue
                self.got[topic] += 1
                if topic not in self.wanted and now - self.stopped[topic] > IN_FLIGHT_S:
                    self.strays.append(f"{topic} arrives {now - self.stopped[topic]:.1f} s late")
        raise EOFError(f"{self.subscriber.kind} of {self.subscriber.instance} ended")

    async def command(self, pair: Pair) -> str:
        """Send a command; return the fault of its answer or of the data after it."""
        names = pair.channels or CHANNELS
        topics = {(name, pair.product) for name in names}
        target = f"/api/v1/subscribe/{pair.product}"
        query = [f"channels={','.join(pair.channels)}"] if pair.channels else []
        rows: tuple[str, ...] = ()
        if pair.by_header:
            rows = (f"Hedgehog-Session: {self.subscriber.session}",)
        else:
            query.append(f"session={self.subscriber.session}")
        if query:
            target += "?" + "&".join(query)
        fresh = topics - self.wanted
        before = {topic: self.got[topic] for topic in fresh}
        if pair.method == "POST":
            self.wanted |= topics
        status, body = await request(pair.method, target, *rows, port=pair.port)
        if pair.method == "DELETE":
            for topic in topics & self.wanted:
                self.stopped[topic] = trio.current_time()
            self.wanted -= topics
        fault = self._fault_of(status, body)
        if not fault and pair.watch:  # sent to the same instance, owner or not
            target = f"/api/v1/sessions/{self.subscriber.session}"
            fault = self._fault_of(*await request("GET", target, port=pair.port))
        if fault:
            return fault
        if pair.method == "POST" and pair.watch and fresh:
            return await self._wait_for_data(before)
        return ""

    def _fault_of(self, status: int, body: bytes) -> str:
        if status != 200:
            return f"status {status}: {body.decode(errors='replace')[:200]}"
        answer = msgspec.json.decode(body)
        stated = {
            (channel["name"], product)
            for channel in answer["channels"]
            for product in channel["product_ids"]
        }
        if answer["session"] != self.subscriber.session or stated != self.wanted:
            return f"the answer states {sorted(stated)}, expected {sorted(self.wanted)}"
        return ""

    async def _wait_for_data(self, before: dict[Topic, int]) -> str:
        with trio.move_on_after(DATA_S):
            while not all(self.got[topic] > count for topic, count in before.items()):
                await trio.sleep(0.02)
            return ""
        silent = [topic for topic, count in before.items() if self.got[topic] == count]
        return f"started, but without messages: {silent}"


async def thousand_pairs(site: Site) -> str:
    """Each command has exactly its effect and answer, on any instance and for any stream."""
    random = Random(site.seed)
    streams = await _one_of_each()
    queues: dict[tuple[str, int], list[Pair]] = {key: [] for key in sorted(streams)}
    routes: defaultdict[str, int] = defaultdict(int)
    for number in range(COMMANDS):
        key = random.choice(list(queues))
        pair = _draw(random, number, key[1])
        routes["HAProxy" if pair.port == PUBLIC_PORT else "not the owner"] += 1
        queues[key].append(pair)
    async with trio.open_nursery() as readers:
        for controlled in streams.values():
            readers.start_soon(controlled.read, site)
        async with trio.open_nursery() as senders:
            for key, queue in queues.items():
                senders.start_soon(_send_all, site, streams[key], queue)
        await trio.sleep(IN_FLIGHT_S + 1)  # for late messages of the last stopped topic
        readers.cancel_scope.cancel()
    for controlled in streams.values():
        for stray in controlled.strays:
            site.tally.failed += 1
            site.tally.note(stray)
        await controlled.subscriber.aclose()
    expect(site.tally.failed == 0, f"{site.tally.failed} failed (seed {site.seed})")
    return f"seed {site.seed}; {len(streams)} streams; sent to {dict(routes)}"


def _draw(random: Random, number: int, owner: int) -> Pair:
    """Return a random command; HAProxy knows the owner, so half of them must be forwarded."""
    other = random.choice([n for n in INSTANCES if n != owner])
    return Pair(
        number,
        random.choice(("POST", "DELETE")),
        random.choice(PRODUCTS),
        random.choice(CHOICES),
        random.random() < 0.5,
        random.choice((PUBLIC_PORT, FIRST_PORT + other)),
        number % WATCHED_EVERY == 0,
    )


async def _one_of_each() -> dict[tuple[str, int], Controlled]:
    """Return a stream of each kind on each instance."""
    streams: dict[tuple[str, int], Controlled] = {}
    due = len(KINDS) * len(INSTANCES)
    async with AsyncExitStack() as spares:  # kept open, or HAProxy would choose the same instances
        for number in range(STREAMS_MAX):
            # Out of step with HAProxy's choice of instances.
            kind = KINDS[(number + number // len(INSTANCES)) % len(KINDS)]
            subscriber = await Subscriber.open(kind, ("BTC-USD",), ("ticker",))
            key = (kind, subscriber.instance)
            if key in streams:
                await spares.enter_async_context(subscriber)
            else:
                streams[key] = Controlled(subscriber, {("ticker", "BTC-USD")})
            if len(streams) == due:
                return streams
    expect(False, f"no stream of each kind on each instance: {sorted(streams)}")
    return streams


async def _send_all(site: Site, controlled: Controlled, pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        site.tally.pairs += 1
        try:
            fault = await controlled.command(pair)
        except Refused as error:
            site.tally.refused += 1
            fault = str(error)
        if fault:
            site.tally.failed += 1
            owner = controlled.subscriber
            site.tally.note(
                f"{pair.method} {pair.product} {pair.channels} by port {pair.port} "
                f"for {owner.kind} of {owner.instance}: {fault}"
            )
