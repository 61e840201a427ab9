"""Notices among the data: they have the form of notices on every wire form that has any."""

from hedgehogd.engine.gap_marker import in_band
from hedgehogd.engine.tape import positions
from hedgehogd.protocol.wire import SSE, WEBSOCKET
from tests.recovery.returning import MATCH


def test_a_notice_has_the_form_of_a_notice_and_moves_no_position():
    """A client of an event stream listens to notices as another kind of event."""
    notice = in_band(MATCH, b'{"type":"gap"}', 7, 9)

    assert WEBSOCKET.data(notice, "") == b'\x81\x0e{"type":"gap"}'
    event = SSE[True].data(notice, "matches:BTC-USD@5")
    for line in (b"id: matches:BTC-USD@5", b"event: hedgehogd", b'data: {"type":"gap"}'):
        assert line + b"\n" in event
    assert positions(notice) == ()
    assert (notice.up_to, notice.published_us, notice.sequence) == (7, 9, None)


def test_a_notice_of_several_lines_is_one_event():
    """Another relay's notice may be written over several lines."""
    notice = in_band(MATCH, b'{"type":\r\n"gap",\r"x":1}')

    event = b'event: hedgehogd\ndata: {"type":\ndata: "gap",\ndata: "x":1}\n\n'
    assert SSE[False].data(notice, "") == event
