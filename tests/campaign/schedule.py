"""One random schedule: a world, its subscribers and its faults, all determined by a seed.

Run one or many with ``python -m tests.campaign FIRST_SEED COUNT``. ``PYTHONHASHSEED=0`` and the
seeding of trio's own random generator make each seed reproducible.
"""

import json
from collections import Counter
from random import Random

import trio
from trio.testing import MockClock

from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.limits import RESYNC_REPAIRED_S
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
FAULTS_S = 25.0
CALM_S = 75.0  # covers the longest pause between dials, the longest silence, and resubscribes

fired = Counter()
judged = Counter()


class Schedule:
    """One world, its subscribers and its faults, all determined by a seed."""

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
                nursery.start_soon(self.change_subscribers)
                nursery.start_soon(self.fire_faults)
            await self.settle()
            self.world.facts = Facts(self.world)
            for witness in self.witnesses:
                judge(self.world, witness, self.wanted[witness])
                judged.update(channel for channel, _ in self.wanted[witness])
            fired.update(self.world.faults.fired)

    def join(self, wanted=()):
        channels = self.random.sample(CHANNELS, self.random.randint(1, 5))
        # A client cannot distinguish the messages of the two.
        if "level2" in channels and "level2_batch" in channels:
            channels.remove(self.random.choice(("level2", "level2_batch")))
        pairs = self.random.sample(PRODUCTS, self.random.randint(1, 2))
        if wanted:
            channels, pairs = (sorted(set(names)) for names in zip(*wanted, strict=True))
        witness = self.world.join()
        self.witnesses.append(witness)
        self.wanted[witness] = {(channel, pair) for channel in channels for pair in pairs}
        witness.sent_before = {
            topic: len(self.world.truth.of(*topic)) for topic in self.wanted[witness]
        }
        self.send_command(witness, channels, pairs)

    def send_command(self, witness, channels, pairs, *, subscribes=True):
        requests = tuple(ChannelRequest(BY_ALIAS[name], tuple(pairs)) for name in channels)
        for answer in witness.session.answer(Command(subscribes, requests)):
            if b'"error"' in answer:
                witness.tell(answer)

    async def change_subscribers(self):
        random = self.random
        until = trio.current_time() + FAULTS_S
        while trio.current_time() < until:
            await trio.sleep(random.uniform(0.2, 6.0))
            present = [witness for witness in self.witnesses if not witness.has_left]
            if len(present) < 5 and random.random() < 0.7:
                self.join()
                if random.random() < 0.4:  # a second one soon after, which shares the snapshot
                    await trio.sleep(random.uniform(0.0, 0.9))
                    self.join(self.wanted[self.witnesses[-1]])
            elif len(present) > 1 and random.random() < 0.5:
                self.world.leave(random.choice(present))
            if random.random() < 0.5:
                await self.read_trades(random.choice(PRODUCTS))

    async def read_trades(self, pair):
        """Read the newest trades by REST; the answer must be correct, or an error."""
        path = f"/products/{pair}/trades"
        answer = await self.world.rest.get(path, keeping=lambda answer: 1.0)
        if answer.status == 200:
            ids = [trade["trade_id"] for trade in json.loads(answer.body)]
            assert sorted(ids, reverse=True) == ids

    async def fire_faults(self):
        random = self.random
        for _ in range(random.randint(2, 9)):
            await trio.sleep(random.uniform(0.0, FAULTS_S / 5))
            name = random.choice(list(KINDS))
            pair = random.choice((None, *PRODUCTS))
            self.world.faults.fire(name, random.choice(PARAMS.get(name, (None,))), pair)
            if name == "rest_stale":
                await self.read_trades(pair or random.choice(PRODUCTS))

    async def settle(self):
        """Remove all faults, wait for recovery, then stop the market."""
        faults = self.world.faults
        for fault in faults._lines:
            if isinstance(fault, QuietProduct) and fault._client is not None:
                # Ends with its connection. Otherwise updates of a book would be lost in a pause
                # too short to be silence; the loss of an update without a number goes unnoticed.
                fault._client.reset()
        faults._armed.clear()
        faults._lines.clear()
        await trio.sleep(CALM_S)
        if self.world.awaits_resync:
            # A schedule is so short that only the first pause of a book can be running.
            await trio.sleep(RESYNC_REPAIRED_S)
            assert not self.world.awaits_resync
        self.world.truth.end()
        await trio.sleep(3.0)


def run(seed):
    """Run one schedule.

    Raises:
        Wrong: the relay violated a guarantee; perhaps within exception groups.
    """
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True  # as hypothesis does with trio
    trio._core._run._r.seed(seed)
    trio.run(Schedule(seed).run, clock=MockClock(autojump_threshold=0))
