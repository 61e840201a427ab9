"""The conversation with the exchange, without the sockets.

The session receives the frames of all connections and returns messages with their topics, gap
notices, refusals and errors, in the order in which subscribers receive them. It lives as long as
the feed, across connections, because a gap may lie between two connections.

Messages dropped here are counted by reason in ``dropped``:

* ``garbage``: no readable head. No message of a peer may raise an error here.
* ``unknown_type``: a type that hedgehogd does not know; logged once for each type.
* ``unwanted``: of a topic that the connection, or the feed, does not hold or holds no longer; or
  of a new product when ``TOPICS_MAX`` are known.
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
    """Convert the exchange's frames into messages, and find the gaps between them.

    Attributes:
        dropped: messages not delivered, by reason.
        arbiter: decides which connection's message is delivered.
        refused: topic channels that the exchange has refused.
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
        """True while an upstream relay on a live connection reports its own feed as stale."""
        return self.arbiter.told_stale

    def connected(self, source: Source) -> None:
        """Add a connection that has begun: it may deliver from now on."""
        self.arbiter.connected(source)

    def lost(self, source: Source, now: float) -> Received:
        """Remove a connection that has ended, and choose other primaries for its products.

        Returns:
            The notices of the gaps that nothing can fill now, the messages queued after them, and
            the topics that need a new snapshot.
        """
        received = Received()
        self.arbiter.lost(source, self.states(source), now, received)
        return received

    def expire(self, now: float) -> Received:
        """Declare the gaps due at ``now``; return their notices and the messages queued after."""
        received = Received()
        self.arbiter.expire(now, received)
        return received

    def hold_only(self, topics: Iterable[Topic]) -> None:
        """Forget all topics but ``topics``: their numbers are not compared with later ones.

        Messages of the forgotten topics still in flight are dropped, on every connection. The state
        of a product without a topic is dropped.
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

        Two lines may lead to the same relay, which sends each notice to both.
        """
        if payload in self._news:
            return False
        self._news[payload] = None
        if len(self._news) > _NEWS_KEPT_MAX:
            self._news.pop(next(iter(self._news)))
        return True

    def try_again(self, channels: frozenset[str]) -> None:
        """Remove ``channels`` from ``refused``: the caller may subscribe to them again."""
        self.key_failed -= channels
        self.refused -= channels

    def let_go(self, source: Source) -> None:
        """Remove from ``source.products`` the products of which it holds no topic any more.

        The products that follow it move by the rules of ``primary``.
        """
        source.products &= {topic.product_id for topic in source.held or ()} | {""}

    def forget(self, topic: Topic) -> None:
        """Forget ``topic``: its numbers and open gap; drop its queued messages."""
        state = self.products.get(topic.product_id)
        if state is not None:
            state.forget(topic.channel)

    def receive(self, source: Source, frames: list[tuple[bytes, bytes]], now: float) -> Received:
        """Read the text messages of one socket read, as ``(frame, payload)`` pairs.

        Args:
            source: the connection.
            frames: the text messages, in order of arrival.
            now: any clock that rises steadily, in seconds.

        Returns:
            The messages to deliver, queued ones that they release included, and all that the read
            reports.
        """
        received = Received()
        arbitrate, admits = self.arbiter.arbitrate, self._flows.admits
        products, states = source.products, self.products
        has_beats = source.held is not None  # hedgehogd subscribes to the heartbeat of each product
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
                self._receive_control(source, head, payload, received)
                continue
            topic, also, is_held, owner = route
            if is_held and not admits(topic):
                # The last subscriber of full has left; a trade belongs to matches as well.
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
                received.resync_books(state.product_id)  # the product was silent
            state.heard_at = now
            if owner:
                source.heard_at = now
            if head.type == "heartbeat":
                source.heard_heartbeat = state.has_heartbeat = True
            else:
                state.data_at = now
            message = Message(topic, head.type, frame, payload, head.sequence, head.trade_id, also)
            arbitrate(state, Arrival(source, head, message, now), now, received)
        return received

    def _resync_garbled(
        self, source: Source, payload: bytes, now: float, received: Received
    ) -> None:
        """Request snapshots of all books of the connection if an unreadable message may be of one.

        It may concern any book. The request is repeated at most every ``RESYNC_AGAIN_S``:
        when snapshots do not help, the exchange sends such updates on purpose.
        """
        is_update = any(kind in payload for kind in (b"l2update", b"snapshot"))
        if is_update and now - source.garbled_at >= RESYNC_AGAIN_S:
            source.garbled_at = now
            received.resyncs += [t for t in source.held or () if t.channel in _BOOKS]

    def states(self, source: Source) -> list[ProductState]:
        """Return the states of the products received on ``source``."""
        return [state for id_, state in self.products.items() if id_ in source.products]

    def quiet_products(self, source: Source, now: float, patience_s: float) -> list[str]:
        """Return the silent products that ``source`` is the primary of and that have heartbeats.

        Silent means: no message of the product, heartbeats included, on any connection for
        ``patience_s``. A product without a heartbeat so far is left out.
        """
        return [
            state.product_id
            for state in self.states(source)
            if state.has_heartbeat and state.leader is source and now - state.heard_at >= patience_s
        ]

    def _add_product(self, source: Source, product_id: str, now: float) -> ProductState | None:
        """Record that a product arrives on ``source``; return its state, created if it is new.

        Returns:
            None for a new product when ``TOPICS_MAX`` are known.
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
        """Apply a message that is not data: acknowledgement, error, or a relay's notice."""
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
        """Apply a notice of an upstream relay, and forward it to subscribers.

        One about the relay's whole feed sets ``source.told_stale`` instead; ``closing`` is logged.
        A backfill that another line has reported is dropped.
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
        """Forward a relay's gap unless another line has reported it or delivered its messages."""
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
        """Record the held topics that an acknowledgement leaves out, in source and ``received``.

        Nothing is compared while another request is outstanding.
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

        The connection drops the topics of refused channels. An error about our key is an alarm too.
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
