"""Whether a load balancer should send subscribers here."""

import pytest

from hedgehogd.domain.channel import FULL, TICKER
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.fanout.instance import Instance
from hedgehogd.protocol.commands import ChannelRequest


def test_readiness_has_a_reason(plumbing):
    """An operator reads the reason before anything else."""
    instance = Instance(1, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth())
    assert instance.readiness() == (True, "idle")

    instance.health.become(FeedState.STALE, "silent: no byte for 10.0 s")
    assert instance.readiness() == (False, "stale: silent: no byte for 10.0 s")

    instance.health.become(FeedState.LIVE)
    instance.is_draining = True
    assert instance.readiness() == (False, "draining")


def test_an_alarm_is_part_of_the_reason(plumbing):
    """A configured topic is refused: the line is live, and the operator has to act."""
    instance = Instance(1, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth())
    instance.health.become(FeedState.LIVE)
    instance.health.alarms["", "full"] = "no key"
    assert instance.readiness() == (True, "live: no key")

    instance.health.become(FeedState.STALE, "silent")
    assert instance.readiness() == (False, "stale: silent; no key")


def test_unavailable_topics_are_refused_before_a_stream_begins(plumbing):
    """A status is clearer than a stream that stays empty."""
    instance = Instance(1, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth())
    plumbing.pipe.catalogue.refuse("NO-USD")
    plumbing.pipe.catalogue.refuse_channel("full", "Failed to subscribe", "")
    instance.check([ChannelRequest(TICKER, ("BTC-USD",))])

    with pytest.raises(SubscriberError, match="NO-USD is not a pair listed here") as pair:
        instance.check([ChannelRequest(TICKER, ("BTC-USD", "NO-USD"))])
    with pytest.raises(SubscriberError, match="Failed to subscribe") as channel:
        instance.check([ChannelRequest(FULL, ("BTC-USD",))])
    assert (pair.value.code, channel.value.code) == ("unknown_pair", "refused_channel")


def test_instances_count_apart(plumbing):
    """Two of them in one process, as tests have, must not share their counters."""
    one, other = (
        Instance(n, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth()) for n in (1, 2)
    )
    one.counts.ends["peer_gone"] += 1

    assert other.counts.ends == {}
