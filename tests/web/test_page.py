"""The status page: the state of the instance, without JavaScript, with all text escaped."""

import trio

from hedgehogd import __version__
from hedgehogd.engine.health import FeedState
from hedgehogd.web.page import status_page


async def test_the_page_has_the_state_of_the_instance(autojump_clock, instance, session):
    """A person opens the port in a browser and sees the state first."""
    instance.health.become(FeedState.LIVE)
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


async def test_a_feed_without_a_message_has_the_age_never(autojump_clock, instance):
    """An idle feed is ready."""
    page = status_page(instance)

    assert "<td>feed last received<td>never" in page
    assert "<td>ready<td>yes (idle)" in page


async def test_text_from_outside_is_escaped(autojump_clock, instance):
    """The exchange's close reason and the header Host come from outside."""
    instance.health.become(FeedState.STALE, "<script>alert(1)</script>{x}")
    page = status_page(instance, "a'\"><script>{y}")

    assert "<script" not in page
    assert "no (stale: &lt;script&gt;alert(1)&lt;/script&gt;{x})" in page
