"""Random schedules on the mock clock: a market, an instance, and subscribers that come and go."""

import json
from random import Random

import trio
from trio.testing import MockClock

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_ALIAS, FULL, MATCHES, Topic
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.position import Start
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape, positions
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.member import Member
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol import notices
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.wire import NDJSON_BARE, SSE, WEBSOCKET
from hedgehogd.streaming.backlog import Backlog
from tests.fakes import make_message
from tests.recovery.returning import BTC, Memory, missing_at, place_now, wall_us

ETH = "ETH-USD"
FORMS = (WEBSOCKET, SSE[True], NDJSON_BARE[True])


class Laggard(Member):
    """A subscriber whose socket takes some bytes now and then, and then no more."""

    def __init__(self, form, random):
        super().__init__()
        self.form, self.random = form, random
        self.session = None
        self.backlog = Backlog(Budget().account(lambda: None))
        self.sent = []  # messages of which something has left
        self.bytes = bytearray()
        self.told, self.ends = [], []
        self._empty = trio.Event()

    def write(self, chunk):
        if not self.ends:
            self.backlog.put(chunk, 0, 0.0)
            self.sent += chunk.messages

    def tell(self, payload):
        self.told.append(json.loads(payload))

    def end(self, code, reason, detail=""):
        self.ends.append((code, reason))
        self.session.close()

    async def wait_written(self):
        while self.backlog and not self.session.is_closed:
            self._empty = trio.Event()
            with trio.move_on_after(1):
                await self._empty.wait()
        await trio.lowlevel.checkpoint()

    def waiting(self):
        return self.backlog.waiting()

    def position(self):
        to = self.backlog.delivered_to()
        return self.session.position(self.served_to if to is None else to)

    def begun(self):
        """Return what has left, the piece in flight included."""
        waits = {id(message) for message in self.backlog.waiting()}
        return [message for message in self.sent if id(message) not in waits]

    async def run(self):
        while not self.session.is_closed:
            data = self.backlog.next()
            if data:
                count = min(len(data), self.random.choice((50, 1000, 100_000)))
                self.bytes += data[:count]
                self.backlog.sent(count)
            else:
                self._empty.set()
            await trio.sleep(self.random.choice((0, 0.001, 0.05)))


