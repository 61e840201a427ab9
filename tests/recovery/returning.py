"""What the tests of coming back share: a past in memory, and streams that come back to a pipe."""

import json
from copy import copy

import trio

from hedgehogd.arbitration.batch import NoticeKind, TopicNotice
from hedgehogd.domain.channel import BY_ALIAS, FULL, MATCHES, TICKER
from hedgehogd.domain.gap import Gap
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol import notices
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.wire import WEBSOCKET
from hedgehogd.recovery.history_port import (
    PastGap,
    PastPage,
    PastStretch,
    PastStretches,
    PastUnavailable,
)
from tests.fakes import FakeMember, make_message

BTC = "BTC-USD"
EPOCH_US = 1_790_000_000_000_000
ID_OF_TIME_0 = 7 * 10**15  # a place is no time: by so much they differ here


def wall_us():
    return EPOCH_US + int(trio.current_time() * 1e6)


def place_now():
    return wall_us() + ID_OF_TIME_0


def missing_at(topic, place, first, last):
    """Return a gap in what is stored."""
    return PastGap(topic, place, "missing", first, last, place - ID_OF_TIME_0)


def is_of(message, topics):
    return message.topic in topics or message.also in topics


def as_one_of(message, topics):
    """Return a message as an archive does: of its second topic, for a reader of that one alone."""
    if message.topic in topics:
        return message
    found = copy(message)
    found.topic, found.also = message.also, None
    return found


class Memory:
    """A past in memory: what was published, up to ``lag_s`` ago."""

    def __init__(self, lag_s=0.0, page_max=5):
        self.kept = []  # (place, topic, message)
        self.gaps = []
        self.lag_s = lag_s
        self.page_max = page_max
        self.is_down = False
        self.stopped_us = None

    def keep(self, message, place=None):
        place = max(place or place_now(), self.kept[-1][0] + 1 if self.kept else 0)
        kept = copy(message)
        kept.id, kept.received_us = place, place - ID_OF_TIME_0
        kept.published_us = kept.received_us
        self.kept.append((place, kept.topic, kept))

    def _visible(self):
        if self.is_down:
            raise PastUnavailable("the disk is full")
        until = wall_us() - int(self.lag_s * 1e6)
        return [each for each in self.kept if each[2].received_us <= until]

    def keeps(self, topic):
        return True

    async def find(self, topic, sequence):
        await trio.lowlevel.checkpoint()
        found = [
            (place, message.sequence)
            for place, _, message in self._visible()
            if is_of(message, {topic}) and (message.sequence or 2**62) <= sequence
        ]
        return found[-1] if found else None

    async def first_place(self, topic):
        await trio.lowlevel.checkpoint()
        return next((place for place, _, m in self._visible() if is_of(m, {topic})), None)

    async def snapshot_before(self, topic, place):
        await trio.lowlevel.checkpoint()
        found = [m for _, _, m in self._visible() if is_of(m, {topic}) and m.type == "snapshot"]
        return next((m for m in reversed(found) if m.id <= place), None)

    async def find_time(self, received_us):
        await trio.lowlevel.checkpoint()
        kept = self._visible()
        later = [place - 1 for place, _, m in kept if m.received_us >= received_us]
        return later[0] if later else kept[-1][0] if kept else 0

    async def stretches(self, since_us, until_us):
        await trio.lowlevel.checkpoint()
        places = [place for place, _, m in self._visible() if since_us <= m.received_us < until_us]
        found = [PastStretch(min(places) - 1, max(places))] if places else []
        return PastStretches(found, max(places, default=0))

    async def page(self, topics, after, known_to=None, limit=None):
        await trio.lowlevel.checkpoint()
        kept = [m for place, _, m in self._visible() if is_of(m, topics) and place > after]
        part = [as_one_of(message, topics) for message in kept[: self.page_max]]
        end = part[-1].id if part else after
        gaps = [gap for gap in self.gaps if after < gap.place <= end and gap.topic in topics]
        written_to = self.stopped_us or wall_us() - int(self.lag_s * 1e6)
        return PastPage(part, gaps, end, len(part) == len(kept), False, written_to)


