"""State that the connections of a plane share."""

import pytest

from hedgehogd.domain.errors import SubscriberError
from hedgehogd.protocol.commands import channel_requests
from hedgehogd.protocol.wire import WEBSOCKET
from tests.streaming.conftest import Served


async def test_session_ids_start_with_the_instance_and_cannot_be_guessed(served: Served) -> None:
    """The id grants control of the stream, and shows its owner to other instances."""
    ids = {served.plane.new_session(None, WEBSOCKET).id for _ in range(1000)}

    assert len(ids) == 1000
    assert all(session_id.startswith("1.") for session_id in ids)
    assert all(len(session_id) >= 2 + 22 for session_id in ids)  # 128 bits in base64


async def test_pairs_are_checked_against_the_list_of_the_exchange(served: Served) -> None:
    """The check precedes the head of the answer, so that it can be a 404."""
    served.instance.pipe.catalogue.replace(frozenset({"BTC-USD"}))
    served.instance.check(channel_requests(["ticker"], ("BTC-USD",)))

    with pytest.raises(SubscriberError) as caught:
        served.instance.check(channel_requests(["ticker"], ("BTC-USD", "NO-SUCH")))
    assert (caught.value.status, caught.value.code) == (404, "unknown_pair")
