"""The products of the simulated exchange."""

import pytest

from hedgehogd.simulator import Simulation, serve_exchange
from hedgehogd.simulator.products import LISTED, products_for
from tests.simulator.peers import get


@pytest.mark.e2e
async def test_rest_lists_the_products_of_the_feed(nursery):
    """Relays read the list before they subscribe (docs/COINBASE.md §13)."""
    address = await nursery.start(serve_exchange, Simulation(pairs=("NEW-PAIR",)))
    products = (await get(address, "/products")).json()
    one = await get(address, "/products/NEW-PAIR")
    currencies = (await get(address, "/currencies")).json()
    now = (await get(address, "/time")).json()

    assert [*[product.id for product in LISTED], "NEW-PAIR"] == [p["id"] for p in products]
    assert one.json() == products[-1]
    assert (products[0]["base_increment"], products[0]["quote_increment"]) == ("0.00000001", "0.01")
    assert {"BTC", "NEW"} <= {currency["id"] for currency in currencies}
    assert now["iso"].endswith("Z")
    assert now["epoch"] > 1.7e9


def test_an_unlisted_product_is_always_the_same():
    """A seed determines a market only if its products are the same in each run."""
    first, again = (products_for(["NEW-PAIR", "BTC-USD", "NEW-PAIR"]) for _ in range(2))

    assert first == again
    assert [product.id for product in first] == [*[product.id for product in LISTED], "NEW-PAIR"]
    assert (first[-1].base, first[-1].quote) == ("NEW", "PAIR")


@pytest.mark.parametrize("product", LISTED, ids=lambda product: product.id)
def test_prices_have_room_below_them(product):
    """A book of hundreds of levels must not reach a price of zero."""
    assert product.price_ticks > 2000
    assert product.size_units > 100
    assert product.changes_per_s < product.events_per_s
