"""What other instances of this machine remember, for those who come back to this one.

An instance that has just begun knows nothing of what was, and where history cannot be read,
or does not keep a topic, nobody here does. Others do: they are asked as any subscriber would
ask them, for a stream of events from a position on, and hung up on when they say that it is
live from there.
"""

from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec
import trio

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.domain import limits
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, Topic
from hedgehogd.domain.message import BadMessage, Message, read_head
from hedgehogd.domain.position import to_text
from hedgehogd.recovery.history_port import message_of
from hedgehogd.relay.peers import PeerGone, Peers

_DATA, _OURS = b"data: ", b"event: hedgehogd"


class _Notice(msgspec.Struct):
    type: str
    stale: bool = False


class Tapes:
    """The others, in the order of their numbers."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def fetch(self, after: Mapping[Topic, int]) -> list[Message] | None:
        """See ``recovery.history_port.Others``."""
        with trio.move_on_after(limits.RESUME_FETCH_S):
            for number in self._peers.numbers():
                found = None
                with trio.move_on_after(limits.PEER_ANSWER_S):
                    found = await self._ask(number, after)
                if found is not None:
                    return found
        return None

    async def _ask(self, number: int, after: Mapping[Topic, int]) -> list[Message] | None:
        """Ask one; None when it does not have all of it."""
        names = {BY_TOPIC_CHANNEL[topic.channel].aliases[0] for topic in after}
        pairs = {topic.product_id for topic in after}
        query = {
            "channels": ",".join(sorted(names)),
            "pairs": ",".join(sorted(pairs)),
            "last_event_id": to_text(after),
            "strict": "true",
            "alone": "true",
        }
        target = f"/api/v1/stream?{urlencode(query)}"
        source = Source(held=after)  # what its messages are of
        messages: list[Message] = []
        event: list[bytes] = []
        try:
            async with self._peers.lines(number, target) as lines:
                async for line in lines:
                    if line:
                        event.append(line)
                        continue
                    data = b"\n".join(x.removeprefix(_DATA) for x in event if x.startswith(_DATA))
                    is_ours = _OURS in event
                    event.clear()
                    notice = _read(data) if is_ours else _Notice("")
                    if notice.type == "resumed":
                        return messages
                    if notice.type == "gap" or notice.stale:
                        return None  # it does not know whether that is all
                    if data and not is_ours:
                        route = source.route(read_head(data))
                        if route is not None and route.topic in after:
                            messages.append(message_of(route.topic, data))
                    if len(messages) > limits.RESUME_FETCH_MESSAGES_MAX:
                        return None
        except (PeerGone, BadMessage):
            pass
        return None


def _read(notice: bytes) -> _Notice:
    try:
        return msgspec.json.decode(notice, type=_Notice)
    except msgspec.DecodeError:
        return _Notice("")
