"""Blocks of the old store: those that its writer made are read."""

import zlib

import pytest

from hedgehogd.domain.channel import CHANNELS, TICKER
from hedgehogd.history.block_codec import Kept, pack
from hedgehogd.log.migration.old_block import BadBlock, unpack

TOPIC = TICKER.topic("BTC-USD")


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_block_of_the_old_writer_is_read(channel):
    """Each channel has its own priming text, with the name of the product in it."""
    for product_id in ("BTC-USD", "Ω-€", ""):
        topic = channel.topic(product_id)
        kept = [Kept(place, b'{"n":%d}' % place) for place in (5, 6, 1_790_000_000_000_000)]
        assert unpack(topic, pack(topic, kept)) == [tuple(each) for each in kept]


def packed(raw):
    packer = zlib.compressobj(8, zlib.DEFLATED, -15)
    return packer.compress(raw) + packer.flush()


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"\xff\xff\xff", "invalid"),
        ("text", "bytes-like"),
        (b"", "does not end"),
        (packed(b"a\xff1") + b"more", "does not end"),
        (packed(b"a\xffb\xff1"), "too few"),
        (packed(b"a\xffx"), "no numbers"),
    ],
)
def test_other_bytes_are_no_block(block, reason):
    """They cost that block alone."""
    with pytest.raises(BadBlock, match=reason):
        unpack(TOPIC, block)
