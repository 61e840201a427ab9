"""The pipe: the parts of one instance that its sessions are plugged into."""

from collections.abc import Callable
from typing import NamedTuple

from hedgehogd.domain.backfilled import Backfilled
from hedgehogd.domain.message import Message
from hedgehogd.domain.product import Catalogue
from hedgehogd.engine.books import Books
from hedgehogd.engine.demand import Demand
from hedgehogd.engine.hub import Hub
from hedgehogd.engine.latest import Latest
from hedgehogd.engine.orders import OrderBooks
from hedgehogd.engine.resume import Resumes
from hedgehogd.engine.snapshots import Snapshots
from hedgehogd.engine.standing import Standing
from hedgehogd.engine.tape import Tape


class Pipe(NamedTuple):
    """The parts of one instance that sessions are plugged into."""

    tape: Tape
    hub: Hub
    latest: Latest
    standing: Standing
    demand: Demand
    catalogue: Catalogue
    books: Books
    orders: OrderBooks
    snapshots: Snapshots
    resumes: Resumes
    backfilled: Backfilled
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
    ) -> "Pipe":
        """Plug the parts of one instance together."""
        books = Books(demand)
        return cls(
            tape=tape,
            hub=Hub(tape),
            latest=Latest(),
            standing=Standing(),
            demand=demand,
            catalogue=catalogue,
            books=books,
            orders=OrderBooks(),
            snapshots=Snapshots(books, tape),
            resumes=Resumes(tape, wall_us),
            backfilled=Backfilled(),
            now=now,
            wall_us=wall_us,
        )

    def deflates(self, message: Message) -> bool:
        """Say whether somebody gets ``message`` who negotiated compression."""
        return any(
            self.hub.deflates(topic) or self.snapshots.deflates(topic)
            for topic in (message.topic, message.also)
            if topic is not None
        )
