"""The status page: what is the matter, without JavaScript and without holes."""

import trio

from hedgehogd import __version__
from hedgehogd.engine.health import FeedState
from hedgehogd.web.page import status_page


async def test_it_says_how_things_are(autojump_clock, instance, session):
    """The first look of whoever opens the port in a browser."""
    instance.health.become(FeedState.LIVE, 0.0)
    instance.health.heard_at = 0.0
    instance.broker.messages_in = 1234567
    await trio.sleep(2)
    page = status_page(instance, "relay:8001")

    for text in (
        f"{__version__}, instance 1",
        "<td>ready<td>yes (live)",
        "<td>feed last received<td>2.0 s ago",
        "<td>messages in<td>1,234,567",
        "<td>subscribers<td>1",
        "ws://relay:8001/ws",
    ):
        assert text in page


async def test_a_feed_never_heard_is_never(autojump_clock, instance):
    """And idle is no trouble."""
    page = status_page(instance)

    assert "<td>feed last received<td>never" in page
    assert "<td>ready<td>yes (idle)" in page


async def test_what_others_wrote_is_text(autojump_clock, instance):
    """The exchange's close reason and the Host header are strangers' words."""
    instance.health.become(FeedState.STALE, 0.0, "<script>alert(1)</script>{x}")
    page = status_page(instance, "a'\"><script>{y}")

    assert "<script" not in page
    assert "no (stale: &lt;script&gt;alert(1)&lt;/script&gt;{x})" in page
