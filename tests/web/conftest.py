"""An instance without a network, and sessions that requests can control."""

import pytest

from hedgehogd.app.daemon import make_instance
from hedgehogd.fanout.member import Member, MemberStatistics
from hedgehogd.fanout.session import Session
from hedgehogd.protocol.wire import NDJSON, SSE, WEBSOCKET
from hedgehogd.settings.keys import Settings


class IdleMember(Member):
    """A subscriber that reads nothing, with a chosen backlog; it records its notices."""

    def __init__(self, waiting_bytes, oldest_s):
        super().__init__()
        self.notices = []
        self._statistics = MemberStatistics(
            delivered=7, skipped=2, waiting_bytes=waiting_bytes, oldest_s=oldest_s
        )

    def write(self, chunk):
        pass

    def tell(self, payload):
        self.notices.append(payload)

    def end(self, code, reason):
        raise AssertionError

    def statistics(self, now):
        return self._statistics


@pytest.fixture
def instance():
    """Instance 1, which serves two pairs only."""
    pairs = ("BTC-USD", "ETH-USD")
    return make_instance(Settings(feed_pairs=pairs, feed_only_pairs=True))


FORMS = {"websocket": WEBSOCKET, "sse": SSE[True], "ndjson": NDJSON[True]}


@pytest.fixture
def open_session(instance):
    """Return a function that opens a session with a chosen id."""

    def open_session(name, kind="websocket", waiting_bytes=0, oldest_s=0.0):
        member = IdleMember(waiting_bytes, oldest_s)
        session = Session(name, member, FORMS[kind], instance.pipe, topics_max=6)
        instance.sessions.add(session)
        return session

    return open_session


@pytest.fixture
def session(open_session):
    """The session ``1.key``."""
    return open_session("1.key", waiting_bytes=100, oldest_s=1.5)
