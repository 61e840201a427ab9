"""The products that the simulated exchange lists, and the activity of each.

Prices, increments and rates are near those of 2025 and 2026 (docs/COINBASE.md §7, §12). A
requested product that is not listed is derived from its name, always the same way.
"""

import random
from collections.abc import Iterable
from typing import NamedTuple

from hedgehogd.simulator.amounts import fixed, parse


class Product(NamedTuple):
    """One market of the simulated exchange.

    Attributes:
        id: for example ``"BTC-USD"``.
        price_decimals: the quote increment is 10 to the minus this.
        size_decimals: the base increment is 10 to the minus this.
        price_ticks: initial price, around which the market moves, in quote increments.
        size_units: a typical size in the book, in base increments.
        changes_per_s: changes to the book, on average (``level2`` messages).
        takers_per_s: orders that trade at once, on average; most make one to a few matches.
        events_per_s: all engine events, on average; most are sent on ``full`` and ``level3`` only.
    """

    id: str
    price_decimals: int
    size_decimals: int
    price_ticks: int
    size_units: int
    changes_per_s: float
    takers_per_s: float
    events_per_s: float

    @property
    def base(self) -> str:
        """The currency that is traded."""
        return self.id.partition("-")[0]

    @property
    def quote(self) -> str:
        """The currency of the price."""
        return self.id.split("-")[1]


def _listed(
    product_id: str,
    price: str,
    price_decimals: int,
    size: str,
    size_decimals: int,
    per_s: tuple[float, float, float],
) -> Product:
    price_ticks = parse(price, price_decimals)
    return Product(
        product_id, price_decimals, size_decimals, price_ticks, parse(size, size_decimals), *per_s
    )


LISTED = (
    _listed("BTC-USD", "77572.87", 2, "0.05", 8, (120, 3.2, 750)),
    _listed("ETH-USD", "3105.41", 2, "0.8", 8, (90, 2.6, 665)),
    _listed("SOL-USD", "142.37", 2, "14", 8, (45, 1.4, 240)),
    _listed("XRP-USD", "2.1845", 4, "900", 6, (40, 1.2, 200)),
    _listed("BTC-EUR", "66120.53", 2, "0.03", 8, (35, 0.5, 160)),
    _listed("DOGE-USD", "0.17342", 5, "11000", 1, (25, 0.8, 120)),
    _listed("LTC-USD", "84.12", 2, "20", 8, (20, 0.5, 90)),
    _listed("ADA-USD", "0.6643", 4, "2500", 8, (18, 0.5, 80)),
    _listed("LINK-USD", "13.925", 3, "120", 2, (15, 0.4, 70)),
    _listed("AVAX-USD", "21.37", 2, "80", 8, (12, 0.3, 60)),
    _listed("ETH-EUR", "2671.12", 2, "0.4", 8, (15, 0.3, 70)),
    _listed("ETH-BTC", "0.04003", 5, "1.2", 8, (15, 0.3, 70)),
)


def products_for(pairs: Iterable[str]) -> tuple[Product, ...]:
    """Return the built-in list, then the ``pairs`` that are not in it; each once.

    Args:
        pairs: well-formed product ids (``domain.product.is_product_id``).
    """
    listed = {product.id: product for product in LISTED}
    for pair in pairs:
        listed.setdefault(pair, _unlisted(pair))
    return tuple(listed.values())


def _unlisted(product_id: str) -> Product:
    """Return a quiet market with a price between 0.5 and 500, derived from the name."""
    price_ticks = random.Random(product_id).randrange(5_000, 5_000_000)
    return Product(product_id, 4, 2, price_ticks, 10_000, 10.0, 0.3, 40.0)


def rest_object(product: Product) -> dict[str, object]:
    """Return the product as in ``GET /products``, in the form of 2026 (docs/COINBASE.md §13)."""
    return {
        "id": product.id,
        "base_currency": product.base,
        "quote_currency": product.quote,
        "quote_increment": fixed(1, product.price_decimals),
        "base_increment": fixed(1, product.size_decimals),
        "display_name": product.id,
        "min_market_funds": "1",
        "margin_enabled": False,
        "post_only": False,
        "limit_only": False,
        "cancel_only": False,
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
        "fx_stablecoin": False,
        "max_slippage_percentage": "0.02000000",
        "auction_mode": False,
        "high_bid_limit_percentage": "",
    }


def status_object(product: Product) -> dict[str, object]:
    """Return the product as on the ``status`` channel (docs/COINBASE.md §6.2)."""
    whole = rest_object(product)
    keys = (
        "id base_currency quote_currency base_increment quote_increment display_name status "
        "status_message min_market_funds post_only limit_only cancel_only fx_stablecoin"
    )
    return {key: whole[key] for key in keys.split()}


def currencies(products: Iterable[Product]) -> list[dict[str, object]]:
    """Return the currencies of ``products`` as in ``status`` and ``GET /currencies``."""
    decimals: dict[str, int] = {}
    for product in products:
        decimals[product.base] = product.size_decimals
        decimals.setdefault(product.quote, product.price_decimals)
    return [
        {
            "id": code,
            "name": code,
            "display_name": code,
            "min_size": fixed(1, places),
            "status": "online",
            "status_message": "",
            "max_precision": fixed(1, places),
            "convertible_to": [],
            "details": {"type": "crypto", "network_confirmations": 2},
            "default_network": code.lower(),
            "supported_networks": [],
        }
        for code, places in sorted(decimals.items())
    ]
