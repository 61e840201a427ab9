"""The conversation with the exchange, without the socket.

Frames go in; messages with their topics, notices about gaps, refusals and complaints come
out. It lives as long as the feed, across connections, because that is what gaps are about.

Which messages are dropped here, each counted by reason in ``dropped``:

* ``garbage``: no readable head. Crash never on what others send (DESIGN, invariant 5).
* ``unknown_type``: a type of message we do not know; named once in the log.
* ``repeat``: a trade that was delivered already, for example a ``last_match`` that a
  reconnection brings although no trade happened meanwhile. When the exchange sets a
  product's trade ids back, counting begins anew instead (``TradeIds``).
* ``unwanted``: of a topic that is not asked for, or no longer.
"""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from hedgehogd.domain.channel import MATCHES, Topic
from hedgehogd.domain.limits import TOPICS_MAX
from hedgehogd.domain.message import BadMessage, Head, Message, read_head, topic_of
from hedgehogd.protocol import coinbase, notices
from hedgehogd.protocol.gaps import TradeIds


class TopicNotice(NamedTuple):
    """A notice for those who subscribe to ``topic``; for everybody when it is None."""

    topic: Topic | None
    payload: bytes


class Refusal(NamedTuple):
    """The exchange does not give us ``product_id``; in its own words."""

    product_id: str
    message: str
    reason: str


class Received(NamedTuple):
    """What one socket read brought.

    Attributes:
        messages: data, in arrival order.
        notices: what subscribers must be told about it, in order.
        notices_at: for each of ``notices``, how many of ``messages`` came before it.
        refusals: products that the exchange refused.
        complaints: all other ``error`` messages of the exchange: an alarm.
        oddities: what was dropped and deserves a line in the log; bounded.
    """

    messages: list[Message]
    notices: list[TopicNotice]
    notices_at: list[int]
    refusals: list[Refusal]
    complaints: list[str]
    oddities: list[str]

    def parts(self) -> Iterator[tuple[list[Message], list[TopicNotice]]]:
        """Cut the messages at the notices: ``(messages, what is told before them)``.

        One part when there is nothing to tell; it may be empty.
        """
        begin = 0
        told: list[TopicNotice] = []
        for notice, at in zip(self.notices, self.notices_at, strict=True):
            if at > begin:
                yield self.messages[begin:at], told
                begin, told = at, []
            told.append(notice)
        yield self.messages[begin:], told


_ODDITY_CHARACTERS_MAX = 200
_KNOWN_ODDITIES_MAX = 100


class UpstreamSession:
    """Turn the exchange's frames into messages, and notice what is missing.

    Attributes:
        wanted: the topics to relay, so that no feed fills memory with others; None for all.
        dropped: messages not relayed, by reason.
        gaps: holes found in trade ids.
        trades_missing: trades in those holes.
        heard_heartbeat: True when this connection has carried a heartbeat.
    """

    def __init__(self, wanted: frozenset[Topic] | None = None) -> None:
        self.wanted = wanted
        self.dropped: Counter[str] = Counter()
        self.gaps = 0
        self.trades_missing = 0
        self.heard_heartbeat = False
        self._trades: dict[Topic, TradeIds] = {}
        self._odd_types: set[str] = set()

    def reconnected(self) -> None:
        """A new connection begins: nothing has been heard on it yet."""
        self.heard_heartbeat = False

    def forget(self, topic: Topic) -> None:
        """``topic`` is no longer held: what comes later is not compared with what came before."""
        self._trades.pop(topic, None)

    def receive(self, frames: list[tuple[bytes, bytes]]) -> Received:
        """Read the text messages of one socket read, as ``(frame, payload)`` pairs."""
        received = Received([], [], [], [], [], [])
        messages, wanted = received.messages, self.wanted
        for frame, payload in frames:
            try:
                head = read_head(payload)
            except BadMessage as error:
                self.dropped["garbage"] += 1
                received.oddities.append(f"garbage: {error}"[:_ODDITY_CHARACTERS_MAX])
                continue
            topic = topic_of(head)
            if topic is None:
                self._other(head, received)
                continue
            if wanted is not None and topic not in wanted:
                self.dropped["unwanted"] += 1
                continue
            if topic.channel == MATCHES.topic_channel and not self._is_new_trade(
                topic, head, received
            ):
                continue
            if head.type == "heartbeat":
                self.heard_heartbeat = True
            messages.append(Message(topic, head.type, frame, payload, head.sequence, head.trade_id))
        return received

    def _is_new_trade(self, topic: Topic, head: Head, received: Received) -> bool:
        """Account for a trade; report the hole before it; say whether to deliver it."""
        if head.trade_id is None:
            return True
        trade_ids = self._trades.get(topic)
        if trade_ids is None:
            if len(self._trades) >= TOPICS_MAX:
                return True
            trade_ids = self._trades[topic] = TradeIds()
        deliver, gap, oddity = trade_ids.observe(head.trade_id, is_newest=head.type == "last_match")
        if not deliver:
            self.dropped["repeat"] += 1
        if gap is not None:
            self.gaps += 1
            self.trades_missing += gap.last - gap.first + 1
            received.notices.append(TopicNotice(topic, notices.gap(topic, gap)))
            received.notices_at.append(len(received.messages))
        if oddity:
            received.oddities.append(f"{topic} {oddity}"[:_ODDITY_CHARACTERS_MAX])
        return deliver

    def _other(self, head: Head, received: Received) -> None:
        """Read a message that is not data."""
        if head.type == "subscriptions":
            return
        if head.type == "error":
            product_id = coinbase.refused_product(head)
            if product_id is None:
                received.complaints.append(
                    f"{head.message}: {head.reason}"[:_ODDITY_CHARACTERS_MAX]
                )
            else:
                received.refusals.append(Refusal(product_id, head.message, head.reason))
            return
        self.dropped["unknown_type"] += 1
        if head.type not in self._odd_types and len(self._odd_types) < _KNOWN_ODDITIES_MAX:
            self._odd_types.add(head.type)
            received.oddities.append(f"unknown type {head.type!r}"[:_ODDITY_CHARACTERS_MAX])
