"""Whether a balancer should send subscribers here."""

from hedgehogd.engine.health import FeedHealth, FeedState
from hedgehogd.engine.instance import Instance


def test_readiness_says_why(plumbing):
    """An operator reads the reason before anything else."""
    instance = Instance(1, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth())
    assert instance.readiness() == (True, "idle")

    instance.health.become(FeedState.STALE, 1.0, "silent: no byte for 10.0 s")
    assert instance.readiness() == (False, "stale: silent: no byte for 10.0 s")

    instance.health.become(FeedState.LIVE, 2.0)
    instance.is_draining = True
    assert instance.readiness() == (False, "draining")


def test_instances_count_apart(plumbing):
    """Two of them in one process, as tests have, must not share their counters."""
    one, other = (
        Instance(n, plumbing.pipe, plumbing.sessions, plumbing.broker, FeedHealth()) for n in (1, 2)
    )
    one.counts.ends["peer_gone"] += 1

    assert other.counts.ends == {}
