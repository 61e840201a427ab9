"""Faults of requests: handshakes, subscribes, REST."""

from typing import TYPE_CHECKING, Any

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH
from hedgehogd.simulator.amounts import NS_PER_S, fixed
from hedgehogd.simulator.faults.lines import LostTopic
from hedgehogd.simulator.faults.orders import FaultOrder

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

_BOOKS = frozenset({LEVEL2.name, LEVEL2_BATCH.name})
_PUNCTUATION_PER_ROW = 8  # ["","",""], including the comma between rows

Topic = tuple[str, str]
"""Canonical channel name and product id."""


class _RequestFault:
    """A fault that waits for a request.

    Attributes:
        is_over: True when it has no further effect.
    """

    def __init__(self, order: FaultOrder) -> None:
        self.is_over = False
        self._order = order
        self._param: Any = order.param
        self._has_fired = False

    def _mark_fired(self) -> None:
        if not self._has_fired:
            self._has_fired = True
            self._order.fired()

    def _matches(self, client: "Client", product_id: str) -> bool:
        order = self._order
        return order.client in (None, client.number) and order.product_id in (None, product_id)


class SubscribeFault(_RequestFault):
    """A fault of a subscribe; each method is called at its point, and one of them has an effect."""

    def refused(self, client: "Client", product_ids: list[str]) -> str | None:  # noqa: ARG002
        """Return the one of a subscribe's valid ``product_ids`` that is refused, or None."""
        return None

    def lost(self, client: "Client", topics: list[Topic]) -> LostTopic | None:  # noqa: ARG002
        """Return the fault that suppresses one of the new ``topics``, or None."""
        return None

    def levels_to_add(self, client: "Client", topic: Topic) -> int:  # noqa: ARG002
        """Return the levels to add to each side of the book before its snapshot is made."""
        return 0


class PartialAck(SubscribeFault):
    """An existing product is refused; the rest of the request is accepted."""

    def refused(self, client: "Client", product_ids: list[str]) -> str | None:
        """Return the product that the fault names, or the last of several that a client names.

        None otherwise: a subscribe to one product is refused only if the fault names it.
        """
        matching = [each for each in product_ids if self._matches(client, each)]
        if not matching or (self._order.product_id is None and len(product_ids) < 2):
            return None
        self._mark_fired()
        self.is_over = True
        return matching[-1]


class LostSubscription(SubscribeFault):
    """An acknowledged topic never gets a message; ``LostTopic`` suppresses them, and counts."""

    def lost(self, client: "Client", topics: list[Topic]) -> LostTopic | None:
        """Return a fault that suppresses the last topic that matches; None without one."""
        matching = [
            topic
            for topic in topics
            if self._matches(client, topic[1]) and self._param in (None, topic[0])
        ]
        if not matching:
            return None
        self.is_over = True
        return LostTopic(self._order, client, matching[-1])


class BigSnapshot(SubscribeFault):
    """The book gets so many levels that its next snapshot has at least the requested size."""

    def levels_to_add(self, client: "Client", topic: Topic) -> int:
        """Return the number of levels that this takes; 0 for a topic that does not match."""
        channel, product_id = topic
        if channel not in _BOOKS or not self._matches(client, product_id):
            return 0
        self._mark_fired()
        self.is_over = True
        product = self._order.market.products[product_id]
        price = fixed(product.price_ticks, product.price_decimals)
        size = fixed(product.size_units, product.size_decimals)
        row_bytes = len(price) + len(size) + _PUNCTUATION_PER_ROW
        return 1 + int(self._param) // (2 * row_bytes)


class Http(_RequestFault):
    """A handshake is answered with an HTTP error status."""

    def refused(self) -> int:
        """Return the status; the fault is over after as many calls as the parameter says."""
        status, times = self._param
        self._param = status, times - 1
        self.is_over = times == 1
        self._mark_fired()
        return int(status)


class RestFault(_RequestFault):
    """A fault of REST; each method is called at its point, and one of them has an effect."""

    def status(self, path: str) -> int | None:  # noqa: ARG002
        """Return the error status that answers a request, or None."""
        return None

    def pause_s(self, path: str) -> float:  # noqa: ARG002
        """Return the delay of the answer, in seconds."""
        return 0.0

    def hidden_ns(self, product_id: str, newest_ns: int) -> int | None:  # noqa: ARG002
        """Return the time, ns since the epoch, from which on trades are not shown yet."""
        return None

    def _matches_path(self, path: str) -> bool:
        product_id = self._order.product_id
        return product_id is None or f"/products/{product_id}" in path


class RestError(RestFault):
    """Requests are answered with an HTTP error status and no data."""

    def status(self, path: str) -> int | None:
        """Return the status for the next matching requests, as many as the parameter says."""
        if not self._matches_path(path):
            return None
        status, times = self._param
        self._param = status, times - 1
        self.is_over = times == 1
        self._mark_fired()
        return int(status)


class RestSlow(RestFault):
    """One answer is late."""

    def pause_s(self, path: str) -> float:
        """Return the delay of the first request that matches, in seconds; 0 for any other."""
        if not self._matches_path(path):
            return 0.0
        self.is_over = True
        self._mark_fired()
        return float(self._param)


class RestStale(RestFault):
    """A first page of trades, without cursors, is some seconds old (docs/COINBASE.md §13)."""

    def hidden_ns(self, product_id: str, newest_ns: int) -> int | None:
        """Return the time, for the first request that matches if any trade is newer; or None."""
        since_ns = self._order.market.now_ns - int(self._param * NS_PER_S)
        if self._order.product_id not in (None, product_id) or newest_ns < since_ns:
            return None
        self.is_over = True
        self._mark_fired()
        return since_ns
