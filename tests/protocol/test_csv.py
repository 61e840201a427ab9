"""CSV: rows have the values of the exchange's messages, unchanged."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.csv import header, lines, payload_of, rows, timed_lines, timed_payload_of
from tests.fakes import make_message, make_row
from tests.recordings import PRO, recording

RECEIVED = "2026-01-31T12:00:00.000001Z"


def read(channel, *messages):
    """Return the rows of ``messages`` as dictionaries, parsed by Python's csv module."""
    for message in messages:
        message.received_us = 1_769_860_800_000_001
    text = (header(channel) + rows(messages)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def message_of(topic, payload):
    return Message(topic, "match", b"", payload)


def test_a_trade_has_a_column_for_each_of_its_keys():
    """Numbers keep their texts, because a price must never become a float."""
    trade = make_message("matches", sequence=7, trade_id=3, price="1.10", size="0.00000001")

    assert read("matches", trade) == [
        {
            "received": RECEIVED,
            "type": "match",
            "product_id": "BTC-USD",
            "trade_id": "3",
            "sequence": "7",
            "time": "",
            "side": "",
            "price": "1.10",
            "size": "0.00000001",
            "maker_order_id": "",
            "taker_order_id": "",
            "more": "",
        }
    ]


@pytest.mark.parametrize("kind", ["match", "ticker"])
def test_all_keys_of_recorded_messages_have_a_column(kind):
    """A real message fits into its columns, and can be rebuilt from them."""
    channel = {"match": "matches"}.get(kind, kind)
    lines = (recording(PRO) / "feed.jsonl").read_bytes().splitlines()
    payloads = [line for line in lines if json.loads(line)["type"] == kind]
    found = read(channel, *(message_of(Topic(channel, ""), payload) for payload in payloads))

    assert len(found) > 50
    for payload, row in zip(payloads, found, strict=True):
        assert row.pop("more") == ""
        del row["received"]
        assert {k: v for k, v in row.items() if v} == {
            k: str(v) for k, v in json.loads(payload).items()
        }


def test_a_key_without_a_column_is_not_lost():
    """The exchange sometimes adds keys."""
    trade = make_message("matches", sequence=7, is_new=True, text='"a","b"\n')

    assert json.loads(read("matches", trade)[0]["more"]) == {"is_new": True, "text": '"a","b"\n'}


def test_a_message_of_another_channel_is_one_cell():
    """Arrays have no keys that could be column names."""
    row = make_row("open", "BTC-USD", 9)

    assert read("level3", row)[0] == {
        "received": RECEIVED,
        "type": "level3",
        "product_id": "BTC-USD",
        "sequence": "9",
        "trade_id": "",
        "message": row.payload.decode(),
    }


@pytest.mark.parametrize("payload", [b"[]", b"nonsense", b"\xff", b'"\xff"', b"[" * 10_000])
def test_a_payload_that_is_not_an_object_is_exported(payload):
    """Every message that was relayed is exported too."""
    assert read("matches", message_of(Topic("matches", "A-B"), payload))[0]["type"]


def cells(text, channel="matches", kind="match"):
    """Return the non-empty cells of one message's row."""
    message = Message(Topic(channel, "BTC-USD"), kind, b"", text.encode())
    (row,) = read(channel, message)
    return {name: cell for name, cell in row.items() if cell and name != "received"}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("true", "true"),
        ("false", "false"),
        ("null", ""),
        ("0.10000000000000000555", "0.10000000000000000555"),
        ("1E+2", "1E+2"),
        ("-0", "-0"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('["a", {"b": null, "n": 1.50}]', '["a",{"b":null,"n":1.50}]'),
        ('{"k":\n[1, "ü"]}', '{"k":[1,"ü"]}'),
        ('"null"', "null"),
        ('"a,\\"b\\"\\r\\nc"', 'a,"b"\r\nc'),
        ('"\\u00fc"', "ü"),
    ],
)
def test_a_value_is_a_text_or_the_json_of_the_exchange(value, cell):
    """Python would write ``True``, ``['a']`` and a rounded price, which the exchange never sent."""
    found = cells(f'{{"price": {value}, "new": {value}}}')

    assert found.get("price", "") == cell
    more = json.loads(found["more"], parse_float=str, parse_int=str)
    assert more == {"new": json.loads(value, parse_float=str, parse_int=str)}


BOOK = '{"type":"snapshot","product_id":"BTC-USD","asks":[["3","1"]],"bids":[["2","4"],["1","5"]]}'
CHANGE = (
    '{"type":"l2update","product_id":"BTC-USD","changes":[["sell","3","0"],["buy","2",4.0]],'
    '"time":"2026-01-31T12:00:00Z","extra":{"a":1}}'
)


