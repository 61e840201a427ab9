"""Which connection a product's state follows: its book, its heartbeats, what has no numbers.

A product has one leader. What others bring of its state is spare, until the leader is lost,
holds nothing of the product any more, or is silent while another line speaks. A book goes on
with the snapshot of the new leader, which is asked for unless it is what came.

While a product moves from one connection of a line to another, the old one leads until the
new one has a snapshot, or the old one lets go. What the old one does not hold is delivered
meanwhile: nobody else could bring it.
"""

from collections import Counter
from collections.abc import Iterable

from hedgehogd.arbitration.batch import Received
from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.product_state import Arrival, ProductState
from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, LEVEL2, LEVEL2_BATCH, Topic
from hedgehogd.domain.limits import LEADER_SILENCE_S, PRODUCT_SILENCE_S

_BOOKS = frozenset({LEVEL2.topic_channel, LEVEL2_BATCH.topic_channel})


class Leading:
    """The rules above, for all products of one feed.

    Args:
        dropped: where ``spare`` and ``no_snapshot`` are counted.
    """

    def __init__(self, dropped: Counter[str]) -> None:
        self._dropped = dropped

    def delivers(
        self, state: ProductState, arrival: Arrival, now: float, received: Received
    ) -> bool:
        """Say whether state that has come is delivered; let the lead move if it has to."""
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
            elif now - state.unknown_since > PRODUCT_SILENCE_S:  # it was lost on its way
                state.unknown_since = now
                _ask_snapshot(state, received)
            return False
        return True

    def follow_another(
        self, state: ProductState, sources: Iterable[Source], received: Received
    ) -> None:
        """The leader is lost: follow another connection that carries the product."""
        product_id = state.product_id
        carriers = [s for s in sources if product_id in s.products and _carries(s, product_id)]
        with_book = [s for s in carriers if s.holds_any(_BOOKS, product_id)]
        state.leader = next(iter(with_book or carriers), None)
        state.has_snapshot = False
        state.spare_since = None
        state.early = None  # after a pause it would be old, and behind what it should precede
        _ask_snapshot(state, received)


def _takes_over(
    state: ProductState, source: Source, topic: Topic, now: float, *, is_snapshot: bool
) -> bool:
    """Say whether ``source``, which does not lead, does so from now on."""
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
    """Say whether no other connection of the line can bring ``topic``."""
    return (
        leader is not None
        and source.line == leader.line
        and leader.held is not None
        and topic not in leader.held
    )


def _carries(source: Source, product_id: str) -> bool:
    return source.holds_any(BY_TOPIC_CHANNEL, product_id)


def _ask_snapshot(state: ProductState, received: Received) -> None:
    """The book goes on from another connection: it has to begin anew there."""
    leader = state.leader
    if leader is not None and leader.held is not None:
        topics = (Topic(channel, state.product_id) for channel in sorted(_BOOKS))
        received.resyncs += [topic for topic in topics if topic in leader.held]
