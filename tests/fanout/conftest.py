"""One instance's pipe, with a clock that the test moves and subscribers in memory."""

import pytest

from hedgehogd.domain.channel import BY_ALIAS
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.delivery import Delivery
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.broker import Broker
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.fanout.session import Session
from hedgehogd.fanout.sessions import Sessions
from hedgehogd.protocol.commands import ChannelRequest, Command
from hedgehogd.protocol.wire import WEBSOCKET
from tests.fakes import FakeMember
from tests.recovery.returning import Memory, Returner


def command(*channels, pairs=("BTC-USD",), policy=None, subscribes=True):
    requests = [ChannelRequest(BY_ALIAS[name], tuple(pairs), policy) for name in channels]
    return Command(subscribes, tuple(requests))


class Plumbing:
    """A pipe with a broker, and sessions with fake members."""

    def __init__(self):
        self.now = 0.0
        self.pipe = Pipe.build(Tape(), Demand(linger_s=0), Catalogue(), lambda: self.now)
        self.sessions = Sessions()
        self.broker = Broker(self.pipe, self.sessions)

    def open(self, form=WEBSOCKET, chunks_max=None, topics_max=100):
        """Return a new session and its member."""
        member = FakeMember(form, chunks_max)
        session = Session(f"1.{self.sessions.opened.total()}", member, form, self.pipe, topics_max)
        member.session = session
        self.sessions.add(session)
        return session, member

    def join(self, *channels, pairs=("BTC-USD",), **options):
        """Return a new session that has subscribed, and its member."""
        session, member = self.open(**options)
        session.apply(command(*channels, pairs=pairs))
        return session, member

    async def publish(self, *messages, notices=(), refusals=()):
        await self.broker.publish([Delivery(list(messages), notices, refusals=refusals)])

    @property
    def wanted(self):
        """The topics wanted from upstream, except for heartbeats."""
        wanted = self.pipe.demand.wanted(self.now)
        return sorted(str(topic) for topic in wanted if topic.channel != "heartbeat")


@pytest.fixture
def plumbing():
    return Plumbing()


@pytest.fixture(name="command")
def command_fixture():
    """Make a command: ``command("ticker", pairs=["BTC-USD"], policy=None, subscribes=True)``."""
    return command


@pytest.fixture
async def back(nursery):
    returner = Returner()
    nursery.start_soon(returner.pipe.resumes.run)
    return returner


@pytest.fixture
async def stored(back):
    """The same with a store."""
    back.past = back.pipe.resumes.past = Memory()
    return back
