"""Which faults are armed, and how often each has fired."""

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import trio

from hedgehogd.simulator.faults.doors import Http, RestFault, SubscribeFault, Topic
from hedgehogd.simulator.faults.kinds import Fault, find_kind, read_param
from hedgehogd.simulator.faults.lines import LineFault, LostTopic, Outgoing
from hedgehogd.simulator.faults.orders import FaultError, FaultOrder
from hedgehogd.simulator.market import Market

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

# Armed at once; who arms more has forgotten that they wait for what suits them.
ARMED_MAX = 1000


class Faults:
    """The faults of one exchange: it asks here at every place where something may go wrong.

    Nothing goes wrong by itself: only ``fire`` arms a fault, and only ``run`` does so again
    and again. Both are deterministic; an armed fault strikes at the first message,
    subscribe, handshake or REST request that suits it, in the order of arming.

    Attributes:
        fired: by name, how many of the faults that were armed have spoilt something. Each
            counts once, at its first effect, and not before.
        clients: connections by number, counted from 1.
    """

    def __init__(self, market: Market) -> None:
        self.fired: Counter[str] = Counter()
        self.clients: dict[int, Client] = {}
        self._market = market
        self._armed: list[tuple[str, Fault]] = []
        self._lines: list[LineFault] = []

    def fire(
        self,
        name: str,
        param: object = None,
        product_id: str | None = None,
        client: int | None = None,
    ) -> None:
        """Arm one fault.

        Args:
            name: one of ``kinds.KINDS``.
            param: as its kind says, as text or number; None for the kind's default.
            product_id: strike only at this product; None for the first that suits.
            client: strike only at the connection of this number; None for the first.

        Raises:
            FaultError: no such fault, parameter, product or connection, or too many armed.
        """
        kind = find_kind(name)
        value = read_param(name, None if param is None else str(param))
        if product_id is not None and product_id not in self._market.products:
            raise FaultError(f"fault {name}: there is no product {product_id!r}")
        if client is not None and client not in self.clients:
            raise FaultError(f"fault {name}: there is no connection {client}")
        self._forget_what_is_over()
        if len(self._armed) == ARMED_MAX:
            raise FaultError(f"fault {name}: {ARMED_MAX} are armed and have met nothing yet")

        def fired() -> None:
            self.fired[name] += 1

        order = FaultOrder(name, value, product_id, client, self._market, fired)
        self._arm(name, kind.make(order))

    def armed(self, name: str) -> int:
        """Return how many faults of that name wait, or are at work."""
        self._forget_what_is_over()
        return sum(each == name for each, _ in self._armed)

    async def run(self, wishes: Sequence[tuple[str, str | None]], seed: int) -> None:
        """Fire ``wishes``, pairs of name and parameter, again and again until cancelled.

        The pauses of each are drawn around its kind's period, from ``seed``. One that has
        met nothing yet is not armed a second time.

        Raises:
            FaultError: a wish that cannot be.
        """
        async with trio.open_nursery() as nursery:
            for at, (name, param) in enumerate(wishes):
                read_param(name, param)
                nursery.start_soon(self._recur, name, param, random.Random(f"{seed} {at} {name}"))

    async def _recur(self, name: str, param: str | None, lots: random.Random) -> None:
        period_s = find_kind(name).period_s
        while True:
            await trio.sleep(period_s * lots.uniform(0.5, 1.5))
            if not self.armed(name):
                self.fire(name, param)

    @property
    def watches_lines(self) -> bool:
        """True while a message might be spoilt; otherwise nobody need ask ``spoilt``."""
        return bool(self._lines)

    def spoilt(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        """Return what is sent to ``client`` instead of ``outgoing``."""
        if client.is_leaving:
            return (outgoing,)  # nobody will see it, so it cannot be spoilt
        together: list[Outgoing] = [outgoing]
        for fault in tuple(self._lines):
            together = [each for one in together for each in fault.see(client, one)]
        if any(fault.is_over for fault in self._lines):
            self._forget_what_is_over()
        return together

    def refused_product(self, client: "Client", product_ids: Iterable[str]) -> str | None:
        """Return which of the valid products of a subscribe is refused, or None."""
        listed = list(product_ids)
        return next(filter(None, (f.refused(client, listed) for f in self._doors())), None)

    def subscribed(self, client: "Client", topics: Iterable[Topic]) -> None:
        """Take note of what a subscribe adds, before anything of it is sent."""
        listed = list(topics)
        for fault in self._doors():
            lost = fault.lost(client, listed)
            if lost is not None:
                self._arm("lost_subscription", lost)

    def poured_levels(self, client: "Client", topic: Topic) -> int:
        """Return how many levels a side a book gains before its snapshot for ``client``."""
        return sum(fault.poured(client, topic) for fault in self._doors())

    def unsubscribed(self, client: "Client", topic: Topic) -> None:
        """Take note that ``client`` holds ``topic`` no longer."""
        for fault in self._lines:
            if isinstance(fault, LostTopic):
                fault.dropped(client, topic)

    def joined(self, client: "Client") -> None:
        """Take note of a new connection."""
        self.clients[client.number] = client

    def left(self, client: "Client") -> None:
        """Forget a connection, and the faults at work on it."""
        self.clients.pop(client.number, None)
        for fault in self._lines:
            fault.left(client)

    def handshake_status(self) -> int | None:
        """Return the HTTP status that answers a handshake; None to let it be."""
        for _, fault in self._armed:
            if isinstance(fault, Http) and not fault.is_over:
                return fault.refused()
        return None

    def rest_status(self, path: str) -> int | None:
        """Return the HTTP status that answers a REST request; None to let it be."""
        return next(filter(None, (fault.status(path) for fault in self._rest())), None)

    def rest_pause_s(self, path: str) -> float:
        """Return how long a REST answer waits, in seconds."""
        return sum(fault.pause_s(path) for fault in self._rest())

    def hidden_since_ns(self, product_id: str, newest_ns: int) -> int | None:
        """Return from when on a first page of trades shows none, ns; None to show all.

        Args:
            product_id: whose trades.
            newest_ns: when the latest of them was.
        """
        hidden = (fault.hidden_ns(product_id, newest_ns) for fault in self._rest())
        return next((since for since in hidden if since is not None), None)

    def _arm(self, name: str, fault: Fault) -> None:
        self._armed.append((name, fault))
        if isinstance(fault, LineFault):
            self._lines.append(fault)

    def _doors(self) -> Iterable[SubscribeFault]:
        for _, fault in tuple(self._armed):
            if isinstance(fault, SubscribeFault) and not fault.is_over:
                yield fault

    def _rest(self) -> Iterable[RestFault]:
        for _, fault in tuple(self._armed):
            if isinstance(fault, RestFault) and not fault.is_over:
                yield fault

    def _forget_what_is_over(self) -> None:
        self._armed = [pair for pair in self._armed if not pair[1].is_over]
        self._lines = [fault for fault in self._lines if not fault.is_over]