class Schedule:
    """One random schedule."""

    def __init__(self, seed):
        self.random = random = Random(seed)
        self.form = random.choice(FORMS)
        self.has_full = random.random() < 0.4
        self.past = Memory(random.choice((0.0, 0.3, 1.0)), random.choice((3, 10, 200)))
        self.said = []  # every message of the market
        self.instance_at = random.choice((0.0, 0.0, random.uniform(1, 8)))
        limits.RESUME_CHUNK_BYTES = random.choice((200, 2000, 64 * 1024))
        limits.RESUME_WINDOW_MESSAGES_MAX = random.choice((2, 8, 64))
        bytes_max = random.choice((3_000, 20_000, 10**7))
        self.is_long = bytes_max == 10**7
        tape = Tape(bytes_max)
        self.pipe = Pipe.build(tape, Demand(linger_s=0), Catalogue(), lambda: 0.0, wall_us)
        self.pipe.resumes.past = self.past
        self.sessions = Sessions()
        self.broker = Broker(self.pipe, self.sessions)
        self.sequences = {BTC: 100, ETH: 7000}
        self.trades = {BTC: 1, ETH: 50}
        channels = random.sample(("ticker", "matches"), random.choice((1, 2)))
        if self.has_full:
            channels.append("full")
        pairs = random.sample((BTC, ETH), random.choice((1, 2)))
        self.topics = {BY_ALIAS[c].topic(p) for c in channels for p in pairs}
        self.command = [ChannelRequest(BY_ALIAS[c], tuple(pairs)) for c in channels]

    def next_batch(self):
        batch = []
        for _ in range(self.random.choice((1, 1, 3, 20))):
            product = self.random.choice((BTC, BTC, ETH))
            batch += self.event(product, is_trade=self.random.random() < 0.3)
        return batch

    def event(self, product, *, is_trade):
        """Return what the exchange says of one event; without ``full`` all are trades."""
        self.sequences[product] += 1 if self.has_full else self.random.choice((1, 1, 1, 5))
        sequence = self.sequences[product]
        if self.has_full and not is_trade:
            return [make_message("full", product, sequence, "open")]
        self.trades[product] += 1
        trade_id, also = self.trades[product], MATCHES.topic(product)
        if self.has_full:
            trade = make_message("full", product, sequence, "match", also, trade_id=trade_id)
        else:
            trade = make_message("matches", product, sequence, trade_id=trade_id)
        return [trade, make_message("ticker", product, sequence)]

    async def market(self):
        while trio.current_time() < 20:
            batch = self.next_batch()
            self.said += batch
            await self.bring(batch)
            await trio.sleep(self.random.choice((0, 0.01, 0.05, 0.4)))
        for product in (BTC, ETH):
            batch = self.event(product, is_trade=True)
            self.said += batch
            await self.bring(batch)

    async def bring(self, batch):
        """The exchange says it to the store's writer and to the instance."""
        for message in batch:
            self.past.keep(message)
        if trio.current_time() >= self.instance_at:
            await self.broker.publish([Delivery(batch)])

    def wants(self, message):
        return message.topic in self.topics or message.also in self.topics

    def somewhere(self):
        """Return a position at which every topic has had something, and where that is."""
        for _ in range(10):
            at = self.random.randint(0, len(self.said))
            position = {}
            for message in self.said[:at]:
                for topic in positions(message):
                    if topic in self.topics:
                        position[topic] = message.sequence
            if position.keys() == self.topics:
                return position, at
        return None, 0

    async def subscriber(self, who):
        """Come, leave anywhere, come back with what is known; in the end all is there, once."""
        random = self.random
        await trio.sleep(self.instance_at + random.uniform(0.5, 3))
        position, at = self.somewhere()
        while position is None:
            await trio.sleep(1)
            position, at = self.somewhere()
        got = []
        while True:
            member = Laggard(self.form, random)
            session = Session(f"1.{who}.{self.random.random()}", member, self.form, self.pipe, 100)
            member.session = session
            self.sessions.add(session)
            starts = {topic: Start(number) for topic, number in position.items()}
            session.apply(Command(True, tuple(self.command), since=starts))
            is_last = trio.current_time() > 14
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.run)
                await trio.sleep(random.choice((0, 0.1, 1, 4)))
                if is_last:
                    await trio.sleep_until(21)
                    while session._catching_up or member.backlog:
                        await trio.sleep(0.1)
                begun = member.begun()
                stated = member.position()
                self.sessions.discard(session)
                nursery.cancel_scope.cancel()
            data = [message for message in begun if message.type != "notice"]
            in_band = [json.loads(m.payload) for m in begun if m.type == "notice"]
            self.hear(who, in_band, member.told)
            assert not member.ends
            got += data
            for message in data:
                for topic in positions(message):
                    if topic in self.topics:
                        position[topic] = max(position.get(topic, 0), message.sequence)
            left = self.pipe.tape._left  # what has left the tape is not claimed to be known
            known = {t: n for t, n in position.items() if t in stated or t not in left}
            missing = [t for t, n in known.items() if not self.is_at(who, t, n, stated.get(t))]
            assert not missing, f"the stream states {stated}, what was sent reaches {position}"
            if is_last:
                break
        self.judge(who, got, [message for message in self.said[at:] if self.wants(message)])

    def hear(self, who, in_band, beside):
        """Nobody is told of a gap, for nothing is missing."""
        gaps = [notice for notice in in_band + beside if notice["type"] == "gap"]
        assert not gaps, gaps

    def is_at(self, who, topic, number, stated):
        """Say whether a position is that of who got ``number`` last."""
        return number == stated

    def judge(self, who, got, expected):
        """All there was has come, once and in order."""
        assert [(m.payload, m.sequence) for m in got] == [(m.payload, m.sequence) for m in expected]

    async def run(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pipe.resumes.run)
            async with trio.open_nursery() as schedule:
                schedule.start_soon(self.market)
                for who in range(3):
                    schedule.start_soon(self.subscriber, who)
            nursery.cancel_scope.cancel()


