"""What somebody asked to go wrong: one order for one fault."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hedgehogd.simulator.market import Market


class FaultError(ValueError):
    """There is no such fault, or not with that parameter, product or connection."""


@dataclass
class FaultOrder:
    """One fault, armed.

    Attributes:
        name: its name in ``kinds.KINDS``.
        param: what its kind's reader made of the parameter's text.
        product_id: only this product; None for the first that suits.
        client: only the connection of this number; None for the first that suits.
        market: the truth, for lies that must look like it.
        fired: call it once, when bytes are really spoilt.
    """

    name: str
    param: Any
    product_id: str | None
    client: int | None
    market: Market
    fired: Callable[[], None]
