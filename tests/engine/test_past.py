"""The port to the past: what its adapters hand over."""

from hedgehogd.domain.channel import MATCHES
from hedgehogd.engine.past import PastGap, PastPage


def test_a_page_is_made_into_bytes_once() -> None:
    """Whoever gets it first leaves what it made of it for the next (``resume``)."""
    gap = PastGap(MATCHES.topic("BTC-USD"), 7, "missing", 3, 4)
    page = PastPage([], [gap], 9, is_last=True, is_sealed=False)

    assert page.shared is None
    page.shared = "bytes"
    assert (page.shared, page.gaps[0].last, page.end) == ("bytes", 4, 9)
