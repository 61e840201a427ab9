"""The conversation with the exchange, without the sockets.

The session receives the frames of all connections, one socket read at a time. It returns messages
with their topics, notices, refusals and errors; messages and notices are in the order in which
subscribers receive them. It lives as long as the feed, across connections, because a gap may lie
between two connections.

Messages dropped here are counted by reason in ``dropped``:

* ``garbage``: no readable head. No message of a peer may raise an error here.
* ``unknown_type``: a type that hedgehogd does not know; logged once for each type, up to
  ``_KNOWN_ODDITIES_MAX`` types.
* ``unwanted``: of a topic that the connection, or the feed, does not hold or holds no longer; or
  of a new product when ``TOPICS_MAX`` are known.
* ``repeat``, ``spare``, ``no_snapshot``: see ``arbiter``.
"""

import math
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
from hedgehogd.domain.resync_pause import ResyncPause
from hedgehogd.protocol import coinbase
from hedgehogd.protocol.frames import Frames

_MATCHES = MATCHES.topic_channel
_ODDITY_CHARACTERS_MAX = 200
_KNOWN_ODDITIES_MAX = 100
_NEWS_KEPT_MAX = 50  # of up to 70 KB each
_BOOKS = frozenset(c.topic_channel for c in CHANNELS if c.begins_with_snapshot)
_NEEDS_KEY = frozenset(channel.topic_channel for channel in CHANNELS if channel.needs_key)


