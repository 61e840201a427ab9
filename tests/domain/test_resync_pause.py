"""The pause between requests of new snapshots for faults that may not be repaired by them."""

from hedgehogd.domain.limits import RESYNC_AGAIN_S, RESYNC_REPAIRED_S
from hedgehogd.domain.resync_pause import ResyncPause


def test_each_pause_is_twice_the_one_before_it_up_to_the_longest():
    """The first request needs none."""
    pause, now, pauses = ResyncPause(), 0.0, []
    for _ in range(8):
        assert pause.is_over(now)
        pause.begin(now)
        assert not pause.is_over(pause.ends_at - 1)
        pauses.append(pause.ends_at - now)
        now = pause.ends_at

    growing = [RESYNC_REPAIRED_S * 2**n for n in range(5)]
    assert pauses == [*growing, RESYNC_AGAIN_S, RESYNC_AGAIN_S, RESYNC_AGAIN_S]
