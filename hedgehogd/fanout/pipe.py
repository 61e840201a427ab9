"""The pipe: the parts of one instance that all its sessions use."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from hedgehogd.arbitration.flows import Flows
from hedgehogd.books.level2_books import Books
from hedgehogd.books.level3_books import OrderBooks
from hedgehogd.books.snapshots import Snapshots
from hedgehogd.domain.backfilled import Backfilled
from hedgehogd.domain.channel import FULL, LEVEL2, LEVEL2_BATCH, LEVEL3
from hedgehogd.domain.limits import WAITING_BYTES_MAX
from hedgehogd.domain.message import Message
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.budget import Budget
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.tape import Tape
from hedgehogd.fanout.active_notices import ActiveNotices
from hedgehogd.fanout.hub import Hub
from hedgehogd.fanout.last_values import LastValues
from hedgehogd.recovery.history_port import Others, Past
from hedgehogd.recovery.service import Resumes


class Pipe(NamedTuple):
    """The parts of one instance that all its sessions use.

    Attributes:
        tape: recent messages.
        flows: the topics that the feed holds.
        hub: members by topic.
        latest: the newest messages of state.
        ``standing``: the notices in force.
        demand: the topics that the feed has to hold.
        catalogue: the products of the exchange, and its refusals.
        books: level-2 books.
        orders: level-3 books.
        snapshots: subscribers of books that wait for a snapshot, and shared snapshots.
        resumes: the service for catch-ups and replays.
        backfilled: trades that were fetched recently.
        budget: the bound of all backlogs together.
        now: returns the monotonic time in seconds.
        wall_us: returns the wall-clock time, µs since the epoch.
    """

    tape: Tape
    flows: Flows
    hub: Hub
    latest: LastValues
    standing: ActiveNotices
    demand: Demand
    catalogue: Catalogue
    books: Books
    orders: OrderBooks
    snapshots: Snapshots
    resumes: Resumes
    backfilled: Backfilled
    budget: Budget
    now: Callable[[], float]
    wall_us: Callable[[], int]

    @classmethod
    def build(
        cls,
        tape: Tape,
        demand: Demand,
        catalogue: Catalogue,
        now: Callable[[], float],
        wall_us: Callable[[], int] = lambda: 0,
        waiting_bytes_max: int = WAITING_BYTES_MAX,
        past: Past | None = None,
        others: Others | None = None,
    ) -> "Pipe":
        """Build the parts of one instance and connect them.

        Without ``past`` there is no history, without ``others`` no peer instance.
        """
        books = Books(demand, catalogue.is_in_auction)
        budget = Budget(waiting_bytes_max)
        return cls(
            tape=tape,
            flows=Flows(),
            hub=Hub(tape),
            latest=LastValues(),
            standing=ActiveNotices(),
            demand=demand,
            catalogue=catalogue,
            books=books,
            orders=OrderBooks(),
            snapshots=Snapshots(books, tape, budget),
            resumes=Resumes(tape, wall_us, budget, past, others),
            backfilled=Backfilled(),
            budget=budget,
            now=now,
            wall_us=wall_us,
        )

    def book_states(self) -> dict[int, Counter[str]]:
        """Return how many books are ``live``, ``loading`` and ``stale``, by level: 2 and 3.

        A stale book has ended and is not in memory: the feed no longer updates it. A channel that
        the exchange refused has no book.
        """
        states: dict[int, Counter[str]] = {}
        for level, books, channels in (
            (2, self.books, (LEVEL2, LEVEL2_BATCH)),
            (3, self.orders, (FULL, LEVEL3)),
        ):
            names = {channel.topic_channel for channel in channels}
            names = {name for name in names if self.catalogue.refusal_of(name) is None}
            flowing = {t.product_id for t in self.flows.topics or () if t.channel in names} - {""}
            counts = states[level] = Counter(live=len(books), loading=0, stale=0)
            for product_id in flowing | books.products():
                if not books.is_live(product_id):
                    is_stale = self.standing.is_stale(product_id)
                    counts["stale" if is_stale else "loading"] += 1
        return states

    def deflates(self, message: Message) -> bool:
        """Say whether any subscriber of ``message``, live or waiting, negotiated compression."""
        return any(
            self.hub.deflates(topic) or self.snapshots.deflates(topic)
            for topic in (message.topic, message.also)
            if topic is not None
        )
