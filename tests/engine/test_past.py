"""The port to the past: what its adapters hand over."""

from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.engine.past import PastGap, PastPage, message_of


def test_a_page_is_made_into_bytes_once() -> None:
    """Whoever gets it first leaves what it made of it for the next (``resume``)."""
    gap = PastGap(MATCHES.topic("BTC-USD"), 7, "missing", 3, 4)
    page = PastPage([], [gap], 9, is_last=True, is_sealed=False)

    assert page.shared is None
    page.shared = "bytes"
    assert (page.shared, page.gaps[0].last, page.end) == ("bytes", 4, 9)


def test_a_trade_of_full_is_among_matches_again() -> None:
    """As when it came; whoever has both gets it once."""
    payload = b'{"type":"match","product_id":"BTC-USD","trade_id":3,"sequence":7}'
    full, matches = FULL.topic("BTC-USD"), MATCHES.topic("BTC-USD")

    assert message_of(full, payload).also == matches
    assert message_of(matches, payload, 5).also is None
    assert message_of(matches, payload, 5).received_us == 5
    assert message_of(Topic("full", "BTC-USD"), b"nonsense").type == ""
