"""coinbase-pro 0.9.0 for Node: it asks for compression, and checks every sequence."""

import pytest

from tests.clients.checks import (
    WRONG,
    check_book,
    check_heartbeats,
    check_level2,
    check_trades,
)
from tests.clients.harness import drive
from tests.clients.wire import tapped

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.xdist_group("clients")]


async def test_coinbase_pro_gets_trades_books_heartbeats_and_compression(coinbase_pro, relayed):
    """It offers permessage-deflate with its own window size."""
    async with tapped(relayed.port) as tap:
        channels = "matches,ticker,level2"
        arguments = ("stream", tap.url, channels, "BTC-USD,ETH-USD", 4000, 20)
        driver = await drive(coinbase_pro, *arguments)
    assert "permessage-deflate" in tap.request()["sec-websocket-extensions"]
    assert "permessage-deflate" in tap.answer().get("sec-websocket-extensions", "")
    for product in ("BTC-USD", "ETH-USD"):
        check_trades(driver, product)
        check_level2(driver, product)
        check_heartbeats(driver, product)


async def test_a_wrong_product_is_an_error_event_and_the_valid_one_is_served(coinbase_pro, relayed):
    """The error has Coinbase's message and reason."""
    arguments = ("stream", relayed.url, "ticker", "BTC-USD,XYZ-ABC", 4, 20)
    driver = await drive(coinbase_pro, *arguments)
    assert {"kind": "error", **WRONG} in driver.of("error")
    assert {m["product_id"] for m in driver.messages("ticker")} == {"BTC-USD"}


async def test_the_order_book_stays_in_sync(coinbase_pro, relayed):
    """It reloads when any sequence, also a heartbeat's, is not the next; here it never must."""
    driver = await check_book(coinbase_pro, relayed, "BTC-USD")
    assert len(driver.of("loading")) == 1
