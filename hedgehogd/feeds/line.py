"""A line: one whole feed, made of as many connections as its plan has."""

from typing import TYPE_CHECKING

from hedgehogd.arbitration.connection_state import Source
from hedgehogd.arbitration.line_statistics import Race
from hedgehogd.arbitration.placement import Plan
from hedgehogd.engine.health import LineHealth
from hedgehogd.feeds.connection import Connection

if TYPE_CHECKING:
    from hedgehogd.feeds.coinbase import CoinbaseFeed


class Line:
    """One whole feed.

    Attributes:
        feed: what it belongs to.
        number: 0 or 1.
        plan: which connection holds which product.
        connections: by slot; once made, they stay.
        losses: connections lost since start.
    """

    def __init__(self, feed: "CoinbaseFeed", number: int) -> None:
        self.feed = feed
        self.number = number
        self.plan = Plan()
        self.connections: dict[int, Connection] = {}
        self.losses = 0

    def heard(self, slot: int, source: Source, now: float) -> None:
        """Products have begun to flow on ``source``."""
        for product_id in source.products:
            self.plan.arrived(slot, product_id, now)
        if self.plan.next_change_at() is not None:
            self.feed.wake()

    def live(self) -> list[int]:
        """Return the slots whose connections bring data."""
        return [slot for slot, connection in self.connections.items() if connection.is_live]

    def down(self) -> dict[int, str]:
        """Return why each connection that should be live is not."""
        return {
            slot: connection.loss
            for slot, connection in self.connections.items()
            if not connection.is_live
        }

    def health(self, race: Race, now: float) -> LineHealth:
        """Return how the line is at ``now``."""
        connections = self.connections.values()
        ages = [now - each.heard_at for each in connections if each.source]
        return LineHealth(
            number=self.number,
            connections=sum(bool(self.plan.topics(each.slot)) for each in connections),
            live=len(self.live()),
            products=sum(len(each.source.products) for each in connections if each.source),
            connects=sum(each.connects for each in connections),
            losses=self.losses,
            last_loss=next((loss for loss in self.down().values() if loss), ""),
            heard_age_s=min(ages, default=None),
            wins=race.wins[self.number],
            lead_s=race.lead_s(self.number),
            gaps_saved=race.saved[self.number],
        )
