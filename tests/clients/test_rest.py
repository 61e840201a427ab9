"""The REST clients of cbpro and coinbase-pro. They run last: the market needs 1100 trades."""

import pytest

from tests.clients.checks import check_rest, wait_for_trades
from tests.clients.harness import drive

pytestmark = [pytest.mark.e2e, pytest.mark.clients, pytest.mark.xdist_group("clients")]


async def test_coinbase_pro_gets_coinbases_answers(coinbase_pro, relayed):
    """It pages through trades upward, with ``before`` and ``after`` in one request."""
    driver = await drive(coinbase_pro, "rest", relayed.api_url, "BTC-USD", 350)
    paged = driver.answer("page of trades")
    newest_first = [trade["trade_id"] for trade in paged["page"]]
    assert newest_first == list(range(paged["after"] - 1, paged["after"] - 11, -1))
    await check_rest(driver, relayed.exchange_rest, 349)  # between the two, without either
    assert driver.answer("wrong product") == "HTTP 404 Error: NotFound"


async def test_cbpro_gets_coinbases_answers(cbpro, relayed):
    """1100 trades are two pages: it finds the second by ``cb-after``."""
    await wait_for_trades(relayed.exchange_rest, "BTC-USD", 1100)
    driver = await drive(cbpro, "rest", relayed.api_url, "BTC-USD", 1100)
    await check_rest(driver, relayed.exchange_rest, 1100)
    assert driver.answer("wrong product") == {"message": "NotFound"}
