"""The conversation with the exchange, without the sockets.

Frames of any connection go in; messages with their topics, notices about gaps, refusals and
complaints come out, in the order in which subscribers get them. It lives as long as the
feed, across connections, because that is what gaps are about.

Which messages are dropped here, each counted by reason in ``dropped``:

* ``garbage``: no readable head. Crash never on what others send (DESIGN, invariant 5).
* ``unknown_type``: a type of message we do not know; named once in the log.
* ``unwanted``: of a topic that was not asked for on that connection, or no longer.
* ``repeat``, ``spare``, ``no_snapshot``: see ``arbiter``.
"""

from collections import Counter
from collections.abc import Iterable

import msgspec

from hedgehogd.arbitration import relay_notices
from hedgehogd.arbitration.arbiter import Arbiter
from hedgehogd.arbitration.batch import NoticeKind, Received, Refusal, TopicNotice
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.flows import Flows
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.arbitration.relay_notices import (
    RelayedBackfill,
    RelayedClosing,
    RelayedGap,
    RelayedStale,
)
from hedgehogd.domain.channel import BY_ALIAS, CHANNELS, MATCHES, Topic
from hedgehogd.domain.limits import (
    GAP_PATIENCE_S,
    PRODUCT_SILENCE_S,
    RESYNC_AGAIN_S,
    TOPICS_MAX,
)
from hedgehogd.domain.message import BadMessage, Head, Message, intern_topic, read_head
from hedgehogd.protocol import coinbase

_MATCHES = MATCHES.topic_channel
_ODDITY_CHARACTERS_MAX = 200
_KNOWN_ODDITIES_MAX = 100
_NEWS_KEPT_MAX = 50  # of up to 70 KB each
_BOOKS = frozenset(c.topic_channel for c in CHANNELS if c.begins_with_snapshot)
_NEEDS_KEY = frozenset(channel.topic_channel for channel in CHANNELS if channel.needs_key)


