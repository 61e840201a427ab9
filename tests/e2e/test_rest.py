"""Clients that bootstrap by REST, end to end: through one hedgehogd, and through two."""

from decimal import Decimal
from pathlib import Path

import httpx
import msgspec
import pytest
import trio

from hedgehogd.engine.health import FeedState
from tests.e2e.harness import PATIENCE_S, quick, running
from tests.recordings import PRO, recording

pytestmark = pytest.mark.e2e

PAIR = "SKL-USD"  # the recording has all its channels


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
    """Before a message has arrived, the answer is an error instead of a price."""
    where = str(recording(f"{PRO}/feed.jsonl"))
    async with running(quick(feed_where=where)) as daemon:
        status, products, _ = await _get(daemon.port, "/products")
        assert (status, "BTC-USD" in {each["id"] for each in products}) == (200, True)
        status, answer, _ = await _get(daemon.port, "/products/BTC-USD/ticker")
        assert (status, answer.keys()) == (503, {"message"})


async def test_a_recording_answers_reads_from_what_it_has_played(tmp_path: Path) -> None:
    """The last of its tickers, trades and levels; an error for a book of orders."""
    lines = recording(f"{PRO}/feed.jsonl").read_bytes().splitlines()
    messages = [msgspec.json.decode(line) for line in lines]
    names = {"snapshot", "l2update", "ticker", "match"}
    played = [each for each in messages if each.get("product_id") == PAIR and each["type"] in names]
    (tmp_path / "feed.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, played)))
    (tmp_path / "feed.recv_ts.txt").write_text("1618677817.0\n" * len(played))  # all at once
    settings = quick(
        feed_where=str(tmp_path),
        feed_pairs=(PAIR,),
        feed_channels=("ticker", "matches", "level2"),
    )
    async with running(settings) as daemon:
        with trio.fail_after(PATIENCE_S):
            while daemon.instance.health.state is not FeedState.ENDED:
                await trio.sleep(0.05)
        paths = ("ticker", "stats", "trades", "book?level=1", "book?level=2", "book?level=3")
        answers = {path: await _get(daemon.port, f"/products/{PAIR}/{path}") for path in paths}
        products = await _get(daemon.port, "/products")
        one = await _get(daemon.port, f"/products/{PAIR}")
        other = await _get(daemon.port, "/products/ETH-USD/ticker")

    def of(kind: str) -> list[dict]:
        return [message for message in played if message["type"] == kind]

    statuses = {path: status for path, (status, *_) in answers.items()}
    bodies = {path: body for path, (_, body, _) in answers.items()}
    ticker = of("ticker")[-1]
    assert statuses == dict.fromkeys(paths, 200) | {"book?level=3": 503}
    assert bodies["ticker"] == {
        "ask": ticker["best_ask"], "bid": ticker["best_bid"], "volume": ticker["volume_24h"],
        "trade_id": ticker["trade_id"], "price": ticker["price"], "size": ticker["last_size"],
        "time": ticker["time"],
    }  # fmt: skip
    assert bodies["stats"] == {
        "open": ticker["open_24h"], "high": ticker["high_24h"], "low": ticker["low_24h"],
        "last": ticker["price"], "volume": ticker["volume_24h"],
        "volume_30day": ticker["volume_30d"],
    }  # fmt: skip
    fields = ("trade_id", "side", "size", "price", "time")
    trades = [{name: each[name] for name in fields} for each in reversed(of("match"))]
    assert len(trades) > 1
    assert bodies["trades"] == trades
    sides = {"bids": of("snapshot")[0]["bids"], "asks": of("snapshot")[0]["asks"]}
    levels = {name: {Decimal(row[0]): row[1] for row in rows} for name, rows in sides.items()}
    for update in of("l2update"):
        for side, price, size in update["changes"]:
            levels["bids" if side == "buy" else "asks"][Decimal(price)] = size
    for name, is_bid in (("bids", True), ("asks", False)):
        kept = [(price, size) for price, size in levels[name].items() if Decimal(size)]
        kept.sort(reverse=is_bid)
        for path, depth in (("book?level=1", 1), ("book?level=2", None)):
            rows = [(Decimal(price), size) for price, size, _ in bodies[path][name]]
            assert rows == kept[:depth], path
    assert products[0] == one[0] == 200
    assert [each["id"] for each in products[1]] == [PAIR]
    assert one[1] == products[1][0]
    assert other[:2] == (503, answers["book?level=3"][1])
