"""The choice of the connection that supplies a product's state.

State is the product's book, its heartbeats, all messages of channels without numbers, and messages
of other channels that have no number.

A product has at most one *primary* connection (``ProductState.leader``). State from other
connections is *spare* and dropped.

    event                                                     the primary becomes
    --------------------------------------------------------  ----------------------------------
    there is no primary, and a connection brings state        that connection
    the primary is lost                                       another one that has received the
                                                              product and holds a topic of it,
                                                              if possible its book; or none
    the primary holds no topic of the product any more, and   that connection
    another connection brings state
    another connection of the same line brings a snapshot     that connection: the product moves
    another line has brought state for more than              the connection that brings it
    ``LEADER_SILENCE_S``, and the primary none meanwhile

A new primary's book begins with its snapshot; updates before it are dropped. That snapshot is
requested, unless the message that made the change is a snapshot, or there was no primary before:
the first subscribe of a connection brings one.

While a product moves from one connection of a line to another, state of a topic that the primary
does not hold is delivered too: no other connection could deliver it. This excludes books.
"""

from collections import Counter
from collections.abc import Iterable

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.limits import LEADER_SILENCE_S, PRODUCT_SILENCE_S

_BOOKS = frozenset({LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel})


class PrimaryRules:
    """Chooses the primary of each product of one feed: see the module.

    Args:
        dropped: counts the messages dropped, by reason: ``spare`` and ``no_snapshot``.
    """

    def __init__(self, dropped: Counter[str]) -> None:
        self._dropped = dropped

    def delivers(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> bool:
        """Return whether a message of state may be delivered; before, update the primary.

        False for spare state, and for updates of a book before the primary's snapshot: these are
        counted as dropped. A snapshot is requested in ``received.resyncs`` when the primary changes
        (see the module), and when updates have arrived without one for more than
        ``PRODUCT_SILENCE_S`` since the first of them or the last such request.
        """
        source, topic, leader = arrival.source, arrival.message.topic, state.leader
        is_snapshot, is_book = arrival.head.type == "snapshot", topic.channel in _BOOKS
        if source is not leader:
            if not _takes_over(state, source, topic, now, is_snapshot=is_snapshot):
                if not is_book and _is_only_on(source, leader, topic):
                    return True
                self._dropped["spare"] += 1
                return False
            state.leader, state.has_snapshot, state.led_since = source, False, now
            if leader is not None and not is_snapshot:
                _ask_snapshot(state, received)
        state.spare_since = None
        if is_snapshot:
            state.has_snapshot, state.unknown_since = True, None
        elif is_book and not state.has_snapshot:
            self._dropped["no_snapshot"] += 1
            if state.unknown_since is None:
                state.unknown_since = now
            elif now - state.unknown_since > PRODUCT_SILENCE_S:  # the snapshot was lost
                state.unknown_since = now
                _ask_snapshot(state, received)
            return False
        return True

    def follow_another(
        self, state: ProductState, sources: Iterable[Source], received: Received
    ) -> None:
        """Replace a lost primary by one of ``sources``, or by None; see the module for the choice.

        A snapshot of each book that the new primary holds is requested, and a kept heartbeat is
        dropped.
        """
        product_id = state.product_id
        carriers = [s for s in sources if product_id in s.products and _carries(s, product_id)]
        with_book = [s for s in carriers if s.holds_any(_BOOKS, product_id)]
        state.leader = next(iter(with_book or carriers), None)
        state.has_snapshot = False
        state.spare_since = None
        state.early = None  # after a pause, the kept heartbeat would be old and out of order
        _ask_snapshot(state, received)


def _takes_over(
    state: ProductState, source: Source, topic: Topic, now: float, *, is_snapshot: bool
) -> bool:
    """Say whether ``source``, which is not the primary, becomes it with this message.

    A lost connection does not. The first state from another line since the last state from the
    primary sets ``state.spare_since``: from then on the silence of the primary is measured.
    """
    leader = state.leader
    if source.is_lost or leader is None:
        return not source.is_lost
    if source.line == leader.line:
        if is_snapshot:
            return True
    elif state.spare_since is None:
        state.spare_since = now
    elif now - state.spare_since > LEADER_SILENCE_S:
        return True
    return not (leader.held is None or topic in leader.held or _carries(leader, state.product_id))


def _is_only_on(source: Source, leader: Source | None, topic: Topic) -> bool:
    """Say whether there is a primary, of the line of ``source``, that does not hold ``topic``.

    False for a primary whose ``held`` is None: it holds every topic.
    """
    return (
        leader is not None
        and source.line == leader.line
        and leader.held is not None
        and topic not in leader.held
    )


def _carries(source: Source, product_id: str) -> bool:
    return source.holds_any(BY_TOPIC_CHANNEL, product_id)


def _ask_snapshot(state: ProductState, received: Received) -> None:
    """Request a snapshot of each book of the product that the primary holds.

    Do nothing without a primary, or if its ``held`` is None.
    """
    leader = state.leader
    if leader is not None and leader.held is not None:
        topics = (Topic(channel, state.product_id) for channel in sorted(_BOOKS))
        received.resyncs += [topic for topic in topics if topic in leader.held]