def is_in(at, outages):
    """Say whether a feed is down at a time."""
    return any(begin <= at < end for begin, end in outages)


class Others:
    """Another instance: it has all there was, but for outages of its own, a little later."""

    def __init__(self, schedule, outages):
        self.schedule, self.outages = schedule, outages

    async def fetch(self, after):
        """Answer as ``Tapes`` would: all, or nothing."""
        await trio.sleep(self.schedule.random.choice((0, 0.02, 0.5)))
        if is_in(trio.current_time(), self.outages):
            return None
        until = trio.current_time() - self.schedule.random.choice((0, 0.1, 1))
        found = []
        for message, at in zip(self.schedule.said, self.schedule.said_at, strict=True):
            for topic in positions(message):
                if at <= until and message.sequence > after.get(topic, 2**62):
                    if is_in(at, self.outages):
                        return None
                    found.append(as_one_of(topic, message))
                    break
        return found


def as_one_of(topic, message):
    """Return a message as who wants ``topic`` is sent it."""
    if message.topic == topic:
        return message
    alike = make_message(*topic, message.sequence, trade_id=message.trade_id)
    alike.payload, alike.frame = message.payload, message.frame
    return alike


class Holed(Schedule):
    """One whose feed stops now and then; what came meanwhile others may have, or nobody."""

    def __init__(self, seed):
        super().__init__(seed)
        random = self.random
        self.form = random.choice(FORMS[:2])  # lines can be told nothing
        self.outages = self.some_outages()
        self.store = random.choice(("whole", "holed", "other", "none"))
        others = random.choice(("whole", "other", "none"))
        outages = {"whole": [], "holed": self.outages, "other": self.some_outages()}
        self.writer_outages = outages.get(self.store, [])
        # A tape shorter than others may be late is gone before they have answered.
        self.is_somewhere = (others == "whole" and self.is_long) or self.store == "whole"
        self.pipe.resumes.past = None if self.store == "none" else self.past
        if others != "none":
            self.pipe.resumes.others = Others(self, outages[others])
        self.said_at = []
        self.is_down = False
        self.count = 0  # of outages, so far
        self.lost = {}  # the outage, by message
        self.fed, self.kept = {}, {}  # the last numbers of the feed and in the store, by topic
        self.broken = set()  # tickers of which the store may lack something
        self.told = [[], [], []]  # gaps, by subscriber
        self.stale = [set(), set(), set()]  # outages

    def some_outages(self):
        outages = []
        for _ in range(self.random.choice((1, 2, 4))):
            begin = self.instance_at + self.random.uniform(0.5, 10)
            outages.append((begin, min(19, begin + self.random.choice((0.05, 0.5, 3)))))
        return outages

    async def bring(self, batch):
        now = trio.current_time()
        self.said_at += [now] * len(batch)
        is_down = is_in(now, self.outages)
        if not is_in(now, self.writer_outages):
            self.past.stopped_us = None
            self.keep(batch)
        else:  # what it says to have written is what it has heard
            self.past.stopped_us = self.past.stopped_us or wall_us()
            self.broken = {topic for topic in self.kept if topic.channel == "ticker"}
        if now < self.instance_at:
            return
        if is_down != self.is_down:
            self.is_down = is_down
            self.count += is_down
            kind = NoticeKind.STALE if is_down else NoticeKind.BACK
            payload = notices.stale(is_stale=is_down, reason=str(self.count))
            await self.broker.publish([Delivery([], [TopicNotice(None, payload, kind)])])
        if is_down:
            self.lost |= {message.payload: self.count for message in batch}
            return
        told, told_at = [], []
        for index, message in enumerate(batch):
            for topic, gap in self.gaps(message, self.fed):
                if topic.channel != "ticker":
                    payload = notices.gap(topic, gap)
                    told.append(TopicNotice(topic, payload, NoticeKind.GAP))
                    told_at.append(index)
        await self.broker.publish([Delivery(batch, told, told_at)])

    def gaps(self, message, last):
        """Yield what is missing before a message, behind the ``last`` of each topic."""
        for topic in positions(message):
            is_trade = topic.channel == "matches"
            number = message.trade_id if is_trade else message.sequence
            before = last.get(topic)
            last[topic] = number
            if before is not None and before + 1 < number:
                yield topic, Gap(before + 1, number - 1)

    def keep(self, batch):
        for message in batch:
            place = max(place_now(), self.past.kept[-1][0] + 1 if self.past.kept else 0)
            for topic, (first, last) in self.gaps(message, self.kept):
                if topic.channel != "ticker" or topic in self.broken:
                    self.past.gaps.append(missing_at(topic, place, first, last))
            self.broken -= {message.topic}
            self.past.keep(message, place + 1)

    def hear(self, who, in_band, beside):
        gaps = [notice for notice in in_band if notice["type"] == "gap"]
        assert not (gaps and self.is_somewhere), gaps
        self.told[who] += [each for each in in_band + beside if each["type"] == "gap"]
        stale = {int(each["reason"]) for each in beside if each["type"] == "stale"}
        self.stale[who] |= stale

    def is_at(self, who, topic, number, stated):
        """What was told to be missing is behind it as well."""
        about = {topic, FULL.topic(topic.product_id)} & self.topics  # full brings trades
        told = [each.get("last_sequence") for each in self.told[who] if named(each) in about]
        return stated == number or any(last and number < stated <= last for last in told)

    def judge(self, who, got, expected):
        """What is not there was told; what is there came once and in its topic's order.

        Of what a topic lacked when its subscriber left it may get some later, behind others.
        """
        missing = []
        for topic in {message.topic for message in expected}:
            rest = (each for each in expected if each.topic == topic)
            for message in got:
                if message.topic != topic:
                    continue
                for each in rest:
                    if each.payload == message.payload:
                        break
                    missing.append(each)
                else:
                    raise AssertionError(f"repeated, or out of order: {message}")
            missing += rest
        for message in missing:
            for topic in self.topics.intersection(positions(message)):
                about = {topic, message.topic} & self.topics  # a gap in full is one in trades
                is_told = any(
                    covers(gap, each, message) for gap in self.told[who] for each in about
                )
                if topic.channel == "ticker":
                    is_told |= self.lost.get(message.payload) in self.stale[who]
                assert is_told, f"nobody told of {message} on {topic}"


def named(gap):
    """Return the topic of a notice."""
    return Topic(gap["channel"], gap["product_id"])


def covers(gap, topic, message):
    """Say whether a notice tells that a message of a topic is missing."""
    if named(gap) != topic:
        return False
    kind = "trade_id" if "first_trade_id" in gap else "sequence"
    first, last = gap[f"first_{kind}"], gap[f"last_{kind}"]
    return (first or 0) <= getattr(message, kind) <= (2**62 if last is None else last)


def first_of(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def run_schedules(make, first, count):
    """Run ``make(seed).run`` for ``count`` seeds from ``first`` on; an error names its seed."""
    for seed in range(first, first + count):
        trio._core._run._r.seed(seed)
        try:
            trio.run(make(seed).run, clock=MockClock(autojump_threshold=0))
        except BaseException as error:  # noqa: BLE001  # whatever it is, its seed is named
            raise AssertionError(f"seed {seed}: {first_of(error)!r}"[:3000]) from first_of(error)
