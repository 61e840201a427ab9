"""A line: a set of connections that carries the whole feed."""

from collections.abc import Callable, Iterator

from hedgehogd.arbitration.placement import Plan
from hedgehogd.arbitration.session import UpstreamSession
from hedgehogd.engine.health import FeedHealth, LineHealth
from hedgehogd.feeds.connection import Connection, Sink
from hedgehogd.feeds.dialer import Dialer


class Line:
    """A set of connections that carries the whole feed.

    Args:
        number: 0 or 1.
        dialer: connects to the exchange.
        sink: receives messages and changes of state.
        session: arbitrates between all connections of the feed.
        health: the state of the feed; the connections write it.
        wake: called when the feed has to plan again.

    Attributes:
        number: 0 or 1.
        plan: the placement of products on connections.
        connections: by slot; none is ever removed.
    """

    def __init__(
        self,
        number: int,
        dialer: Dialer,
        sink: Sink,
        session: UpstreamSession,
        health: FeedHealth,
        wake: Callable[[], None],
    ) -> None:
        self.number = number
        self.plan = Plan()
        self.connections: dict[int, Connection] = {}
        self._dialer = dialer
        self._sink = sink
        self._session = session
        self._health = health
        self._wake = wake

    def add_connections(self) -> Iterator[Connection]:
        """Add a connection for each slot of the plan that has none; the caller runs each of them.

        A connection is added only when the iterator reaches it.
        """
        for slot in self.plan.slots():
            if slot not in self.connections:
                connection = self.connections[slot] = Connection(
                    self._dialer,
                    self._sink,
                    self._session,
                    self._health,
                    self.plan,
                    line=self.number,
                    slot=slot,
                    wake=self._wake,
                )
                yield connection

    def live(self) -> list[int]:
        """Return the slots with a live connection."""
        return [slot for slot, connection in self.connections.items() if connection.is_live]

    def down(self) -> dict[int, str]:
        """Return, by slot, the ``loss`` of each connection that is not live; it may be empty."""
        return {
            slot: connection.loss
            for slot, connection in self.connections.items()
            if not connection.is_live
        }

    def health(self, now: float) -> LineHealth:
        """Return the health of the line at ``now``, in seconds on ``trio.current_time``'s clock."""
        race = self._session.arbiter.race
        connections = self.connections.values()
        ages = [now - each.heard_at for each in connections if each.source]
        return LineHealth(
            number=self.number,
            connections=sum(bool(self.plan.topics(each.slot)) for each in connections),
            live=len(self.live()),
            products=sum(len(each.source.products) for each in connections if each.source),
            connects=sum(each.connects for each in connections),
            losses=sum(each.losses for each in connections),
            last_loss=next((loss for loss in self.down().values() if loss), ""),
            heard_age_s=min(ages, default=None),
            wins=race.wins[self.number],
            lead_s=race.lead_s(self.number),
            gaps_saved=race.saved[self.number],
        )
