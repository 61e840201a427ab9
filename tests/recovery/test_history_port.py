"""The port to the past: what its adapters hand over."""

from hedgehogd.domain.channel import FULL, MATCHES, Topic
from hedgehogd.recovery.history_port import PastGap, message_of


def test_a_trade_of_full_is_among_matches_again() -> None:
    """As when it came; whoever has both gets it once."""
    payload = b'{"type":"match","product_id":"BTC-USD","trade_id":3,"sequence":7}'
    full, matches = FULL.topic("BTC-USD"), MATCHES.topic("BTC-USD")

    assert message_of(full, payload).also == matches
    assert message_of(matches, payload).also is None
    assert message_of(matches, payload).id == message_of(matches, payload).received_us == 0
    assert message_of(Topic("full", "BTC-USD"), b"nonsense").type == ""


def test_lost_and_removed_records_have_no_time() -> None:
    """The numbers that no connection delivered are missing from the time of their gap on."""
    kinds = ("missing", "unrecorded", "unreadable", "removed")
    gaps = [PastGap(MATCHES.topic("BTC-USD"), 1, kind, 1, 2, 5) for kind in kinds]

    assert [gap.kind for gap in gaps if gap.is_undated] == list(kinds[1:])