MATCH, TICK, ALL = (channel.topic(BTC) for channel in (MATCHES, TICKER, FULL))


class Returner:
    """A pipe on the test's clock, and streams that come back to it."""

    def __init__(self, past=None, bytes_max=10**7):
        tape = Tape(bytes_max)
        self.pipe = Pipe.build(tape, Demand(linger_s=0), Catalogue(), lambda: 0.0, wall_us)
        self.pipe.resumes.past = past
        self.past = past
        self.sessions = Sessions()
        self.broker = Broker(self.pipe, self.sessions)

    async def publish(self, channel, *sequences):
        messages = [make_message(channel, BTC, sequence) for sequence in sequences]
        await self.broker.publish([Delivery(messages)])

    def come(
        self, starts, form=WEBSOCKET, *, is_strict=False, channels=None, pace=None, member=None
    ):
        """Return the member and the session of somebody who comes back."""
        member = member or FakeMember(form)
        session = Session(f"1.{len(self.sessions)}", member, form, self.pipe, 100)
        member.session = session
        self.sessions.add(session)
        channels = channels or sorted({topic.channel for topic in starts})
        requests = tuple(ChannelRequest(BY_ALIAS[name], (BTC,)) for name in channels)
        session.apply(Command(True, requests, since=starts, is_strict=is_strict, pace=pace))
        return member, session


def data(member):
    return [message.sequence for message in member.messages if message.type != "notice"]


def told(member):
    return [json.loads(m.payload) for m in member.messages if m.type == "notice"]


def gap(first, last, channel="matches"):
    return {
        "type": "gap",
        "channel": channel,
        "product_id": BTC,
        "first_sequence": first,
        "last_sequence": last,
    }


def resumed(messages, *topics):
    topics = [str(topic) for topic in topics or (MATCH,)]
    return {"type": "resumed", "topics": topics, "messages": messages}


async def keep(back, *sequences, channel="matches"):
    for sequence in sequences:
        back.past.keep(make_message(channel, BTC, sequence))
        await trio.sleep(0.001)


class Remembering:
    """Another instance, which has the numbers that it is given."""

    def __init__(self, *sequences, channel="matches"):
        self.sequences, self.channel = sequences, channel
        self.asked = []

    async def fetch(self, after):
        await trio.lowlevel.checkpoint()
        self.asked.append(after)
        if any(topic.channel != self.channel for topic in after):
            return None
        return [make_message(*t, n) for n in self.sequences for t in after if after[t] < n]


STALE = TopicNotice(
    frozenset({BTC}),
    notices.stale(is_stale=True, reason="closed", product_ids=[BTC]),
    NoticeKind.STALE,
)
BACK = TopicNotice(
    frozenset({BTC}),
    notices.stale(is_stale=False, reason="back", product_ids=[BTC]),
    NoticeKind.BACK,
)


async def publish(back, topic, *sequences, lacks=None):
    """Publish what came, and before it what is told to be missing."""
    messages = [make_message(*topic, number) for number in sequences]
    missing = [] if lacks is None else [TopicNotice(topic, told_of(topic, *lacks), NoticeKind.GAP)]
    await back.broker.publish([Delivery(messages, missing, [0] * len(missing))])


def told_of(topic, first, last):
    return notices.gap(topic, Gap(first, last))


async def holed(back):
    """1 to 3 came, 4 and 5 did not, 6 and 7 did."""
    await publish(back, ALL, 1, 2, 3)
    await publish(back, ALL, 6, 7, lacks=(4, 5))


def texts(member):
    """Return what was written, in order: numbers, and types of notices."""
    return [m.sequence or json.loads(m.payload)["type"] for m in member.messages]


LOST = gap(4, 5, "full")