class UpstreamSession:
    """Convert the exchange's frames into messages, and find the gaps between them.

    Attributes:
        dropped: counts of dropped messages, by reason: see the module.
        arbiter: decides which connection's message is delivered.
        refused: topic channels that the exchange has refused; ``try_again`` removes them.
        key_failed: those of ``refused`` that the exchange refused because it rejected our key.
        products: the state of each product, by id; ``""`` for messages without a product.
    """

    def __init__(
        self,
        gap_patience_s: float = GAP_PATIENCE_S,
        dropped: Counter[str] | None = None,
        products: dict[str, ProductState] | None = None,
    ) -> None:
        self.arbiter = Arbiter(gap_patience_s, dropped)
        self.dropped: Counter[str] = self.arbiter.dropped
        self.refused: frozenset[str] = frozenset()
        self.key_failed: frozenset[str] = frozenset()
        self.products: dict[str, ProductState] = {} if products is None else products
        self._flows = Flows()
        self._odd_types: set[str] = set()
        self._news: dict[bytes, None] = {}

    @property
    def told_stale(self) -> bool:
        """True while an upstream relay on a connection reports its own whole feed as stale."""
        return self.arbiter.told_stale

    def connected(self, source: Source) -> None:
        """Add ``source``, a connection that begins: from now on it may fill gaps."""
        self.arbiter.connected(source)

    def lost(self, source: Source, now: float) -> Received:
        """Remove a connection that has ended; choose another primary where it was the primary.

        Returns:
            If fewer than two connections remain, the notices of all open gaps and the messages
            queued after them. The topics that need a new snapshot from another primary.
        """
        received = Received()
        self.arbiter.lost(source, self.states(source), now, received)
        return received

    def expire(self, now: float) -> Received:
        """Declare the gaps due at ``now``; return their notices and the messages queued after.

        ``arbiter.next_expiry`` returns when the next call is needed.
        """
        received = Received()
        self.arbiter.expire(now, received)
        return received

    def hold_only(self, topics: Iterable[Topic]) -> None:
        """Hold ``topics`` only: forget the numbers, open gaps and queued messages of other topics.

        Queued messages of channels without numbers stay queued. From now on, messages that
        ``flows`` does not admit are dropped, on every connection. The state of a product without a
        topic is dropped.
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
        """Record a relay's notice; return True if it is not among the last ones recorded.

        Two lines may lead to the same relay, which sends each notice to both. The last
        ``_NEWS_KEPT_MAX`` notices are kept.
        """
        if payload in self._news:
            return False
        self._news[payload] = None
        if len(self._news) > _NEWS_KEPT_MAX:
            self._news.pop(next(iter(self._news)))
        return True

    def try_again(self, channels: frozenset[str]) -> None:
        """Remove ``channels`` from ``refused`` and ``key_failed``: they may be requested again."""
        self.key_failed -= channels
        self.refused -= channels

    def let_go(self, source: Source) -> None:
        """Remove from ``source.products`` the products of which it holds no topic any more.

        ``""`` stays. If it is the primary of such a product, the rules of ``primary`` replace it
        when another connection brings state of the product.
        """
        source.products &= {topic.product_id for topic in source.held or ()} | {""}

    def forget(self, topic: Topic) -> None:
        """Forget the numbers and the open gap of ``topic``, and drop its queued messages."""
        state = self.products.get(topic.product_id)
        if state is not None:
            state.forget(topic.channel)

    def receive(self, source: Source, frames: Frames, now: float, received_us: int = 0) -> Received:
        """Judge the text messages of one socket read, and apply those that are not data.

        Times and products are recorded in ``source``, and in the states of the products.

        Args:
            source: the connection.
            frames: the text messages as ``(frame, payload)`` pairs, in order of arrival.
            now: any clock that rises steadily, in seconds.
            received_us: the wall-clock time of the read, µs since the epoch; it may step back.

        Returns:
            The messages to deliver, which may have been queued before, and all notices, refusals,
            errors and requests of this read.
        """
        received = Received()
        if source.is_resync_withheld and source.unreadable_pause.is_over(now):
            self._resync_withheld(source, now, received)
        arbitrate, admits = self.arbiter.arbitrate, self._flows.admits
        products, states = source.products, self.products
        has_beats = source.held is not None  # the feed subscribes to the heartbeat of each product
        for frame, payload in frames:
            try:
                head = read_head(payload)
            except BadMessage as error:
                self.dropped["garbage"] += 1
                received.oddities.append(f"garbage: {error}"[:_ODDITY_CHARACTERS_MAX])
                self._resync_unreadable(source, payload, now, received)
                continue
            route = source.route(head)
            if route is None:
                self._receive_control(source, head, payload, received)
                continue
            topic, also, is_held, owner = route
            if is_held and not admits(topic):
                # The last subscriber of ``full`` has left; a trade may belong to ``matches`` too.
                topic = intern_topic(_MATCHES, head.product_id)
                is_held = head.type == "match" and admits(topic)
            if not is_held:
                self.dropped["unwanted"] += 1
                continue
            state = states.get(owner)
            if state is None or owner not in products:
                state = self._add_product(source, owner, now)
                if state is None:
                    self.dropped["unwanted"] += 1
                    continue
            if has_beats and state.leader is source and now - state.heard_at > PRODUCT_SILENCE_S:
                received.resync_books(state.product_id)  # it was silent: updates may be missing
            state.heard_at = now
            if owner:
                source.heard_at = now
            if head.type == "heartbeat":
                source.heard_heartbeat = state.has_heartbeat = True
            else:
                state.data_at = now
            message = Message(topic, head.type, frame, payload, head.sequence, head.trade_id, also)
            message.received_us = received_us
            arbitrate(state, Arrival(source, head, message, now), now, received)
        return received

    def _resync_unreadable(
        self, source: Source, payload: bytes, now: float, received: Received
    ) -> None:
        """Request snapshots of the books that the connection leads if a message may be of one.

        The unreadable message may be of any of them. A further one within the pause after that
        (``ResyncPause``) waits for its end: the exchange may send such updates on purpose.
        ``RESYNC_AGAIN_S`` without one is a repair.
        """
        if not any(kind in payload for kind in (b"l2update", b"snapshot")):
            return
        if now - source.unreadable_at >= RESYNC_AGAIN_S:
            source.unreadable_pause = ResyncPause()
        source.unreadable_at = now
        if source.unreadable_pause.is_over(now):
            source.unreadable_pause.begin(now)
            received.resyncs += self._led_books(source)
        else:
            source.is_resync_withheld = True

    def _resync_withheld(self, source: Source, now: float, received: Received) -> None:
        """Request snapshots of the books without one since the last unreadable update."""
        source.is_resync_withheld = False
        fault_at, asked_at = source.unreadable_at, source.asked_at
        books = [t for t in self._led_books(source) if asked_at.get(t, -math.inf) <= fault_at]
        if books:
            source.unreadable_pause.begin(now)
            received.resyncs += books

    def _led_books(self, source: Source) -> list[Topic]:
        """Return the books that the connection delivers; those of other lines are whole."""
        others = {
            product_id
            for product_id, state in self.products.items()
            if state.leader not in {None, source}
        }
        held = source.held or frozenset()
        return [t for t in held if t.channel in _BOOKS and t.product_id not in others]

    def states(self, source: Source) -> list[ProductState]:
        """Return the states of ``source.products``, the products received on the connection."""
        return [state for id_, state in self.products.items() if id_ in source.products]

    def quiet_products(self, source: Source, now: float, patience_s: float) -> list[str]:
        """Return the ids of the silent products that ``source`` is the primary of.

        Silent means: no message of the product, heartbeats included, on any connection for
        ``patience_s``. A product without a heartbeat so far does not count as silent.
        """
        return [
            state.product_id
            for state in self.states(source)
            if state.has_heartbeat and state.leader is source and now - state.heard_at >= patience_s
        ]

    def _add_product(self, source: Source, product_id: str, now: float) -> ProductState | None:
        """Record that a product arrives on ``source``; return its state, created if it is new.

        For a new product when ``TOPICS_MAX`` are known, record nothing and return None.
        """
        state = self.products.get(product_id)
        if state is None:
            if len(self.products) >= TOPICS_MAX:
                return None
            state = self.products[product_id] = ProductState(product_id, now)
        source.products.add(product_id)
        return state

    def _receive_control(
        self, source: Source, head: Head, payload: bytes, received: Received
    ) -> None:
        """Apply a message that is not data: acknowledgement, error, or a relay's notice.

        A message of another type is counted as dropped; the type is logged once.
        """
        if head.type == "subscriptions":
            self._acknowledge(source, payload, received)
        elif head.type == "error":
            self._receive_error(source, head, received)
        elif head.type in relay_notices.TYPES:
            self._relay(source, head, payload, received)
        else:
            self.dropped["unknown_type"] += 1
            if head.type not in self._odd_types and len(self._odd_types) < _KNOWN_ODDITIES_MAX:
                self._odd_types.add(head.type)
                received.oddities.append(f"unknown type {head.type!r}"[:_ODDITY_CHARACTERS_MAX])

    def _relay(self, source: Source, head: Head, payload: bytes, received: Received) -> None:
        """Apply a notice of an upstream relay.

        A ``gap`` (``_relay_gap``), a ``stale`` of products and a ``backfilled`` are forwarded to
        subscribers; a ``backfilled`` that is known already is dropped. A ``stale`` of the relay's
        whole feed sets ``source.told_stale``. ``closing`` is logged. Other notices have no effect.
        """
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
                received.oddities.append("the upstream relay is closing")

    def _relay_gap(self, relayed: RelayedGap, payload: bytes, received: Received) -> None:
        """Forward a relay's gap and count it; drop one that is known already or was filled.

        If its last number is not above the highest one here, it is dropped. If the last number is
        plausibly above it, the numbers up to it are recorded as missing. Otherwise the two cannot
        be compared, and the gap is dropped if the same notice is known (``is_news``).
        """
        channel, product_id, last = relayed
        state = self.products.get(product_id)
        numbers = None if state is None else state.numbers.get(channel)
        gap = None
        if numbers is not None and last is not None:
            if numbers.highest is not None and last <= numbers.highest:
                return
            gap = numbers.gap_before(last + 1)
        if gap is not None and numbers is not None:
            numbers.skip_to(gap.last)
            self.arbiter.missing[channel] += gap.last - gap.first + 1
        elif not self.is_news(payload):
            return
        self.arbiter.gaps += 1
        received.tell(TopicNotice(intern_topic(channel, product_id), payload, NoticeKind.GAP))

    def _acknowledge(self, source: Source, payload: bytes, received: Received) -> None:
        """Record the held topics that an acknowledgement omits, in ``source`` and ``received``.

        While another acknowledgement is due, and if ``held`` is None or the message is unreadable,
        only count it in ``source.acks_due``.
        """
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

    def _receive_error(self, source: Source, head: Head, received: Received) -> None:
        """Apply an ``error``: a refused product, refused channels, or an alarm.

        An error about keys refuses the held channels that need one. Refused channels are added to
        ``refused``, and the connection drops their topics. An error about our key is an alarm too;
        its channels are added to ``key_failed``, and it counts as the acknowledgement of a request.
        """
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
        if coinbase.is_about_our_key(head):  # no ack follows this error
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
