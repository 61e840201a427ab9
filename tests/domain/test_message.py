"""Heads: the decoded fields of a message, for any input of a peer."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import message
from hedgehogd.domain.limits import SEQUENCE_MAX
from hedgehogd.domain.message import BadMessage, Head, intern_topic, read_head
from tests.recordings import FULL, PRO, recording

DEEP = b"[" * 100_000


@pytest.mark.parametrize("folder", [PRO, FULL])
def test_heads_of_real_messages_equal_their_json(folder):
    """The fast decoder and ``json`` must agree on every recorded message."""
    fields = ("type", "product_id", "sequence", "trade_id")
    for line in recording(f"{folder}/feed.jsonl").read_bytes().splitlines()[:2000]:
        plain = json.loads(line)
        head = read_head(line)
        expected = [plain.get(name, "" if name == "product_id" else None) for name in fields]

        assert expected == [getattr(head, name) for name in fields]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"status"}', Head("status")),
        (b' {"product_id":"BTC-USD", "type" : "ticker"}\n', Head("ticker", "BTC-USD")),
        (b'{"type":"a","type":"b"}', Head("b")),
        (b'{"type":"\\u0074icker"}', Head("ticker")),
        (b'{"type":""}', Head("")),
        (
            b'{"type":"error","message":"Failed to subscribe","reason":"X is delisted"}',
            Head("error", message="Failed to subscribe", reason="X is delisted"),
        ),
        # COINBASE §6.6: both were seen, and neither affects the head.
        (
            b'{"type":"l2update","product_id":"BTC-USD","time":"0001-01-01T00:00:00.000000Z"}',
            Head("l2update", "BTC-USD"),
        ),
        (
            b'{"type":"snapshot","product_id":"YFI-USD","bids":[["0.-10000","1"]],"asks":[]}',
            Head("snapshot", "YFI-USD"),
        ),
    ],
)
def test_a_head_is_decoded_with_any_order_and_white_space(payload, expected):
    """Coinbase has changed its key order twice (COINBASE §6)."""
    assert expected == read_head(payload)


@pytest.mark.parametrize("field", ["sequence", "trade_id", "last_trade_id"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"0", 0),
        (b"135437581854", 135437581854),
        (b"%d" % SEQUENCE_MAX, SEQUENCE_MAX),
        (b"%d" % (SEQUENCE_MAX + 1), None),
        (b"1" + b"0" * 400, None),
        (b"-1", None),
        (b"-9223372036854775809", None),
        (b'"135437581854"', None),
        (b"1.0", None),
        (b"1e3", None),
        (b"true", None),
        (b"null", None),
        (b"[1]", None),
        (b"{}", None),
    ],
)
def test_an_invalid_number_counts_as_absent(field, value, expected):
    """One invalid message must not affect gap detection or positions, nor stop the feed."""
    head = read_head(b'{"type":"match","product_id":"BTC-USD","%b":%b}' % (field.encode(), value))

    assert Head("match", "BTC-USD", **{field: expected}) == head


@pytest.mark.parametrize("number", [0, 7, SEQUENCE_MAX])
def test_an_invalid_field_does_not_affect_other_fields(number):
    """The lenient decoder must return the same values as the strict one."""
    payload = b'{"type":"match","product_id":"BTC-USD","sequence":"7","trade_id":%d}' % number

    assert Head("match", "BTC-USD", trade_id=number) == read_head(payload)


@pytest.mark.parametrize("value", [b"null", b"7", b'{"a":1}', b"[]"])
def test_an_invalid_error_text_counts_as_absent(value):
    """Upstream errors are logged, so they must be texts."""
    assert Head("error") == read_head(b'{"type":"error","message":%b,"reason":%b}' % (value, value))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"\x00",
        b"\xff",
        b"null",
        b"7",
        b'"ticker"',
        b"{}",
        b'{"type":null}',
        b'{"type":5}',
        b'{"type":"ticker"',
        b'{"type":"ticker"}}',
        b'{"type":"ticker"}\x00',
        b"\xef\xbb\xbf{}",
        b'{"type":"ticker","product_id":7}',
        b'{"type":"ticker","product_id":null}',
        b'{"type":"\xff"}',
        b'{"type":"\\ud800"}',
        # arrays that are not level3 messages (COINBASE §6.13)
        b"[]",
        b'["open","BTC-USD"]',
        b'["open",7,"57560479456"]',
        b'[null,"BTC-USD","57560479456"]',
        b'["open","BTC-USD","5"',
        b'["open","\xff","5"]',
        DEEP,
        b'{"type":"x","a":' + DEEP,
        # invalid in one field, so decoded leniently, and invalid again after it
        b'{"type":"x","sequence":"1","product_id":7}',
        b'{"type":"x","sequence":"1","message":"\xff"}',
        b'{"type":"x","sequence":"1","a":' + DEEP,
        b'{"type":"x","sequence":' + DEEP,
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_a_message_without_a_readable_head_is_a_bad_message(payload):
    """With any other exception a peer's input would end the process."""
    with pytest.raises(BadMessage, match=r"\w"):
        read_head(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
heads = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(msgspec.structs.asdict(Head("")), json_values)
)


