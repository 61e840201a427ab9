"""The exchange's REST routes that relays and clients use to bootstrap (docs/COINBASE.md §13)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from hedgehogd.simulator.amounts import fixed, time_text, trimmed
from hedgehogd.simulator.book import Ladder
from hedgehogd.simulator.candles import CandleError, candles
from hedgehogd.simulator.events import Matched, order_id
from hedgehogd.simulator.faults import Faults
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.messages import volume
from hedgehogd.simulator.products import Product, currencies, rest_object

_PAGE_TRADES_MAX = 1000
_NO_RFQ_VOLUME = "0.000000"
_HOUR = "3600"
_SPARK_LINE_HOURS = 24


def catalogue_app(products: Sequence[Mapping[str, object]], now_ns: Callable[[], int]) -> QuartTrio:
    """Return an app with the routes of every exchange: product list, one product, and time.

    Args:
        products: the objects of ``GET /products``; each has an ``id``.
        now_ns: the exchange's time, ns since the epoch.
    """
    app: QuartTrio = QuartTrio(__name__, static_folder=None)
    by_id = {product["id"]: product for product in products}

    @app.get("/products")
    async def all_products() -> Response:
        return _json(products)

    @app.get("/products/<product_id>")
    async def one_product(product_id: str) -> Response:
        product = by_id.get(product_id)
        return _not_found() if product is None else _json(product)

    @app.get("/time")
    async def the_time() -> Response:
        now = now_ns()
        return _json({"iso": time_text(now), "epoch": now // 1_000_000 / 1000})

    @app.errorhandler(404)
    async def nothing_here(error: Exception) -> Response:  # noqa: ARG001
        return _not_found()

    return app


def market_app(market: Market, faults: Faults | None = None) -> QuartTrio:
    """Return the app with all REST routes of a simulated market.

    Args:
        market: source of the data.
        faults: faults to apply; none if absent.
    """
    objects = [rest_object(product) for product in market.products.values()]
    app = catalogue_app(objects, lambda: market.now_ns)
    faults = Faults(market) if faults is None else faults
    _add_faults(app, faults)
    _add_currencies(app, market)
    _add_trades(app, market, faults)
    _add_overviews(app, market)

    @app.get("/products/<product_id>/book")
    async def book(product_id: str) -> Response:
        level = request.args.get("level", "1")
        if product_id not in market.products:
            return _not_found()
        if level not in {"1", "2", "3"}:
            return _json({"message": "unexpected level: _"}, 400)
        return _json(_book_object(market, product_id, level))

    @app.get("/products/<product_id>/stats")
    async def stats(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        return _json(_stats_object(market, product_id))

    @app.get("/products/<product_id>/ticker")
    async def ticker(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        return _json(_ticker_object(market, product_id))

    @app.get("/products/<product_id>/candles")
    async def some_candles(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        arguments = [request.args.get(key) for key in ("granularity", "start", "end")]
        try:
            return _json(candles(market.trading(product_id), *arguments))
        except CandleError as error:
            return _json({"message": str(error)}, 400)

    return app


def _add_faults(app: QuartTrio, faults: Faults) -> None:
    """Apply REST faults to all routes except those that control faults."""

    @app.before_request
    async def apply_faults() -> Response | None:
        if request.path.startswith("/faults"):
            return None
        await trio.sleep(faults.rest_pause_s(request.path))
        status = faults.rest_status(request.path)
        return None if status is None else _json({"message": "a fault was asked for"}, status)


def _add_currencies(app: QuartTrio, market: Market) -> None:
    objects = currencies(market.products.values())
    by_id = {currency["id"]: currency for currency in objects}

    @app.get("/currencies")
    async def all_currencies() -> Response:
        return _json(objects)

    @app.get("/currencies/<code>")
    async def one_currency(code: str) -> Response:
        currency = by_id.get(code)
        return _not_found() if currency is None else _json(currency)


def _add_trades(app: QuartTrio, market: Market, faults: Faults) -> None:
    @app.get("/products/<product_id>/trades")
    async def trades(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        try:
            limit, before, after = (_number(key) for key in ("limit", "before", "after"))
        except ValueError as error:
            return _json({"message": str(error)}, 400)
        recent: Sequence[Matched] = market.trading(product_id).trades
        if before is None and after is None:
            hidden_ns = faults.hidden_since_ns(product_id, recent[-1].time_ns)
            if hidden_ns is not None:
                recent = [trade for trade in recent if trade.time_ns < hidden_ns]
        page = _page(recent, limit, before, after)
        answer = _json([_trade_object(market.products[product_id], trade) for trade in page])
        if page:
            answer.headers["cb-before"] = str(page[0].trade_id)
            answer.headers["cb-after"] = str(page[-1].trade_id)
        return answer


def _add_overviews(app: QuartTrio, market: Market) -> None:
    """Add the routes that answer for all products at once."""

    @app.get("/products/stats")
    async def all_stats() -> Response:
        return _json({each: _both_stats(market, each) for each in market.products})

    @app.get("/products/volume-summary")
    async def volume_summary() -> Response:
        return _json([_volume_object(market, product_id) for product_id in market.products])

    @app.get("/products/spark-lines")
    async def spark_lines() -> Response:
        return _json({each: _spark_line(market, each) for each in market.products})


def _both_stats(market: Market, product_id: str) -> dict[str, object]:
    stats = _stats_object(market, product_id)
    of_day = {name: stats[name] for name in ("open", "high", "low", "last", "volume")}
    return {
        "stats_30day": {"volume": stats["volume_30day"], "rfq_volume": _NO_RFQ_VOLUME},
        "stats_24hour": {**of_day, "rfq_volume": _NO_RFQ_VOLUME},
    }


def _volume_object(market: Market, product_id: str) -> dict[str, object]:
    product, stats = market.products[product_id], _stats_object(market, product_id)
    return {
        "id": product_id,
        "base_currency": product.base,
        "quote_currency": product.quote,
        "display_name": product_id,
        "market_types": ["spot"],
        "spot_volume_24hour": stats["volume"],
        "spot_volume_30day": stats["volume_30day"],
        "rfq_volume_24hour": _NO_RFQ_VOLUME,
        "rfq_volume_30day": _NO_RFQ_VOLUME,
        "conversion_volume_24hour": "0",
        "conversion_volume_30day": "0",
    }


def _spark_line(market: Market, product_id: str) -> list[list[object]]:
    """Return ``[time, price]``, the last price of each of the last hours with trades, newest first.

    They are at most ``_SPARK_LINE_HOURS``.
    """
    rows = candles(market.trading(product_id), _HOUR, None, None)[:_SPARK_LINE_HOURS]
    return [[time, close] for time, _, _, _, close, _ in rows]


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, mimetype="application/json")


def _not_found() -> Response:
    return _json({"message": "NotFound"}, 404)


def _number(key: str) -> int | None:
    """Return a whole number of the query; None if it is absent.

    Raises:
        ValueError: it is no such number; the text is for the client.
    """
    text = request.args.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"invalid {key}: {text}")
    return int(text)


def _page(
    trades: Sequence[Matched], limit: int | None, before: int | None, after: int | None
) -> list[Matched]:
    """Return the newest ``limit`` trades with ``before`` < id < ``after``, newest first.

    None is no bound; ``limit`` is then, and at most, ``_PAGE_TRADES_MAX``.
    """
    selected = (
        trade
        for trade in reversed(trades)
        if (after is None or trade.trade_id < after) and (before is None or trade.trade_id > before)
    )
    return list(islice(selected, min(limit or _PAGE_TRADES_MAX, _PAGE_TRADES_MAX)))


def _trade_object(product: Product, trade: Matched) -> dict[str, object]:
    return {
        "trade_id": trade.trade_id,
        "side": trade.maker_side,
        "size": fixed(trade.units, product.size_decimals),
        "price": fixed(trade.tick, product.price_decimals),
        "time": time_text(trade.time_ns),
    }


def _book_object(market: Market, product_id: str, level: str) -> dict[str, object]:
    """Return the book: the best prices (level 1), all prices (2), or all orders (3)."""
    product, trading = market.products[product_id], market.trading(product_id)
    places, size_places = product.price_decimals, product.size_decimals

    def rows(ladder: Ladder) -> list[tuple[str, str, int | str]]:
        if level == "3":
            return [
                (
                    fixed(order.tick, places),
                    fixed(order.units, size_places),
                    order_id(trading.salt, order.number),
                )
                for order in ladder.resting()
            ]
        return [
            (fixed(tick, places), fixed(units, size_places), ladder.crowd(tick))
            for tick, units in islice(ladder.rows(), 1 if level == "1" else None)
        ]

    book = trading.engine.book
    return {
        "bids": rows(book.bids),
        "asks": rows(book.asks),
        "sequence": trading.engine.sequence,
        "auction_mode": market.in_auction(product_id),
        "auction": None,
        "time": time_text(market.now_ns),
    }


def _ticker_object(market: Market, product_id: str) -> dict[str, object]:
    product = market.products[product_id]
    trading = market.trading(product_id)
    trade = trading.trades[-1]
    return {
        "ask": fixed(trading.engine.book.best_ask, product.price_decimals),
        "bid": fixed(trading.engine.book.best_bid, product.price_decimals),
        "volume": volume(product, trading.statistics.day().volume),
        "trade_id": trade.trade_id,
        "price": trimmed(trade.tick, product.price_decimals),
        "size": trimmed(trade.units, product.size_decimals),
        "time": time_text(trade.time_ns),
        "rfq_volume": _NO_RFQ_VOLUME,
    }


def _stats_object(market: Market, product_id: str) -> dict[str, object]:
    product = market.products[product_id]
    trading = market.trading(product_id)
    day, places = trading.statistics.day(), product.price_decimals
    return {
        "open": trimmed(day.open, places),
        "high": trimmed(day.high, places),
        "low": trimmed(day.low, places),
        "last": trimmed(trading.trades[-1].tick, places),
        "volume": volume(product, day.volume),
        "volume_30day": volume(product, day.volume_30d),
    }
