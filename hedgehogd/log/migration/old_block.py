"""Blocks of the old store: consecutive messages of one topic, compressed together.

A block is raw deflate (RFC 1951), primed with typical messages of its channel. It contains the
payloads, each followed by the byte FF, then the places as decimal differences with commas between.
"""

import zlib
from functools import lru_cache
from itertools import accumulate

from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, LEVEL3, MATCHES, TICKER, Topic
from hedgehogd.domain.instant import NEVER_US
from hedgehogd.domain.limits import BLOCK_INFLATED_BYTES_MAX

_RAW = -15  # no header, no checksum
_END = b"\xff"  # after each payload: UTF-8 never contains it (RFC 3629 §3)
_TIME = '"time":"2021-04-17T16:43:37.089723Z"}'
_MATCH = (
    '{"type":"match","trade_id":280232,"maker_order_id":"2a0da34e-61f7-4c36-88e5-c9dd15927b16",'
    '"taker_order_id":"3c82abaa-c01e-4608-be59-6a1e69742891","side":"sell","size":"985",'
    '"price":"0.00001305","product_id":"AAA-BBB","sequence":177100030,' + _TIME
)
_LEVEL2 = (
    '{"type":"snapshot","product_id":"AAA-BBB","asks":[["0.5762","335.0"],["0.57","31"]],"bids":[['
    '{"type":"l2update","product_id":"AAA-BBB","changes":[["buy","0.00001306","0.00000000"],'
    '["sell","0.5762","0"]],' + _TIME + "\xff"
    '{"type":"l2update","product_id":"AAA-BBB","changes":[["sell","0.00001306","0.00000000"]],'
    + _TIME
    + "\xff"
    '{"type":"l2update","product_id":"AAA-BBB","changes":[["buy","'
)
_ORDER = '"order_id":"4eef1226-4b38-422c-a5b1-56def7107f9a",'
_ENDING = (
    '"side":"buy","product_id":"AAA-BBB","time":"2021-04-17T16:43:37.089723Z","sequence":17710}'
)
_FULL = (
    _MATCH + '{"price":"2601.76","order_id":"","type":"change","reason":"STP","new_size":"0.1",'
    '"old_size":"{' + _ORDER + '"order_type":"market","funds":"","client_oid":"",'
    '{"order_id":"26c22ff5-01b1-4ca3-859c-6349d6eb0161","order_type":"limit","size":"0.5",'
    '"price":"2601.76","client_oid":"26c22ff5-01b1-4ca3-859c-6349d6eb0161","type":"received",'
    + _ENDING
    + "\xff"
    '{"price":"2601.76",'
    + _ORDER
    + '"remaining_size":"3.09","type":"open",'
    + _ENDING
    + "\xff{"
    + _ORDER
    + '"reason":"filled","price":"2601.76","remaining_size":"0","type":"done",'
    + _ENDING
    + "\xff{"
    + _ORDER
    + '"reason":"canceled","price":"2601.76","remaining_size":"3.09","type":"done",'
    + _ENDING
    + "\xff{"
)
_TEXTS = {
    MATCHES.topic_channel: _MATCH.replace("match", "last_match", 1) + "\xff" + _MATCH + "\xff",
    TICKER.topic_channel: (
        '{"type":"ticker","sequence":333938798,"product_id":"AAA-BBB","price":"14.7775",'
        '"open_24h":"14.6647","volume_24h":"94381.28000000","low_24h":"14.3691",'
        '"high_24h":"16.55","volume_30d":"2295579.57000000","best_bid":"14.7550",'
        '"best_bid_size":"1.5","best_ask":"14.8060","best_ask_size":"0.5","side":"sell",'
        '"side":"buy","time":"2021-04-17T16:43:30.244075Z","trade_id":881613,'
        '"last_size":"0.04"}\xff{"type":"ticker","sequence":'
    ),
    LEVEL2.topic_channel: _LEVEL2,
    LEVEL2_BATCH.topic_channel: _LEVEL2,
    FULL.topic_channel: _FULL,
    LEVEL3.topic_channel: (
        '["change","AAA-BBB","17710","["match","AAA-BBB","17710","["noop","AAA-BBB","17710",'
        '"2021-04-17T16:43:37.089723Z"]\xff["open","AAA-BBB","17710",'
        '"4eef1226-4b38-422c-a5b1-56def7107f9a","sell","2601.76","0.5",'
        '"2021-04-17T16:43:37.089723Z"]\xff["open","AAA-BBB","17710",'
        '"4eef1226-4b38-422c-a5b1-56def7107f9a","buy","2601.76","0.5",'
        '"2021-04-17T16:43:37.089723Z"]\xff["done","AAA-BBB","17710",'
        '"4eef1226-4b38-422c-a5b1-56def7107f9a","2021-04-17T16:43:37.089723Z"]\xff'
    ),
}
_ANY_TEXT = '{"type":"CCC","product_id":"AAA-BBB","sequence":17710,"last_trade_id":0,' + _TIME


class BadBlock(Exception):
    """Bytes that are not a block; the text says why."""


Stored = tuple[int, bytes]
"""A message: its place in the old store (about when it was received, µs since the epoch), and its
JSON text."""


def unpack(topic: Topic, block: bytes) -> list[Stored]:
    """Return the messages of a block of ``topic``, oldest first.

    Raises:
        BadBlock: ``block`` is not a block of this topic.
    """
    unpacker = zlib.decompressobj(_RAW, zdict=_priming(topic))
    try:
        raw = unpacker.decompress(block, BLOCK_INFLATED_BYTES_MAX)
    except (zlib.error, TypeError) as error:  # a damaged row may have a text for bytes
        raise BadBlock(str(error)) from None
    if not unpacker.eof or unpacker.unused_data:
        raise BadBlock("it does not end where it should")
    *payloads, places = raw.split(_END)
    try:
        sums = list(accumulate(map(int, places.split(b","))))
        messages = list(zip(sums, payloads, strict=True))
    except ValueError:
        raise BadBlock("its places are no numbers, or too few") from None
    if min(sums) < 0 or max(sums) >= NEVER_US:
        raise BadBlock("a place is no time")
    return messages


@lru_cache(4096)
def _priming(topic: Topic) -> bytes:
    text = _TEXTS.get(topic.channel, _ANY_TEXT)
    return (
        text.replace("AAA-BBB", topic.product_id)
        .replace("CCC", topic.channel)
        .encode("latin-1", "replace")
    )
