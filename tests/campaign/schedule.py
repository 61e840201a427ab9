"""One random schedule: a world, its subscribers, and what goes wrong, all decided by a seed.

Run it alone, or many: ``python -m tests.campaign FIRST_SEED COUNT``, with ``PYTHONHASHSEED=0``
and trio's own dice seeded, so that a seed always plays the same.
"""

import json
from collections import Counter
from random import Random

import trio
from trio.testing import MockClock

from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.simulator.faults import KINDS
from hedgehogd.simulator.faults.lines import QuietProduct
from tests.campaign.oracle import Facts, judge
from tests.campaign.world import PRODUCTS, World

CHANNELS = (
    "ticker", "matches", "level2", "level2_batch", "full", "level3", "heartbeat", "ticker_batch",
    "status",
)  # fmt: skip
PARAMS = {
    "silence": ("12", "40"),
    "close": ("1000", "1001", "1006", "1008", "1011", "1012"),
    "http": ("429", "500", "502x2", "503"),
    "big_snapshot": ("200000",),
    "slow_drip": ("400",),
    "garbage": ("extra", "truncated"),
    "sequence_gap": ("1", "3"),
    "trade_gap": ("1", "4"),
    "trade_gap_everywhere": ("1", "5"),
    "rest_error": ("500", "503x2", "429"),
    "rest_stale": ("20",),
    "rest_slow": ("2",),
}
TROUBLE_S = 25.0
CALM_S = 75.0  # the longest pause between dials, the longest silence, renewals

fired = Counter()
met = Counter()


class Schedule:
    """One world, its subscribers and its faults, all of it decided by a seed."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        require_auth = random.random() < 0.3
        self.world = World(
            seed,
            lines=random.choice((1, 1, 2)),
            require_auth=require_auth,
            has_key=require_auth and random.random() < 0.5,
        )
        self.witnesses = []
        self.wanted = {}

    async def run(self):
        async with self.world.running():
            for _ in range(self.random.randint(1, 3)):
                self.join()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.come_and_go)
                nursery.start_soon(self.make_trouble)
            await self.settle()
            self.world.facts = Facts(self.world)
            for witness in self.witnesses:
                judge(self.world, witness, self.wanted[witness])
                met.update(channel for channel, _ in self.wanted[witness])
            fired.update(self.world.faults.fired)

    def join(self, wanted=()):
        channels = self.random.sample(CHANNELS, self.random.randint(1, 5))
        if "level2" in channels and "level2_batch" in channels:  # no client can tell them apart
            channels.remove(self.random.choice(("level2", "level2_batch")))
        pairs = self.random.sample(PRODUCTS, self.random.randint(1, 2))
        if wanted:
            channels, pairs = (sorted(set(names)) for names in zip(*wanted, strict=True))
        witness = self.world.join()
        self.witnesses.append(witness)
        self.wanted[witness] = {(channel, pair) for channel in channels for pair in pairs}
        witness.said_before = {
            topic: len(self.world.truth.of(*topic)) for topic in self.wanted[witness]
        }
        self.say(witness, channels, pairs)

    def say(self, witness, channels, pairs, *, subscribes=True):
        requests = tuple(ChannelRequest(BY_ALIAS[name], tuple(pairs)) for name in channels)
        for answer in witness.session.answer(Command(subscribes, requests)):
            if b'"error"' in answer:
                witness.tell(answer)

    async def come_and_go(self):
        random = self.random
        until = trio.current_time() + TROUBLE_S
        while trio.current_time() < until:
            await trio.sleep(random.uniform(0.2, 6.0))
            present = [witness for witness in self.witnesses if not witness.has_left]
            if len(present) < 5 and random.random() < 0.7:
                self.join()
                if random.random() < 0.4:  # another comes soon for the same, and shares its state
                    await trio.sleep(random.uniform(0.0, 0.9))
                    self.join(self.wanted[self.witnesses[-1]])
            elif len(present) > 1 and random.random() < 0.5:
                self.world.leave(random.choice(present))
            if random.random() < 0.5:
                await self.read_trades(random.choice(PRODUCTS))

    async def read_trades(self, pair):
        """Somebody reads the newest trades by REST; what comes is true, or an error."""
        path = f"/products/{pair}/trades"
        answer = await self.world.rest.get(path, keeping=lambda answer: 1.0)
        if answer.status == 200:
            ids = [trade["trade_id"] for trade in json.loads(answer.body)]
            assert sorted(ids, reverse=True) == ids

    async def make_trouble(self):
        random = self.random
        for _ in range(random.randint(2, 9)):
            await trio.sleep(random.uniform(0.0, TROUBLE_S / 5))
            name = random.choice(list(KINDS))
            pair = random.choice((None, *PRODUCTS))
            self.world.faults.fire(name, random.choice(PARAMS.get(name, (None,))), pair)
            if name == "rest_stale":
                await self.read_trades(pair or random.choice(PRODUCTS))

    async def settle(self):
        """No more faults; time for everything to come back; then the market stands still."""
        faults = self.world.faults
        for fault in faults._lines:
            if isinstance(fault, QuietProduct) and fault._client is not None:
                # It ends with its connection. Otherwise changes to a book would be lost in a
                # pause too short to be silence, and nobody can miss what has no number.
                fault._client.reset()
        faults._armed.clear()
        faults._lines.clear()
        await trio.sleep(CALM_S)
        self.world.truth.end()
        await trio.sleep(3.0)


def run(seed):
    """Run one schedule.

    Raises:
        Wrong: the relay broke a promise; perhaps within exception groups.
    """
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # as hypothesis does with trio
    trio._core._run._r.seed(seed)
    trio.run(Schedule(seed).run, clock=MockClock(autojump_threshold=0))
