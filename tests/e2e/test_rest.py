"""Clients that bootstrap by REST, end to end: through one hedgehogd, and through two."""

import httpx
import pytest
import trio

from tests.e2e.harness import PATIENCE_S, quick, running
from tests.recordings import PRO, recording

pytestmark = pytest.mark.e2e


async def _get(port: int, path: str) -> tuple[int, object, httpx.Headers]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"http://127.0.0.1:{port}{path}")
    return answer.status_code, answer.json(), answer.headers


async def test_a_client_bootstraps_by_rest_through_two_hedgehogds() -> None:
    """Relays can be chained, including their REST."""
    async with running(quick(feed_where="demo")) as first:
        where = f"ws://127.0.0.1:{first.port}/ws-feed"
        async with running(quick(feed_where=where)) as second:
            port = second.port
            assert second.instance.pipe.catalogue.accepts("BTC-USD")
            status, products, _ = await _get(port, "/products")
            assert (status, "BTC-USD" in {each["id"] for each in products}) == (200, True)
            trades = []
            with trio.fail_after(PATIENCE_S):
                while len(trades) < 3:  # the market has just started
                    await trio.sleep(0.2)
                    page = "/products/BTC-USD/trades?limit=3"
                    status, trades, headers = await _get(port, page)
            assert headers["cb-after"] == str(trades[-1]["trade_id"])
            _, older, _ = await _get(port, f"{page}&after={trades[0]['trade_id']}")
            assert [each["trade_id"] for each in older[:2]] == [
                each["trade_id"] for each in trades[1:]
            ]
            status, book, _ = await _get(port, "/products/BTC-USD/book?level=2")
            assert (status, bool(book["bids"] and book["asks"])) == (200, True)
            assert (await _get(port, "/products/NO-USD/book"))[:2] == (404, {"message": "NotFound"})
            status, now, _ = await _get(port, "/time")
            assert (status, now.keys()) == (200, {"iso", "epoch"})


async def test_a_recording_lists_its_products_and_has_no_rest() -> None:
    """The relay must not crash; it answers with an error instead of a price."""
    where = str(recording(f"{PRO}/feed.jsonl"))
    async with running(quick(feed_where=where)) as daemon:
        status, products, _ = await _get(daemon.port, "/products")
        assert (status, "BTC-USD" in {each["id"] for each in products}) == (200, True)
        status, answer, _ = await _get(daemon.port, "/products/BTC-USD/ticker")
        assert (status, answer.keys()) == (503, {"message"})
