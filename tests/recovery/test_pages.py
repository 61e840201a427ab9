"""Pages of what is not live: cut into parts, with notices in their places, shared as bytes."""

import json

import pytest

from hedgehogd.domain import limits
from hedgehogd.protocol.wire import SSE, WEBSOCKET
from hedgehogd.recovery.history_port import BackfilledTrade, PastPage
from hedgehogd.recovery.pages import Page, cut, in_band, with_gaps
from tests.fakes import make_message
from tests.recovery.returning import MATCH, TICK, missing_at


def trade(sequence, at=0):
    message = make_message("matches", sequence=sequence)
    message.id, message.received_us = at, at + 1000
    return message


@pytest.mark.parametrize(("size", "parts"), [(1, 5), (100, 3), (10**6, 1)])
def test_parts_are_whole_messages_and_together_all_of_them(monkeypatch, size, parts):
    """Each is written before the next is given."""
    monkeypatch.setattr(limits, "RESUME_CHUNK_BYTES", size)
    messages = [trade(n) for n in range(10, 15)]
    found = list(cut(messages))

    assert [each for part in found for each in part] == messages
    assert len(found) == parts
    assert list(cut([])) == []


def test_bytes_are_made_once_for_each_form():
    """A thousand get them."""
    page = Page([trade(5), in_band(MATCH, b"{}"), trade(7)])

    assert page.parts(WEBSOCKET) is page.parts(WEBSOCKET)
    [(part, chunk)] = page.parts(SSE[False])
    assert chunk.data.count(b"event: hedgehogd") == 1
    assert (page.first, page.last) == (part.first, part.last) == ({MATCH: 5}, {MATCH: 7})
    assert (part.count, part.messages) == (2, page.messages)


def test_gaps_stand_where_they_are():
    """Between the messages before and after them."""
    gaps = [missing_at(MATCH, 15, 8, 9)]
    page = PastPage([trade(1, 10), trade(2, 20)], gaps, 20, is_last=True, is_sealed=True)

    assert [m.type for m in with_gaps(page)] == ["match", "notice", "match"]
    page.gaps = []
    assert with_gaps(page) is page.messages


def backfilled(trade_id, at):
    return BackfilledTrade(
        MATCH, "match", b"", b"{}", trade_id=trade_id, received_us=at + 1000, id=at
    )


def test_backfilled_trades_and_the_gaps_between_them_are_in_the_order_of_trade_ids():
    """They have one place, before the message that follows the gap."""
    gaps = [missing_at(MATCH, 15, first, last) for first, last in ((4, 4), (6, 7))]
    messages = [trade(10, 10), backfilled(5, 15), backfilled(8, 15), trade(29, 15), trade(30, 20)]
    page = PastPage(messages, gaps, 20, is_last=True, is_sealed=True)

    found = with_gaps(page)
    assert [m.trade_id or m.sequence or "gap" for m in found] == [10, "gap", 5, "gap", 8, 29, 30]
    assert [m.up_to for m in found[1:5]] == [28] * 4
    page.gaps = []
    assert with_gaps(page) is page.messages
    assert (
        with_gaps(PastPage([backfilled(5, 15)], [], 20, is_last=True, is_sealed=True))[0].up_to
        is None
    )


@pytest.mark.parametrize(("first", "last"), [(None, None), (4, None), (None, 4)])
def test_a_gap_of_unknown_extent_is_told_too(first, last):
    """Damaged bytes name no numbers; it ends before the next sequence."""
    gaps = [missing_at(TICK, 15, first, last)]
    next_one = make_message("ticker", sequence=30)
    next_one.id = 20
    page = PastPage([trade(28, 16), next_one], gaps, 20, is_last=True, is_sealed=True)

    hole = with_gaps(page)[0]
    assert json.loads(hole.payload) == {
        "type": "gap", "channel": "ticker", "product_id": "BTC-USD",
        "first_sequence": None, "last_sequence": None,
    }  # fmt: skip
    assert (hole.id, hole.up_to) == (15, last or 29)


def test_what_is_missing_ends_before_the_next_of_its_topic():
    """Trade ids are no positions: the next trade has both."""
    gaps = [missing_at(MATCH, place, 8, 9) for place in (15, 25)]
    page = PastPage([trade(1, 10), trade(7, 20)], gaps, 30, is_last=True, is_sealed=True)

    holes = [message for message in with_gaps(page) if message.type == "notice"]
    assert [hole.up_to for hole in holes] == [6, None]


def test_the_next_of_a_topic_may_be_a_message_of_two():
    """A trade that was received on full."""
    trade_of_full = make_message("full", sequence=30, kind="match", also=MATCH)
    trade_of_full.id = 20
    page = PastPage(
        [backfilled(8, 15), trade_of_full], [missing_at(MATCH, 15, 9, 9)], 30,
        is_last=True, is_sealed=True,
    )  # fmt: skip

    assert [message.up_to for message in with_gaps(page)[:2]] == [29, 29]
