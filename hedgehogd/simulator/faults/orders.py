"""A request for a fault: one order makes one fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hedgehogd.simulator.market import Market


class FaultError(ValueError):
    """No such fault, an invalid parameter, product or connection, or too many armed faults."""


@dataclass
class FaultOrder:
    """The settings of one armed fault.

    Attributes:
        name: its name in ``kinds.KINDS``.
        param: the parameter, as read by its kind.
        product_id: only this product; None for the first that matches.
        client: only the connection of this number; None for the first that matches.
        market: the true state, from which plausible false messages are derived.
        fired: call it once, at the first effect.
    """

    name: str
    param: Any
    product_id: str | None
    client: int | None
    market: Market
    fired: Callable[[], None]
