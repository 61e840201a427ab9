"""cbpro 1.1.4: it sends a ping before every receive, and does not reconnect."""

import pytest

from tests.clients.checks import WRONG, check_book, check_level2, check_trades
from tests.clients.harness import drive
from tests.clients.wire import PING, PONG, opcodes, tapped

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.xdist_group("clients")]

PRODUCTS = ["BTC-USD", "ETH-USD", "LTC-USD"]


async def test_cbpro_gets_trades_books_and_a_pong_for_each_of_hundreds_of_pings(cbpro, relayed):
    """A limit on control frames, or pongs queued after data, would break this client."""
    async with tapped(relayed.port) as tap:
        channels = "matches,ticker,level2"
        driver = await drive(cbpro, "stream", tap.url, channels, ",".join(PRODUCTS), 4000, 20)
    pings, pongs = opcodes(tap.sent).count(PING), opcodes(tap.received).count(PONG)
    assert tap.request()["origin"] == tap.url.replace("ws:", "http:")
    assert "sec-websocket-extensions" not in tap.answer()
    assert pings >= 500
    assert pings - 5 <= pongs <= pings  # the last ones were in flight at the end
    assert driver.of("closed") == [{"kind": "closed", "error": None}]
    for product in PRODUCTS:
        check_trades(driver, product)
        check_level2(driver, product)


async def test_cbpro_gets_an_error_for_a_wrong_product_and_the_valid_one(cbpro, relayed):
    """As from the exchange: the error first, then the valid product."""
    arguments = ("stream", relayed.url + "/", "ticker", "BTC-USD,XYZ-ABC", 4, 20)
    driver = await drive(cbpro, *arguments)
    (ack,) = driver.messages("subscriptions")
    assert [{"type": "error", **WRONG}] == driver.messages("error")
    assert [row["product_ids"] for row in ack["channels"]] == [["BTC-USD"]]
    assert {m["product_id"] for m in driver.messages("ticker")} == {"BTC-USD"}


async def test_the_order_book_stays_in_sync(cbpro, relayed):
    """A book by REST and changes by ``full`` must fit, at the start and later."""
    driver = await check_book(cbpro, relayed, "ETH-USD")
    assert not [line for line in driver.output if "messages missing" in line]
    assert "Traceback" not in driver.stderr
