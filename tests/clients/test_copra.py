"""copra 1.2.9: products only in its channel objects, and a close handshake that it awaits."""

import pytest

from tests.clients.checks import WRONG, check_heartbeats, check_level2, check_trades
from tests.clients.harness import drive
from tests.clients.wire import CLOSE, opcodes, tapped

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.xdist_group("clients")]


async def test_copra_gets_all_its_channels_and_a_close_frame(copra, relayed):
    """It ends with a close frame, and receives one as the answer."""
    async with tapped(relayed.port) as tap:
        channels = "matches,ticker,heartbeat,level2"
        driver = await drive(copra, "stream", tap.url, channels, "BTC-USD,ETH-USD", 4000, 20)
    assert tap.request()["upgrade"] == "WebSocket"
    assert opcodes(tap.sent)[-1] == opcodes(tap.received)[-1] == CLOSE
    (closed,) = driver.of("closed")
    assert (True, None) == (closed["clean"], closed["code"])  # it sends no code
    for product in ("BTC-USD", "ETH-USD"):
        check_trades(driver, product)
        check_level2(driver, product)
        check_heartbeats(driver, product)


async def test_copra_logs_a_wrong_product_and_gets_the_valid_one(copra, relayed):
    """Its user sees an error as one line in the log."""
    driver = await drive(copra, "stream", relayed.url, "ticker", "BTC-USD,XYZ-ABC", 4, 20)
    assert [{"kind": "error", **WRONG}] == driver.of("error")
    assert f"{WRONG['message']}. {WRONG['reason']}" in driver.stderr
    assert {m["product_id"] for m in driver.messages("ticker")} == {"BTC-USD"}
