"""The pipe: parts that know each other."""

import pytest

from hedgehogd.protocol.wire import WEBSOCKET, WEBSOCKET_DEFLATE
from tests.fakes import make_message


@pytest.mark.parametrize(
    ("channel", "form", "expected"),
    [
        ("status", WEBSOCKET_DEFLATE, True),
        ("status", WEBSOCKET, False),
        ("ticker", WEBSOCKET_DEFLATE, False),
        ("level2", WEBSOCKET_DEFLATE, True),  # it waits for its snapshot
        ("matches", WEBSOCKET_DEFLATE, True),  # by its second topic
    ],
)
def test_large_messages_are_compressed_for_who_gets_them(plumbing, channel, form, expected):
    """Compressing costs more than all the rest."""
    messages = {
        "level2": make_message("level2"),
        "matches": make_message("full", also=make_message("matches").topic),
    }
    plumbing.join(channel, form=form)

    assert plumbing.pipe.deflates(messages.get(channel, make_message("status", ""))) is expected