@pytest.mark.parametrize("channel", ["level2", "level2_batch"])
def test_a_book_has_a_row_for_each_level(channel):
    """A snapshot is too large for one cell, and a cell of lists is of little use."""
    names = ("type", "time", "side", "price", "size", "more")
    found = [
        tuple(row[name] for name in names)
        for text in (BOOK, CHANGE)
        for row in read(channel, message_of(Topic(channel, "BTC-USD"), text.encode()))
    ]

    time = "2026-01-31T12:00:00Z"
    assert found == [
        ("snapshot", "", "buy", "2", "4", ""),
        ("snapshot", "", "buy", "1", "5", ""),
        ("snapshot", "", "sell", "3", "1", ""),
        ("l2update", time, "sell", "3", "0", '{"extra":{"a":1}}'),
        ("l2update", time, "buy", "2", "4.0", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"snapshot","bids":[],"asks":[]}',
        '{"type":"l2update","changes":[]}',
        '{"type":"l2update","changes":[["buy","1","2","further"]]}',
    ],
)
def test_a_book_without_levels_is_one_row_with_all_its_data(text):
    """No element and no message may be omitted."""
    assert json.loads(cells(text, "level2")["more"]).items() <= json.loads(text).items()
    assert {**json.loads(cells(text, "level2")["more"]), "type": cells(text, "level2")["type"]} == (
        json.loads(text)
    )


@pytest.mark.parametrize(
    ("channel", "text"),
    [
        ("status", json.dumps({"type": "status", "products": ["ü" * 9] * 20_000})),
        ("matches", json.dumps({"type": "match", "price": "1" * 200_000})),
        ("ticker", json.dumps({"type": "ticker", "new": ["1"] * 100_000})),
        ("level2", json.dumps({"type": "snapshot", "bids": ["x" * 70_000]})),
        ("level2", BOOK.replace("]]}", "]]," + '"x":[' + "1," * 70_000 + "1]}")),
    ],
)
def test_a_long_message_continues_in_further_rows(channel, text):
    """Python's csv module refuses cells over 131072 characters; spreadsheets truncate them."""
    kind = json.loads(text)["type"]
    message = Message(Topic(channel, "BTC-USD"), kind, b"", text.encode())
    found = read(channel, message)
    last = list(found[0])[-1]

    assert len(found) > 2
    assert "".join(row[last] for row in found) == text
    assert {tuple(cell for name, cell in row.items() if name != last) for row in found} == {
        tuple(cell for name, cell in found[0].items() if name != last)
    }
    assert (found[0]["type"], found[0]["product_id"]) == (kind, "BTC-USD")


def test_a_last_match_is_written_as_a_match():
    """A client that counts trades by their type must miss none."""
    text = '{"type": "last_match","trade_id":7,"x":"\\"type\\":\\"last_match\\""}'
    message = Message(Topic("matches", "BTC-USD"), "last_match", b"", text.encode())
    expected = text.replace('"type": "last_match"', '"type":"match"')

    assert lines([message]).decode() == f"{expected}\n"
    assert payload_of(message).decode() == expected
    assert read("matches", message)[0]["type"] == "match"


@settings(deadline=None)
@given(st.sampled_from(sorted(BY_TOPIC_CHANNEL)), st.lists(st.dictionaries(st.text(), st.text())))
def test_every_row_has_as_many_cells_as_the_header(channel, objects):
    """A comma, a quote or a line break in a text must not move a column."""
    messages = [message_of(Topic(channel, "A-B"), json.dumps(o).encode()) for o in objects]
    text = (header(channel) + rows(messages)).decode()
    found = list(csv.reader(io.StringIO(text, newline="")))

    assert {len(row) for row in found} == {len(found[0])}
    assert len(found) == len(objects) + 1


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"type":"match" }', b'{"type":"match","received":"%b"}'),
        (b'{"a":"\xff"}', b'{"a":"\xff","received":"%b"}'),
        (b'{"a":[1]}\n', b'{"a":[1],"received":"%b"}'),
        (b"{ }", b'{"received":"%b"}'),
        (b'["open","BTC-USD","1"]', b'["open","BTC-USD","1","%b"]'),
        (b"[]", b'["%b"]'),
        (b'{"cut', b'{"cut'),
        (b"[1}", b"[1}"),
        (b"", b""),
    ],
)
def test_a_receive_time_is_the_last_member(payload, expected):
    """No other byte of the message changes, and JSON stays JSON."""
    message = message_of(Topic("matches", "BTC-USD"), payload)
    message.received_us = 1_769_860_800_000_001

    assert timed_payload_of(message) == expected.replace(b"%b", RECEIVED.encode())
    assert timed_lines([message, message]) == 2 * (timed_payload_of(message) + b"\n")


def test_a_last_match_with_its_receive_time_is_a_match():
    message = make_message("matches", kind="last_match")

    assert json.loads(timed_payload_of(message))["type"] == "match"
