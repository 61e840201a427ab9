"""Markers: records that are not messages."""

import pytest

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.record import FeedRecord, GapKind, GapRecord, RefusalRecord, TradeRecord
from hedgehogd.log.archive import markers
from hedgehogd.log.archive.errors import DamagedArchive

TOPIC = MATCHES.topic("BTC-USD")
ALL = [
    GapRecord(TOPIC, GapKind.UNRECORDED, None, None, 1, 2),
    TradeRecord(TOPIC, 5, b"\x00{}", 1, 2, 3),
    RefusalRecord(Topic("", "BTC-USD"), "no", "", 7, 3, 4),
    FeedRecord("begun", "text", ("BTC-USD",), 4, 5),
]


def test_markers_are_read_as_written():
    """All kinds, all fields."""
    assert ALL == markers.unpack(markers.pack(ALL))


@pytest.mark.parametrize("data", [b"", b"x", markers.pack(ALL)[:-1], markers.pack([])[::-1]])
def test_other_bytes_are_refused(data):
    """By one error."""
    with pytest.raises(DamagedArchive):
        markers.unpack(data)


@pytest.mark.parametrize(
    ("marker", "topic", "expected"),
    [
        (ALL[0], TOPIC, True),
        (ALL[0], Topic("ticker", "BTC-USD"), False),
        (ALL[1], TOPIC, True),
        (ALL[2], Topic("ticker", "BTC-USD"), True),
        (ALL[2], Topic("ticker", "ETH-USD"), False),
        (RefusalRecord(Topic("full", "")), Topic("full", "ETH-USD"), True),
        (RefusalRecord(Topic("full", "")), Topic("ticker", "ETH-USD"), False),
        (ALL[3], Topic("ticker", "BTC-USD"), True),
        (ALL[3], Topic("ticker", "ETH-USD"), False),
        (FeedRecord("live"), Topic("ticker", "ETH-USD"), True),
    ],
)
def test_a_reader_receives_what_concerns_its_topics(marker, topic, expected):
    """A reader of all topics receives all."""
    assert expected == markers.concerns(marker, frozenset({topic}))
    assert markers.concerns(marker, None)