@settings(deadline=None)
@given(st.binary(max_size=60) | heads.map(json.dumps).map(str.encode) | json_values.map(repr))
def test_any_payload_is_a_head_or_a_bad_message(payload):
    """All code after the decoder relies on the types of a head."""
    try:
        head = read_head(payload if isinstance(payload, bytes) else payload.encode())
    except BadMessage:
        return
    texts = (head.type, head.product_id, head.message, head.reason)
    numbers = (head.sequence, head.trade_id, head.last_trade_id)
    numbers = [n for n in numbers if n is not None]

    assert all(isinstance(text, str) for text in texts)
    assert all(type(n) is int and 0 <= n <= SEQUENCE_MAX for n in numbers)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (
            b'["open","BTC-USD","57560479456","12aca6e0","buy","27268.09","0.02","2023-03-28"]',
            Head("level3", "BTC-USD", 57560479456),
        ),
        (b'["noop","BTC-USD","7"]', Head("level3", "BTC-USD", 7)),
        (b'["noop","BTC-USD","%d"]' % SEQUENCE_MAX, Head("level3", "BTC-USD", SEQUENCE_MAX)),
        (b'["noop","BTC-USD","%d"]' % (SEQUENCE_MAX + 1), Head("level3", "BTC-USD")),
        (b'["noop","BTC-USD","-7"]', Head("level3", "BTC-USD")),
        (b'["noop","BTC-USD",""]', Head("level3", "BTC-USD")),
        (b'["noop","BTC-USD","\\u0663"]', Head("level3", "BTC-USD")),
        (b'["noop","BTC-USD","%b"]' % (b"9" * 5000), Head("level3", "BTC-USD")),
        (b'{"type":"level3","schema":{"noop":["type"]}}', Head("level3")),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_the_head_of_a_level3_array_is_in_its_first_fields(payload, expected):
    """All its fields are texts, the sequence included (COINBASE §6.13)."""
    assert expected == read_head(payload)


def test_topics_are_made_once_until_the_table_is_full(monkeypatch):
    """Interning saves time, and a hostile feed must not make the table grow without limit."""
    monkeypatch.setattr(message, "_topics", {})
    monkeypatch.setattr(message, "TOPICS_MAX", 1)
    kept, other = ("ticker", "BTC-USD"), ("ticker", "ETH-USD")

    assert intern_topic(*kept) is intern_topic(*kept)
    assert intern_topic(*other) == intern_topic(*other)
    assert intern_topic(*other) is not intern_topic(*other)


@pytest.mark.parametrize(
    ("sequence", "number"),
    [("57560479456", 57560479456), ("-1", None), ("1.5", None), ("[]", None)],
)
def test_a_level3_array_is_routed_with_any_further_elements(sequence, number):
    """An unreadable field invalidates the event, but the message is still delivered."""
    head = read_head(f'["open","BTC-USD",{sequence},null,["x"],5]'.encode())

    assert (head.type, head.product_id, head.sequence) == ("level3", "BTC-USD", number)
