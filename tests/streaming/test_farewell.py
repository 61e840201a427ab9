"""The last bytes of a stream."""

import pytest

from hedgehogd.domain.channel import Topic
from hedgehogd.protocol import notices
from hedgehogd.protocol.frames import encode_close, encode_text
from hedgehogd.protocol.wire import NDJSON, NDJSON_BARE, SSE, WEBSOCKET, WEBSOCKET_STRICT, WireForm
from hedgehogd.streaming.farewell import excess, excess_of_all, farewell

POSITION = {Topic("matches", "BTC-USD"): 7}
CLOSING = notices.closing("restart", POSITION, 1.0)
SLOW = notices.slow_consumer(4001, "too much", POSITION)
RETRY = b"retry: 1000\n\n"


@pytest.mark.parametrize(
    ("form", "code", "last"),
    [
        (WEBSOCKET, 1012, encode_text(CLOSING) + encode_close(1012, "why")),
        (WEBSOCKET, 4001, encode_text(SLOW) + encode_close(4001, "why")),
        (WEBSOCKET, 1002, encode_close(1002, "why")),
        (WEBSOCKET_STRICT, 1012, encode_close(1012, "why")),
        (WEBSOCKET_STRICT, 4001, encode_close(4001, "why")),
        (SSE[False], 1012, SSE[False].tell(CLOSING) + RETRY),
        (SSE[False], 4001, SSE[False].tell(SLOW) + RETRY),
        (NDJSON[True], 1012, NDJSON[True].tell(CLOSING) + b"0\r\n\r\n"),
        (NDJSON[True], 4001, NDJSON[True].tell(SLOW)),  # no last chunk: the end was not planned
        (NDJSON[False], 1012, CLOSING + b"\n"),
        (NDJSON_BARE[True], 1012, b"0\r\n\r\n"),
        (NDJSON_BARE[True], 4001, b""),  # an unplanned end must look like one
        (NDJSON_BARE[False], 1012, b""),
    ],
)
def test_each_wire_form_has_its_farewell(form: WireForm, code: int, last: bytes) -> None:
    """A strict client gets no message that Coinbase would not send."""
    assert last == farewell(form, code, "restart", "why", POSITION, "too much")


def test_a_slow_consumer_gets_the_figures() -> None:
    """With them a person can decide to change the reader or the limit."""
    assert (
        "9 bytes were waiting for this subscriber, the oldest 3.2 s old; "
        "the limits are 8 bytes and 10 s." == excess(9, 3.21, 8, 10.0)
    )


def test_a_subscriber_ended_by_the_budget_gets_the_bound_of_the_budget() -> None:
    """Its backlog was within the bound of one subscriber."""
    text = excess_of_all(9, 8000)

    assert text.startswith("9 bytes were waiting for this subscriber; all subscribers together")
    assert "8000 bytes of memory" in text
