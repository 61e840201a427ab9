"""CSV: what a spreadsheet gets is what the exchange said."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.message import Message
from hedgehogd.protocol.table import header, rows
from tests.fakes import make_message, make_row
from tests.recordings import PRO, recording

RECEIVED = "2026-01-31T12:00:00.000001Z"


def read(channel, *messages):
    """Return rows as dictionaries, as a program that reads CSV gets them."""
    for message in messages:
        message.received_us = 1_769_860_800_000_001
    text = (header(channel) + rows(messages)).decode()
    return list(csv.DictReader(io.StringIO(text, newline="")))


def message_of(topic, payload):
    return Message(topic, "match", b"", payload)


def test_a_trade_has_a_column_for_each_of_its_keys():
    """Numbers stay the texts that they were: no floats for money."""
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
def test_of_the_recording_nothing_is_left_over(kind):
    """A real message fits into its columns, and can be put together from them again."""
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
    """The exchange adds keys now and then."""
    trade = make_message("matches", sequence=7, is_new=True, text='"a","b"\n')

    assert json.loads(read("matches", trade)[0]["more"]) == {"is_new": True, "text": '"a","b"\n'}


def test_other_messages_are_one_cell():
    """Changes to a book have no table's form; arrays have none of their own either."""
    update = make_message("level2", changes=[["buy", "1", "2"]])
    row = make_row("open", "BTC-USD", 9)

    assert read("level2", update)[0]["message"].encode() == update.payload
    assert read("level3", row)[0] == {
        "received": RECEIVED,
        "type": "level3",
        "product_id": "BTC-USD",
        "sequence": "9",
        "trade_id": "",
        "message": row.payload.decode(),
    }


@pytest.mark.parametrize("payload", [b"[]", b"nonsense", b"\xff", b'"\xff"', b"[" * 10_000])
def test_what_is_no_object_stands_where_it_can_be_seen(payload):
    """What was relayed once is exported too."""
    assert read("matches", message_of(Topic("matches", "A-B"), payload))[0]["type"]


@settings(deadline=None)
@given(st.sampled_from(sorted(BY_TOPIC_CHANNEL)), st.lists(st.dictionaries(st.text(), st.text())))
def test_every_row_has_as_many_cells_as_the_header(channel, objects):
    """A comma, a quote or a line break in a text must not move a column."""
    messages = [message_of(Topic(channel, "A-B"), json.dumps(o).encode()) for o in objects]
    text = (header(channel) + rows(messages)).decode()
    found = list(csv.reader(io.StringIO(text, newline="")))

    assert {len(row) for row in found} == {len(found[0])}
    assert len(found) == len(objects) + 1
