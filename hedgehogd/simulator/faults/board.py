"""The armed faults of one exchange, and how often each has fired."""

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

# Limit of armed faults; a larger number is a mistake of the caller, since none has matched yet.
ARMED_MAX = 1000


class Faults:
    """The faults of one exchange, which calls this at every point where a fault may apply.

    Only ``fire`` arms a fault, and only ``run`` does so repeatedly. Both are deterministic; an
    armed fault takes effect at the first message, subscribe, handshake or REST request that
    matches it, in the order of arming.

    Attributes:
        fired: by name, number of armed faults that have changed anything. A fault counts
            once, at its first effect.
        clients: connections by number, from 1.
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
            param: as its kind defines, as text or number; None for the kind's default.
            product_id: apply only to this product; None for the first that matches.
            client: apply only to the connection of this number; None for the first.

        Raises:
            FaultError: no such fault, parameter, product or connection, or too many armed.
        """
        kind = find_kind(name)
        value = read_param(name, None if param is None else str(param))
        if product_id is not None and product_id not in self._market.products:
            raise FaultError(f"fault {name}: there is no product {product_id!r}")
        if client is not None and client not in self.clients:
            raise FaultError(f"fault {name}: there is no connection {client}")
        self._forget_finished()
        if len(self._armed) == ARMED_MAX:
            raise FaultError(f"fault {name}: {ARMED_MAX} are armed and have not fired yet")

        def fired() -> None:
            self.fired[name] += 1

        order = FaultOrder(name, value, product_id, client, self._market, fired)
        self._arm(name, kind.make(order))

    def armed(self, name: str) -> int:
        """Return the number of faults of that name that are armed or in effect."""
        self._forget_finished()
        return sum(each == name for each, _ in self._armed)

    async def run(self, recurring: Sequence[tuple[str, str | None]], seed: int) -> None:
        """Fire ``recurring``, pairs of name and parameter, repeatedly until cancelled.

        The pauses of each are drawn around its kind's period, from ``seed``. A fault that has
        not fired yet is not armed a second time.

        Raises:
            FaultError: an invalid name or parameter.
        """
        async with trio.open_nursery() as nursery:
            for at, (name, param) in enumerate(recurring):
                read_param(name, param)
                nursery.start_soon(self._recur, name, param, random.Random(f"{seed} {at} {name}"))

    async def _recur(self, name: str, param: str | None, rng: random.Random) -> None:
        period_s = find_kind(name).period_s
        while True:
            await trio.sleep(period_s * rng.uniform(0.5, 1.5))
            if not self.armed(name):
                self.fire(name, param)

    @property
    def watches_lines(self) -> bool:
        """True while a fault may change a message; otherwise ``apply`` need not be called."""
        return bool(self._lines)

    def apply(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        """Apply the faults; return the messages that are sent to ``client`` for ``outgoing``."""
        if client.is_leaving:
            return (outgoing,)  # it will not be sent, so no fault counts
        messages: list[Outgoing] = [outgoing]
        for fault in tuple(self._lines):
            messages = [each for one in messages for each in fault.apply(client, one)]
        if any(fault.is_over for fault in self._lines):
            self._forget_finished()
        return messages

    def refused_product(self, client: "Client", product_ids: Iterable[str]) -> str | None:
        """Return the one of the valid ``product_ids`` of a subscribe that a fault refuses.

        None when none does.
        """
        listed = list(product_ids)
        return next(filter(None, (f.refused(client, listed) for f in self._doors())), None)

    def subscribed(self, client: "Client", topics: Iterable[Topic]) -> None:
        """Arm ``LostTopic`` if a fault suppresses one of the topics that a subscribe adds.

        Call it before any of their messages is sent.
        """
        listed = list(topics)
        for fault in self._doors():
            lost = fault.lost(client, listed)
            if lost is not None:
                self._arm("lost_subscription", lost)

    def levels_to_add(self, client: "Client", topic: Topic) -> int:
        """Return the levels to add to each side of a book before its snapshot for ``client``."""
        return sum(fault.levels_to_add(client, topic) for fault in self._doors())

    def unsubscribed(self, client: "Client", topic: Topic) -> None:
        """End the ``LostTopic`` of a topic from which ``client`` has unsubscribed."""
        for fault in self._lines:
            if isinstance(fault, LostTopic):
                fault.dropped(client, topic)

    def joined(self, client: "Client") -> None:
        """Record a new connection, so that faults can name it."""
        self.clients[client.number] = client

    def left(self, client: "Client") -> None:
        """Forget a connection, and end the faults in effect on it."""
        self.clients.pop(client.number, None)
        for fault in self._lines:
            fault.left(client)

    def handshake_status(self) -> int | None:
        """Return the HTTP status that refuses a handshake; None to accept it.

        Each call is one handshake, and counts for the fault.
        """
        for _, fault in self._armed:
            if isinstance(fault, Http) and not fault.is_over:
                return fault.refused()
        return None

    def rest_status(self, path: str) -> int | None:
        """Return the HTTP status that refuses a REST request; None to answer it.

        Each call is one request, and counts for the fault.
        """
        return next(filter(None, (fault.status(path) for fault in self._rest())), None)

    def rest_pause_s(self, path: str) -> float:
        """Return the delay of a REST answer, in seconds; call it once for each request."""
        return sum(fault.pause_s(path) for fault in self._rest())

    def hidden_since_ns(self, product_id: str, newest_ns: int) -> int | None:
        """Return the time, ns since the epoch, from which on a first page hides trades.

        None to show all. Each call is one request for a first page, and may use the fault up.

        Args:
            product_id: product of the trades.
            newest_ns: time of the latest trade.
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

    def _forget_finished(self) -> None:
        self._armed = [pair for pair in self._armed if not pair[1].is_over]
        self._lines = [fault for fault in self._lines if not fault.is_over]
