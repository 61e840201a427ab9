"""Blocks of the old store: those that its writer made are read."""

import base64
import json
import lzma
import zlib
from pathlib import Path

import pytest

from hedgehogd.domain.channel import CHANNELS, TICKER, Topic
from hedgehogd.log.migration.old_block import _TEXTS, BadBlock, unpack

TOPIC = TICKER.topic("BTC-USD")
WRITTEN = json.loads(
    lzma.decompress((Path(__file__).parent / "written" / "blocks.json.xz").read_bytes())
)
"""Blocks made by the former writer, and their messages: of each channel, of several products. The
messages of a block are its priming text, so that each byte of that text is needed to read it."""


@pytest.mark.parametrize("written", WRITTEN, ids=[f"{row[0]}:{row[1]}" for row in WRITTEN])
def test_a_block_of_the_old_writer_is_read(written):
    """Each channel has its own priming text, with the name of the product in it."""
    *topic, block, messages = written
    found = unpack(Topic(*topic), base64.b85decode(block))

    assert [[place, payload.decode()] for place, payload in found] == messages


def test_a_block_of_each_priming_text_is_read():
    """The rest has a common one."""
    channels = {channel for channel, *_ in WRITTEN}

    assert _TEXTS.keys() < channels <= {each.topic_channel for each in CHANNELS}


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
        (packed(b"a\xff-1"), "no time"),
        (packed(b"a\xff%d" % 2**62), "no time"),
    ],
)
def test_other_bytes_are_no_block(block, reason):
    """They cost that block alone."""
    with pytest.raises(BadBlock, match=reason):
        unpack(TOPIC, block)
