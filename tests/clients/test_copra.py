"""copra 1.2.9: products in its channel objects only, and a goodbye that it waits for."""

import pytest

from tests.clients.checks import WRONG, check_heartbeats, check_level2, check_trades
from tests.clients.harness import drive
from tests.clients.wire import CLOSE, opcodes, tapped

pytestmark = [pytest.mark.e2e, pytest.mark.clients]


async def test_it_gets_all_it_can_ask_for_and_a_goodbye(copra, relayed):
    """It leaves with a close frame, and is answered with one."""
    async with tapped(relayed.port) as tap:
        channels = "matches,ticker,heartbeat,level2"
        driver = await drive(copra, "stream", tap.url, channels, "BTC-USD,ETH-USD", 4000, 20)
    assert tap.request()["upgrade"] == "WebSocket"
    assert opcodes(tap.sent)[-1] == opcodes(tap.received)[-1] == CLOSE
    (closed,) = driver.of("closed")
    assert (True, None) == (closed["clean"], closed["code"])  # it gives none, it gets none
    for product in ("BTC-USD", "ETH-USD"):
        check_trades(driver, product)
        check_level2(driver, product)
        check_heartbeats(driver, product)


async def test_it_logs_a_wrong_product_and_gets_the_others(copra, relayed):
    """What its user sees of an error is one line in the log."""
    driver = await drive(copra, "stream", relayed.url, "ticker", "BTC-USD,XYZ-ABC", 4, 20)
    assert [{"kind": "error", **WRONG}] == driver.of("error")
    assert f"{WRONG['message']}. {WRONG['reason']}" in driver.complaints
    assert {m["product_id"] for m in driver.messages("ticker")} == {"BTC-USD"}
