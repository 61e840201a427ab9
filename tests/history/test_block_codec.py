"""Blocks: what is packed is unpacked byte for byte, small, and nothing else is taken for one."""

import contextlib
import json
import zlib
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.history import block_codec as block_module
from hedgehogd.history.block_codec import BadBlock, Kept, pack, unpack
from tests.recordings import PRO, recording

PLACE = 1_618_677_817_089_723
MATCHES = Topic("matches", "BTC-USD")

product_ids = st.sampled_from(["", "BTC-USD", "AAA-BBB", "CCC", "é", "日本", "\xff"]) | st.text()
topics = st.builds(Topic, st.sampled_from(sorted(BY_TOPIC_CHANNEL)) | st.text(), product_ids)
payloads = st.text().map(str.encode) | st.sampled_from(
    [b"", b"{}", b",", b"1,2", '"\x00\x7fÿ"'.encode(), b'{"type":"match","product_id":"BTC-USD"}']
)


@st.composite
def rows(draw):
    """Return messages whose places rise, from anywhere."""
    texts = draw(st.lists(payloads, min_size=1, max_size=20))
    place = draw(st.integers(-(2**40), 2**62))
    kept = []
    for text in texts:
        kept.append(Kept(place, text))
        place += draw(st.integers(1, 2**40))
    return kept


def deflate(raw, topic=MATCHES):
    packer = zlib.compressobj(6, zlib.DEFLATED, -15, zdict=block_module._look(topic))
    return packer.compress(raw) + packer.flush()


A_BLOCK = pack(MATCHES, [Kept(PLACE + n, b'{"type":"match","trade_id":%d}' % n) for n in range(9)])


@given(topics, rows())
@example(Topic("matches", "x" * 70_000), [Kept(0, b"{}")])
def test_what_is_unpacked_is_what_was_packed(topic, kept):
    """Raw is sacred: whatever upstream calls its products and writes into its messages."""
    assert kept == unpack(topic, pack(topic, kept))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{}",
        b"\xff",
        b"{}\xff",
        b"{}\xffx",
        b"{}\xff1,2",
        b"{}\xff{}\xff1",
        b"{}\xff1,",
        b"{}\xff1.5",
        b"{}\xff" + b"9" * 5000,
        b"\xff\xff\xff\xff",
        b"{}\xff\xe9",
    ],
)
def test_places_have_to_be_numbers_one_each(raw):
    """A payload under another one's place would be a message that nobody sent then."""
    with pytest.raises(BadBlock, match="places"):
        unpack(MATCHES, deflate(raw))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not end"),
        (b"\xff\xff\xff", "invalid"),
        (b"SQLite format 3\x00", "invalid|does not end"),
        (zlib.compress(b"{}\xff1"), "invalid|does not end"),  # with a header
        (A_BLOCK + b"\x00", "does not end"),
        (A_BLOCK + A_BLOCK, "does not end"),
    ],
)
def test_other_bytes_are_no_block(data, reason):
    """A store that was damaged says so, instead of telling something that never was."""
    with pytest.raises(BadBlock, match=reason):
        unpack(MATCHES, data)


@pytest.mark.parametrize("length", range(len(A_BLOCK)))
def test_a_block_that_is_cut_is_none(length):
    """Wherever a disk stopped writing."""
    with pytest.raises(BadBlock):
        unpack(MATCHES, A_BLOCK[:length])


@given(st.data())
def test_a_damaged_block_is_bad_or_at_least_whole(data):
    """There is no checksum; but nothing in it can hurt whoever reads it."""
    damaged = bytearray(A_BLOCK)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        found = unpack(MATCHES, bytes(damaged))
    except BadBlock:
        return
    assert all(type(each.place) is int and type(each.payload) is bytes for each in found)


@given(st.binary(max_size=300), topics)
def test_noise_is_refused_or_read_and_nothing_else(noise, topic):
    """The reader knows one error for what is on the disk."""
    with contextlib.suppress(BadBlock):
        unpack(topic, noise)


def test_another_topics_block_is_not_silently_that_ones():
    """What its messages look like is not what these look like."""
    kept = [Kept(PLACE, b'{"type":"match","trade_id":280232,"maker_order_id":""}')]
    try:
        found = unpack(Topic("ticker", "ETH-EUR"), pack(MATCHES, kept))
    except BadBlock:
        found = []
    assert kept != found


def test_a_block_cannot_inflate_without_end(monkeypatch):
    """A damaged one may claim gigabytes."""
    monkeypatch.setattr(block_module, "BLOCK_INFLATED_BYTES_MAX", 1000)
    fits, bomb = deflate(b"x" * 997 + b"\xff10"), deflate(b"x" * 998 + b"\xff10")

    assert unpack(MATCHES, fits) == [Kept(10, b"x" * 997)]
    with pytest.raises(BadBlock, match="does not end"):
        unpack(MATCHES, bomb)


def test_a_short_block_is_small_too():
    """Quiet products have one message in ten seconds; alone it would hardly shrink."""
    payload = (
        b'{"type":"match","trade_id":41,"maker_order_id":"1b4e28ba-2fa1-41d2-883f-0016d3cca427",'
        b'"taker_order_id":"6fa459ea-ee8a-4ca4-894e-db77e160355e","side":"buy","size":"1.5",'
        b'"price":"2.50","product_id":"ETH-EUR","sequence":5,"time":"2026-01-31T12:00:00.000000Z"}'
    )
    block = pack(Topic("matches", "ETH-EUR"), [Kept(PLACE, payload)])

    assert len(block) * 2 < len(payload)
    assert len(block) * 3 < len(zlib.compress(payload)) * 2


CHANNELS = {"match": "matches", "last_match": "matches", "ticker": "ticker", "l2update": "level2",
    "snapshot": "level2"}  # fmt: skip


def sealed_blocks():
    """Yield what the recording's messages come to in their own rhythm, topic by topic."""
    folder = recording(PRO)
    lines = (folder / "feed.jsonl").read_bytes().splitlines()
    times = (folder / "feed.recv_ts.txt").read_text().split()
    running: dict[Topic, list[Kept]] = {}
    for line, time in zip(lines, times, strict=True):
        head = json.loads(line)
        if head["type"] not in CHANNELS:
            continue
        topic, place = Topic(CHANNELS[head["type"]], head["product_id"]), int(float(time) * 1e6)
        kept = running.setdefault(topic, [])
        is_old = kept and place - kept[0].place >= limits.BLOCK_AGE_S * 1e6
        if is_old or sum(len(each.payload) for each in kept) >= limits.BLOCK_BYTES:
            yield topic, kept
            kept = running[topic] = []
        kept.append(Kept(place, line))
    yield from running.items()


def test_the_recording_shrinks_as_promised():
    """History for a week has to fit on a small disk, block by block and not in one piece."""
    plain, packed = Counter(), Counter()
    for topic, kept in sealed_blocks():
        block = pack(topic, kept)
        assert kept == unpack(topic, block)
        plain[topic.channel] += sum(len(each.payload) for each in kept)
        packed[topic.channel] += len(block)
    ratio = {channel: plain[channel] / packed[channel] for channel in plain}

    assert ratio["matches"] >= 3.5
    assert ratio["ticker"] >= 3.5
    assert ratio["level2"] >= 8.0
