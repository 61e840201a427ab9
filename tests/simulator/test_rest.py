"""The REST of the simulated exchange, in Coinbase's form (docs/COINBASE.md §13)."""

import json
from decimal import Decimal
from itertools import groupby

import pytest

from hedgehogd.simulator.market import Market
from hedgehogd.simulator.rest import market_app
from tests.simulator.peers import (
    LISTED,
    get,
    market,
)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/products/NO-USD", 404, "NotFound"),
        ("/products/NO-USD/trades", 404, "NotFound"),
        ("/products/NO-USD/book", 404, "NotFound"),
        ("/products/NO-USD/ticker", 404, "NotFound"),
        ("/products/NO-USD/candles", 404, "NotFound"),
        ("/currencies/NO", 404, "NotFound"),
        ("/products/BTC-USD/candles?granularity=61", 400, "Unsupported granularity"),
        ("/nothing", 404, "NotFound"),
        ("/products/BTC-USD/book?level=4", 400, "unexpected level: _"),
        ("/products/BTC-USD/trades?before=x", 400, "invalid before: x"),
    ],
)
async def test_rest_errors_have_the_exchanges_text(exchange, path, status, message):
    """Clients may match on the text."""
    answer = await get(exchange, path)

    assert (answer.status_code, answer.json()) == (status, {"message": message})


@pytest.mark.e2e
async def test_trades_are_paged_as_the_exchange_does(nursery, exchange, connect):
    """``after`` pages back; ``before`` gives the newest page, not the next (COINBASE §13)."""
    async with connect(exchange.url) as client:
        await client.send(channels=["matches"], product_ids=["BTC-USD"])
        matches = []
        while len(matches) < 12:
            matches += [m for m in await client.receive_until("match") if m["type"] == "match"]
    low, high = matches[2]["trade_id"], matches[9]["trade_id"]
    older = await get(exchange, f"/products/BTC-USD/trades?after={high}&limit=3")
    newest = await get(exchange, f"/products/BTC-USD/trades?before={low}&limit=4")
    between = await get(exchange, f"/products/BTC-USD/trades?before={low}&after={high}")
    nothing = await get(exchange, f"/products/BTC-USD/trades?before={high + 10**9}")

    assert [trade["trade_id"] for trade in older.json()] == [high - 1, high - 2, high - 3]
    assert (older.headers["cb-before"], older.headers["cb-after"]) == (str(high - 1), str(high - 3))
    assert newest.json()[-1]["trade_id"] > low + 1
    assert [trade["trade_id"] for trade in between.json()] == list(range(high - 1, low, -1))
    assert (nothing.json(), "cb-before" in nothing.headers) == ([], False)
    trade, match = between.json()[0], matches[8]
    assert (trade["side"], trade["time"]) == (match["side"], match["time"])
    assert float(trade["size"]) == float(match["size"])


async def test_the_book_by_rest_is_the_book_of_the_feed():
    """Bootstrapping by REST and by snapshot must give the same book."""
    world = market()
    for _ in world.advance(world.now_ns + 10**9):
        pass
    client = market_app(world).test_client()
    snapshot = json.loads(world.initial_state("level2", "BTC-USD"))
    whole = await (await client.get("/products/BTC-USD/book?level=2")).get_json()
    orders = await (await client.get("/products/BTC-USD/book?level=3")).get_json()
    best = await (await client.get("/products/BTC-USD/book")).get_json()
    ticker = await (await client.get("/products/BTC-USD/ticker")).get_json()

    for side in ("bids", "asks"):
        assert [row[:2] for row in whole[side]] == snapshot[side]
        assert best[side] == whole[side][:1]
        assert isinstance(best[side][0][2], int)
        by_price = [list(rows) for _, rows in groupby(orders[side], key=lambda row: row[0])]
        assert [[rows[0][0], len(rows)] for rows in by_price] == [
            [price, count] for price, _, count in whole[side]
        ]
        assert [sum(Decimal(size) for _, size, _ in rows) for rows in by_price] == [
            Decimal(size) for _, size, _ in whole[side]
        ]
    assert len({row[2] for row in orders["bids"] + orders["asks"]}) > 800
    assert orders["sequence"] == whole["sequence"] == world.trading("BTC-USD").engine.sequence
    assert (ticker["bid"], ticker["ask"]) == (best["bids"][0][0], best["asks"][0][0])
    assert ticker["trade_id"] == json.loads(world.initial_state("ticker", "BTC-USD"))["trade_id"]


async def test_candles_and_currencies_are_served():
    """Clients request both when they start (docs/COINBASE.md §13, §15)."""
    world = market(5)
    for _ in world.advance(world.now_ns + 3 * 10**9, ()):
        pass
    client = market_app(world).test_client()
    answer = await client.get("/products/BTC-USD/candles?granularity=60")
    candles = await answer.get_json()
    all_currencies = await (await client.get("/currencies")).get_json()
    one = await (await client.get("/currencies/BTC")).get_json()

    assert [len(row) for row in candles] == [6]
    assert all(isinstance(number, int | float) for row in candles for number in row)
    assert one in all_currencies
    assert one["id"] == "BTC"


async def test_all_products_are_in_one_answer():
    """The exchange's web page reads these; the numbers equal those of the products' own routes."""
    stage = Market(1, 1_790_000_000_000_000_000, LISTED[:3], 1.0)
    client = market_app(stage).test_client()
    stats, volumes, lines = [
        await (await client.get(f"/products/{name}")).get_json()
        for name in ("stats", "volume-summary", "spark-lines")
    ]

    assert list(stats) == list(lines) == [row["id"] for row in volumes] == list(stage.products)
    for row in volumes:
        path = f"/products/{row['id']}"
        own = await (await client.get(f"{path}/stats")).get_json()
        of_day, of_month = stats[row["id"]]["stats_24hour"], stats[row["id"]]["stats_30day"]
        assert of_day.pop("rfq_volume") == of_month["rfq_volume"] == row["rfq_volume_24hour"]
        assert own == {**of_day, "volume_30day": of_month["volume"]}
        assert (row["spot_volume_24hour"], row["spot_volume_30day"]) == (
            own["volume"],
            own["volume_30day"],
        )
        assert f"{row['base_currency']}-{row['quote_currency']}" == row["id"]
        candles = await (await client.get(f"{path}/candles?granularity=3600")).get_json()
        assert lines[row["id"]] == [[candle[0], candle[4]] for candle in candles[:24]]
