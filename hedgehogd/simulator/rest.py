"""The exchange's REST, as far as relays and clients bootstrap from it (FEED §13)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import islice

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from hedgehogd.simulator.amounts import fixed, time_text, trimmed
from hedgehogd.simulator.book import Ladder
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.messages import Trade, volume
from hedgehogd.simulator.products import Product, currencies, rest_object

_PAGE_TRADES_MAX = 1000


def catalogue_app(products: Sequence[Mapping[str, object]], now_ns: Callable[[], int]) -> QuartTrio:
    """Return an app with what every exchange has: ``/products`` and ``/time``.

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


def market_app(market: Market) -> QuartTrio:
    """Return the REST of a simulated market."""
    objects = [rest_object(product) for product in market.products.values()]
    app = catalogue_app(objects, lambda: market.now_ns)

    @app.get("/currencies")
    async def all_currencies() -> Response:
        return _json(currencies(market.products.values()))

    @app.get("/products/<product_id>/trades")
    async def trades(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        try:
            limit, before, after = (_number(key) for key in ("limit", "before", "after"))
        except ValueError as error:
            return _json({"message": str(error)}, 400)
        page = _page(market.trading(product_id).trades, limit, before, after)
        answer = _json([_trade_object(market.products[product_id], trade) for trade in page])
        if page:
            answer.headers["cb-before"] = str(page[0].trade_id)
            answer.headers["cb-after"] = str(page[-1].trade_id)
        return answer

    @app.get("/products/<product_id>/book")
    async def book(product_id: str) -> Response:
        level = request.args.get("level", "1")
        if product_id not in market.products:
            return _not_found()
        if level == "3":
            return _json({"message": "level 3 is not simulated yet"}, 501)
        if level not in {"1", "2"}:
            return _json({"message": "unexpected level: _"}, 400)
        return _json(_book_object(market, product_id, 1 if level == "1" else None))

    @app.get("/products/<product_id>/ticker")
    async def ticker(product_id: str) -> Response:
        if product_id not in market.products:
            return _not_found()
        return _json(_ticker_object(market, product_id))

    return app


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, mimetype="application/json")


def _not_found() -> Response:
    return _json({"message": "NotFound"}, 404)


def _number(key: str) -> int | None:
    """Return a number of the query, or None when it is not there; ValueError when it is none."""
    text = request.args.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"invalid {key}: {text}")
    return int(text)


def _page(
    trades: Sequence[Trade], limit: int | None, before: int | None, after: int | None
) -> list[Trade]:
    """Return the newest trades with ``before`` < id < ``after``, newest first."""
    wanted = (
        trade
        for trade in reversed(trades)
        if (after is None or trade.trade_id < after) and (before is None or trade.trade_id > before)
    )
    return list(islice(wanted, min(limit or _PAGE_TRADES_MAX, _PAGE_TRADES_MAX)))


def _trade_object(product: Product, trade: Trade) -> dict[str, object]:
    return {
        "trade_id": trade.trade_id,
        "side": trade.maker_side,
        "size": fixed(trade.size, product.size_decimals),
        "price": fixed(trade.price, product.price_decimals),
        "time": time_text(trade.time_ns),
    }


def _book_object(market: Market, product_id: str, depth: int | None) -> dict[str, object]:
    product = market.products[product_id]
    trading = market.trading(product_id)

    def rows(ladder: Ladder) -> list[tuple[str, str, int]]:
        # How many orders make up a level is made up, but stays the same while its size does.
        return [
            (
                fixed(tick, product.price_decimals),
                fixed(units, product.size_decimals),
                1 + units % 4,
            )
            for tick, units in islice(ladder.rows(), depth)
        ]

    return {
        "bids": rows(trading.book.bids),
        "asks": rows(trading.book.asks),
        "sequence": trading.sequence,
        "auction_mode": False,
        "auction": None,
        "time": time_text(market.now_ns),
    }


def _ticker_object(market: Market, product_id: str) -> dict[str, object]:
    product = market.products[product_id]
    trading = market.trading(product_id)
    trade = trading.trades[-1]
    return {
        "ask": fixed(trading.book.best_ask, product.price_decimals),
        "bid": fixed(trading.book.best_bid, product.price_decimals),
        "volume": volume(product, trading.statistics.day().volume),
        "trade_id": trade.trade_id,
        "price": trimmed(trade.price, product.price_decimals),
        "size": trimmed(trade.size, product.size_decimals),
        "time": time_text(trade.time_ns),
        "rfq_volume": "0.000000",
    }
