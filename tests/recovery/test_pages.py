"""Pages of what is not live: cut into parts, with notices in their places, shared as bytes."""

import pytest

from hedgehogd.domain import limits
from hedgehogd.protocol.wire import SSE, WEBSOCKET
from hedgehogd.recovery.history_port import PastGap, PastPage
from hedgehogd.recovery.pages import Page, cut, in_band, with_gaps
from tests.fakes import make_message
from tests.recovery.returning import MATCH, missing_at


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


def test_gaps_stand_where_they_are_and_seams_are_not_told():
    """A seam says nothing to who has no book: the snapshot behind it does."""
    gaps = [missing_at(MATCH, 15, 8, 9), PastGap(MATCH, 16, "seam", None, None, 16)]
    page = PastPage([trade(1, 10), trade(2, 20)], gaps, 20, is_last=True, is_sealed=True)

    assert [m.type for m in with_gaps(page)] == ["match", "notice", "match"]
    page.gaps = []
    assert with_gaps(page) is page.messages


def test_what_is_missing_ends_before_the_next_of_its_topic():
    """Trade ids are no positions: the next trade has both."""
    gaps = [missing_at(MATCH, place, 8, 9) for place in (15, 25)]
    page = PastPage([trade(1, 10), trade(7, 20)], gaps, 30, is_last=True, is_sealed=True)

    holes = [message for message in with_gaps(page) if message.type == "notice"]
    assert [hole.up_to for hole in holes] == [6, None]
