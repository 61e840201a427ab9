"""The text that primes compression."""

import zlib

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.log.archive.priming import priming

# A changed text makes every archive unreadable: it needs a new version of the format.
SUM = 0x9BD3645E


def test_the_text_names_the_product():
    """So does each message."""
    for channel in BY_TOPIC_CHANNEL:
        assert b"ETH-EUR" in priming(Topic(channel, "ETH-EUR"))
        assert b"AAA-BBB" not in priming(Topic(channel, "ETH-EUR"))


def test_any_topic_has_a_text():
    """Also one that is not in Latin letters, or of an unknown channel."""
    assert b'"type":"new"' in priming(Topic("new", "\u05d0"))


def test_the_text_is_part_of_the_format():
    """It changes with ``files.VERSION`` alone."""
    texts = b"".join(priming(Topic(channel, "BTC-USD")) for channel in sorted(BY_TOPIC_CHANNEL))

    assert SUM == zlib.crc32(texts)