class UpstreamSession:
    """Turn the exchange's frames into messages, and notice what is missing.

    Attributes:
        dropped: messages not relayed, by reason.
        arbiter: what decides between connections.
        refused: topic channels that the exchange does not give us, by its own words.
        key_failed: those among them that it may give us when our key is believed again.
        products: what is known of each product that is held.
    """

    def __init__(self, gap_patience_s: float = GAP_PATIENCE_S) -> None:
        self.arbiter = Arbiter(gap_patience_s)
        self.dropped: Counter[str] = self.arbiter.dropped
        self.refused: frozenset[str] = frozenset()
        self.key_failed: frozenset[str] = frozenset()
        self.products: dict[str, ProductState] = {}
        self._flows = Flows()
        self._odd_types: set[str] = set()
        self._news: dict[bytes, None] = {}

    @property
    def told_stale(self) -> bool:
        """True when another hedgehogd that feeds us says that its own feed is stale."""
        return self.arbiter.told_stale

    def connected(self, source: Source) -> None:
        """A connection begins."""
        self.arbiter.connected(source)

    def lost(self, source: Source, now: float) -> Received:
        """A connection has ended; return what no longer waits for it."""
        received = Received()
        self.arbiter.lost(source, self.states(source), now, received)
        return received

    def expire(self, now: float) -> Received:
        """Return what has waited long enough for a hole to be filled."""
        received = Received()
        self.arbiter.expire(now, received)
        return received

    def hold_only(self, topics: Iterable[Topic]) -> None:
        """Forget all else: what comes of it later is not compared with what came before.

        What is still in flight of it is dropped, on whichever connection it comes.
        """
        topics = frozenset(topics)
        self._flows.follow(topics)
        kept: dict[str, set[str]] = {}
        for topic in topics:
            kept.setdefault(topic.product_id, set()).add(topic.channel)
        for product_id, state in list(self.products.items()):
            if product_id not in kept:
                self.arbiter.forget(self.products.pop(product_id))
                continue
            for channel in state.numbers.keys() - kept[product_id]:
                state.forget(channel)

    def is_news(self, payload: bytes) -> bool:
        """Say whether a relay's notice has not come on another connection; remember it."""
        if payload in self._news:
            return False
        self._news[payload] = None
        if len(self._news) > _NEWS_KEPT_MAX:
            self._news.pop(next(iter(self._news)))
        return True

    def try_again(self, channels: frozenset[str]) -> None:
        """The refused ``channels`` may be asked for again."""
        self.key_failed -= channels
        self.refused -= channels

    def let_go(self, source: Source) -> None:
        """``source.held`` has changed: products of which it holds nothing begin anew there."""
        # A product that follows it moves by the rules of ``primary``.
        source.products &= {topic.product_id for topic in source.held or ()} | {""}

    def forget(self, topic: Topic) -> None:
        """``topic`` is no longer held: what comes later is not compared with what came before."""
        state = self.products.get(topic.product_id)
        if state is not None:
            state.forget(topic.channel)

    def receive(self, source: Source, frames: list[tuple[bytes, bytes]], now: float) -> Received:
        """Read the text messages of one socket read, as ``(frame, payload)`` pairs.

        Args:
            source: the connection that they came on.
            frames: what came, in order.
            now: any clock that rises steadily, in seconds.
        """
        received = Received()
        take, admits = self.arbiter.take, self._flows.admits
        products, states = source.products, self.products
        has_beats = source.held is not None  # each product that is asked for has a heartbeat
        for frame, payload in frames:
            try:
                head = read_head(payload)
            except BadMessage as error:
                self.dropped["garbage"] += 1
                received.oddities.append(f"garbage: {error}"[:_ODDITY_CHARACTERS_MAX])
                self._resync_garbled(source, payload, now, received)
                continue
            route = source.route(head)
            if route is None:
                self._other(source, head, payload, received)
                continue
            topic, also, is_held, owner = route
            if is_held and not admits(topic):
                # The last subscriber of full has left; a trade is one of matches all the same.
                topic = intern_topic(_MATCHES, head.product_id)
                is_held = head.type == "match" and admits(topic)
            if not is_held:
                self.dropped["unwanted"] += 1
                continue
            state = states.get(owner)
            if state is None or owner not in products:
                state = self._meet(source, owner, now)
                if state is None:
                    self.dropped["unwanted"] += 1
                    continue
            if has_beats and state.leader is source and now - state.heard_at > PRODUCT_SILENCE_S:
                received.resync_books(state.product_id)  # it was interrupted
            state.heard_at = now
            if owner:
                source.heard_at = now
            if head.type == "heartbeat":
                source.heard_heartbeat = state.has_heartbeat = True
            else:
                state.data_at = now
            message = Message(topic, head.type, frame, payload, head.sequence, head.trade_id, also)
            take(state, Arrival(source, head, message, now), now, received)
        return received

    def _resync_garbled(
        self, source: Source, payload: bytes, now: float, received: Received
    ) -> None:
        """What cannot be read and names itself an update may have changed any book.

        All books of the connection begin again then, but not for each such message: when it
        did not help, the exchange means it.
        """
        is_update = any(kind in payload for kind in (b"l2update", b"snapshot"))
        if is_update and now - source.garbled_at >= RESYNC_AGAIN_S:
            source.garbled_at = now
            received.resyncs += [t for t in source.held or () if t.channel in _BOOKS]

    def states(self, source: Source) -> list[ProductState]:
        """Return the states of the products received on ``source``."""
        return [state for id_, state in self.products.items() if id_ in source.products]

    def quiet_products(self, source: Source, now: float, patience_s: float) -> list[str]:
        """Return products of ``source`` whose heartbeats have stopped for ``patience_s``."""
        return [
            state.product_id
            for state in self.states(source)
            if state.has_heartbeat and state.leader is source and now - state.heard_at >= patience_s
        ]

    def _meet(self, source: Source, product_id: str, now: float) -> ProductState | None:
        """Return the state of a product that ``source`` speaks of for the first time."""
        state = self.products.get(product_id)
        if state is None:
            if len(self.products) >= TOPICS_MAX:
                return None
            state = self.products[product_id] = ProductState(product_id, now)
        source.products.add(product_id)
        return state

    def _other(self, source: Source, head: Head, payload: bytes, received: Received) -> None:
        """Read a message that is not data."""
        if head.type == "subscriptions":
            self._acknowledge(source, payload, received)
        elif head.type == "error":
            self._complain(source, head, received)
        elif head.type in relay_notices.TYPES:
            self._relay(source, head, payload, received)
        else:
            self.dropped["unknown_type"] += 1
            if head.type not in self._odd_types and len(self._odd_types) < _KNOWN_ODDITIES_MAX:
                self._odd_types.add(head.type)
                received.oddities.append(f"unknown type {head.type!r}"[:_ODDITY_CHARACTERS_MAX])

    def _relay(self, source: Source, head: Head, payload: bytes, received: Received) -> None:
        """Apply a notice of the relay that is our feed, and pass it on to subscribers."""
        match relay_notices.parse(head, payload):
            case RelayedGap() as relayed:
                self._relay_gap(relayed, payload, received)
            case RelayedStale(None, is_stale):
                source.told_stale = is_stale  # the feed reports it, once for all lines
            case RelayedStale(product_ids, is_stale):
                kind = NoticeKind.STALE if is_stale else NoticeKind.BACK
                received.tell(TopicNotice(product_ids, payload, kind))
            case RelayedBackfill(product_id) if self.is_news(payload):
                received.tell(TopicNotice(intern_topic(_MATCHES, product_id), payload))
            case RelayedClosing():
                received.oddities.append("the relay that feeds us is closing")

    def _relay_gap(self, relayed: RelayedGap, payload: bytes, received: Received) -> None:
        """Pass on a relay's gap, unless another line has reported it or delivered its messages."""
        channel, product_id, last = relayed
        state = self.products.get(product_id)
        numbers = None if state is None else state.numbers.get(channel)
        gap = None
        if numbers is not None and last is not None:
            if numbers.highest is not None and last <= numbers.highest:
                return
            gap = numbers.hole_before(last + 1)
        if gap is not None and numbers is not None:
            numbers.skip_to(gap.last)
            self.arbiter.missing[channel] += gap.last - gap.first + 1
        elif not self.is_news(payload):
            return
        self.arbiter.gaps += 1
        received.tell(TopicNotice(intern_topic(channel, product_id), payload, NoticeKind.GAP))

    def _acknowledge(self, source: Source, payload: bytes, received: Received) -> None:
        """Compare the exchange's idea of what we hold with ours, once it has heard all of it."""
        source.acks_due = max(0, source.acks_due - 1)
        if source.acks_due or source.held is None:
            return
        try:
            acknowledged = coinbase.acknowledged(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return
        source.unacknowledged = source.held - acknowledged
        missing = sorted(source.unacknowledged)
        if missing:
            received.unacknowledged += missing
            names = ", ".join(map(str, missing[:10]))
            received.oddities.append(f"not acknowledged: {names}"[:_ODDITY_CHARACTERS_MAX])

    def _complain(self, source: Source, head: Head, received: Received) -> None:
        """Read an ``error``: about a product, about channels, or an alarm."""
        product_id = coinbase.refused_product(head)
        if product_id is not None:
            received.refusals.append(Refusal(product_id, head.message, head.reason))
            return
        channels: frozenset[str] = frozenset()
        wrong = coinbase.refused_channel(head)
        if wrong is not None and wrong in BY_ALIAS:
            channels = frozenset({BY_ALIAS[wrong].topic_channel})
        elif coinbase.is_about_keys(head) and source.held is not None:
            channels = frozenset(topic.channel for topic in source.held) & _NEEDS_KEY
        if coinbase.is_about_our_key(head):  # the only answer; others also get their ack
            source.acks_due = max(0, source.acks_due - 1)
        is_known = coinbase.is_about_keys(head) and not self.refused.isdisjoint(_NEEDS_KEY)
        if not (channels or is_known) or coinbase.is_about_our_key(head):
            received.complaints.append(f"{head.message}: {head.reason}"[:_ODDITY_CHARACTERS_MAX])
        for channel in sorted(channels - self.refused):
            received.refusals.append(Refusal("", head.message, head.reason, channel))
        self.refused |= channels
        if coinbase.is_about_our_key(head):
            self.key_failed |= channels
        source.drop(topic for topic in source.held or () if topic.channel in channels)
