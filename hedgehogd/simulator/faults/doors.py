"""Faults of what is asked for: handshakes, subscriptions, REST."""

from typing import TYPE_CHECKING, Any

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH
from hedgehogd.simulator.amounts import NS_PER_S, fixed
from hedgehogd.simulator.faults.lines import LostTopic
from hedgehogd.simulator.faults.orders import FaultOrder

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

_BOOKS = frozenset({LEVEL2.name, LEVEL2_BATCH.name})
_PUNCTUATION_PER_ROW = 8  # ["","",""], of which one comma stands between rows

Topic = tuple[str, str]
"""Canonical channel name and product id."""


class _DoorFault:
    """A fault that waits for a request.

    Attributes:
        is_over: True when it will do nothing more.
    """

    def __init__(self, order: FaultOrder) -> None:
        self.is_over = False
        self._order = order
        self._param: Any = order.param
        self._has_fired = False

    def _strike(self) -> None:
        if not self._has_fired:
            self._has_fired = True
            self._order.fired()

    def _aims_at(self, client: "Client", product_id: str) -> bool:
        order = self._order
        return order.client in (None, client.number) and order.product_id in (None, product_id)


class SubscribeFault(_DoorFault):
    """A fault of a subscribe; each method is asked at its time, and one of them does something."""

    def refused(self, client: "Client", product_ids: list[str]) -> str | None:  # noqa: ARG002
        """Return which of the valid ``product_ids`` of a message is refused all the same."""
        return None

    def lost(self, client: "Client", topics: list[Topic]) -> LostTopic | None:  # noqa: ARG002
        """Return what keeps one of the ``topics``, newly subscribed to, from flowing."""
        return None

    def poured(self, client: "Client", topic: Topic) -> int:  # noqa: ARG002
        """Return how many levels a side the book gains before its snapshot is made."""
        return 0


class PartialAck(SubscribeFault):
    """A product that exists is refused, the rest of the request is had."""

    def refused(self, client: "Client", product_ids: list[str]) -> str | None:
        """Return the product asked for, or the last of several; a lone one only if named."""
        suiting = [each for each in product_ids if self._aims_at(client, each)]
        if not suiting or (self._order.product_id is None and len(product_ids) < 2):
            return None
        self._strike()
        self.is_over = True
        return suiting[-1]


class LostSubscription(SubscribeFault):
    """An acknowledged topic never flows; ``LostTopic`` sees to that, and counts."""

    def lost(self, client: "Client", topics: list[Topic]) -> LostTopic | None:
        """Return what loses the last topic that suits."""
        suiting = [
            topic
            for topic in topics
            if self._aims_at(client, topic[1]) and self._param in (None, topic[0])
        ]
        if not suiting:
            return None
        self.is_over = True
        return LostTopic(self._order, client, suiting[-1])


class BigSnapshot(SubscribeFault):
    """The book becomes so deep that its snapshot has the size asked for."""

    def poured(self, client: "Client", topic: Topic) -> int:
        """Return how many levels that takes."""
        channel, product_id = topic
        if channel not in _BOOKS or not self._aims_at(client, product_id):
            return 0
        self._strike()
        self.is_over = True
        product = self._order.market.products[product_id]
        price = fixed(product.price_ticks, product.price_decimals)
        size = fixed(product.size_units, product.size_decimals)
        row_bytes = len(price) + len(size) + _PUNCTUATION_PER_ROW
        return 1 + int(self._param) // (2 * row_bytes)


class Http(_DoorFault):
    """Handshakes are answered with an HTTP status instead."""

    def refused(self) -> int:
        """Return the status."""
        status, times = self._param
        self._param = status, times - 1
        self.is_over = times == 1
        self._strike()
        return int(status)


class RestFault(_DoorFault):
    """A fault of REST; each method is asked at its time, and one of them does something."""

    def status(self, path: str) -> int | None:  # noqa: ARG002
        """Return the status that answers a request instead of what was asked for."""
        return None

    def pause_s(self, path: str) -> float:  # noqa: ARG002
        """Return how many seconds the answer waits."""
        return 0.0

    def hidden_ns(self, product_id: str, newest_ns: int) -> int | None:  # noqa: ARG002
        """Return the time, ns since the epoch, from which on trades are not shown yet."""
        return None

    def _is_about(self, path: str) -> bool:
        product_id = self._order.product_id
        return product_id is None or f"/products/{product_id}" in path


class RestError(RestFault):
    """Requests are answered with an HTTP status and nothing else."""

    def status(self, path: str) -> int | None:
        """Return the status, as often as was asked for."""
        if not self._is_about(path):
            return None
        status, times = self._param
        self._param = status, times - 1
        self.is_over = times == 1
        self._strike()
        return int(status)


class RestSlow(RestFault):
    """One answer comes late."""

    def pause_s(self, path: str) -> float:
        """Return the pause."""
        if not self._is_about(path):
            return 0.0
        self.is_over = True
        self._strike()
        return float(self._param)


class RestStale(RestFault):
    """One first page of trades, asked for without cursors, is some seconds old (FEED §13)."""

    def hidden_ns(self, product_id: str, newest_ns: int) -> int | None:
        """Return the time, if that hides any trade at all."""
        since_ns = self._order.market.now_ns - int(self._param * NS_PER_S)
        if self._order.product_id not in (None, product_id) or newest_ns < since_ns:
            return None
        self.is_over = True
        self._strike()
        return since_ns
