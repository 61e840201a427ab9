"""The REST companion: Coinbase's public REST reads, for clients that need them beside a stream.

Requests are validated here, so that the exchange receives none with an invalid value. Answers
come from data of this instance, from cached answers of the exchange, or from the exchange; all
clients that wait for the same answer share one request. Errors have the exchange's form,
``{"message":…}``, which is the form that its clients parse.
"""

import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Any, Protocol

import msgspec
import trio
from quart import Response
from quart_trio import QuartTrio

from hedgehogd.domain import limits
from hedgehogd.domain.rows import read_list
from hedgehogd.fanout.instance import Instance
from hedgehogd.fanout.pipe import Pipe
from hedgehogd.feeds.backfill import Backfill
from hedgehogd.feeds.rest_cache import Answer, failure
from hedgehogd.feeds.rest_client import RestClient
from hedgehogd.web.memory import from_memory, live_products
from hedgehogd.web.parameters import query
from hedgehogd.web.reads import (
    BY_PRODUCT,
    LISTS_KEEP_S,
    BadRead,
    Read,
    currency_read,
    keep_for,
    overview_read,
    product_read,
)
from hedgehogd.web.trades import recorded_trades

EXPOSED_HEADERS = ("CB-BEFORE", "CB-AFTER", "Retry-After")

_NOT_FOUND = failure(404, "NotFound")
_NO_REST = failure(503, "this feed has no REST service, and its messages do not contain this")
_TOO_LATE = failure(504, "the exchange did not answer in time")
_ALL_CURRENCIES = Read("/currencies", (), keep_for(LISTS_KEEP_S))


class HeldBooks(Protocol):
    """The order books that this instance keeps."""

    async def rest_book(self, product_id: str, level: int) -> bytes | None:
        """Return the body of ``/products/<id>/book``; None without a current book.

        ``level`` is 1, 2 or 3. The call may wait for a book that is being fetched.
        """


@dataclass(frozen=True)
class Companion:
    """The sources of the answers.

    Attributes:
        rest: client of the exchange's REST service; None when the feed has no REST address.
        books: this instance's order books; None when it keeps none.
        backfill: fetches missing trades from ``rest``, here for the metrics; None without backfill.
    """

    rest: RestClient | None = None
    books: HeldBooks | None = None
    backfill: Backfill | None = None


class _Listed(msgspec.Struct):
    id: str = ""


_decode_listed = msgspec.json.Decoder(_Listed).decode


def add_exchange(app: QuartTrio, instance: Instance, companion: Companion) -> None:
    """Add the routes of the REST companion to ``app``."""
    catalogue, rest = instance.pipe.catalogue, companion.rest

    async def fetched(read: Read) -> Answer:
        answer = _NO_REST
        if rest is not None:
            answer = _TOO_LATE
            with trio.move_on_after(limits.REST_ASKER_S):
                answer = await rest.get(read.path, read.query, keeping=read.keeping)
        return answer

    async def responded(answer: Answer) -> Response:
        _count(instance, answer.status)
        return _response(answer)

    @app.get("/products", defaults={"name": ""})
    @app.get("/products/stats", defaults={"name": "stats"})
    @app.get("/products/volume-summary", defaults={"name": "volume-summary"})
    @app.get("/products/spark-lines", defaults={"name": "spark-lines"})
    async def all_products(name: str) -> Response:
        answer = await fetched(overview_read(name))
        if not name and _has_no_service(rest, answer):
            answer = _known_products(instance.pipe, answer)
        return await responded(_served_only(answer, catalogue.only, is_by_id=name in BY_PRODUCT))

    @app.get("/products/<pair>")
    @app.get("/products/<pair>/book", defaults={"subject": "book"})
    @app.get("/products/<pair>/trades", defaults={"subject": "trades"})
    @app.get("/products/<pair>/candles", defaults={"subject": "candles"})
    @app.get("/products/<pair>/ticker", defaults={"subject": "ticker"})
    @app.get("/products/<pair>/stats", defaults={"subject": "stats"})
    async def of_product(pair: str, subject: str = "") -> Response:
        product_id = pair.upper()
        if not catalogue.accepts(product_id):
            return await responded(_NOT_FOUND)
        try:
            read = product_read(product_id, subject, query())
        except BadRead as error:
            return await responded(failure(400, str(error)))
        if rest is None and not subject:
            return await responded(_known_product(product_id))
        answer = await _answer_here(instance, companion.books, product_id, subject, read)
        answer = answer or await fetched(read)
        if _has_no_service(rest, answer):
            answer = from_memory(instance.pipe, product_id, subject, dict(read.query)) or answer
        return await responded(answer)

    @app.get("/currencies")
    async def all_currencies() -> Response:
        return await responded(await fetched(_ALL_CURRENCIES))

    @app.get("/currencies/<currency>")
    async def one_currency(currency: str) -> Response:
        read = currency_read(currency.upper())
        return await responded(_NOT_FOUND if read is None else await fetched(read))

    @app.get("/time")
    async def the_time() -> Response:
        return _response(_time(time.time_ns()))


async def _answer_here(
    instance: Instance, books: HeldBooks | None, product_id: str, subject: str, read: Read
) -> Answer | None:
    """Answer from this instance's books or history; None when they have no complete answer.

    Raises:
        SubscriberError: 429; too many queries of the caller's address wait for history.
    """
    if subject == "trades":
        past = instance.pipe.resumes.past
        return await recorded_trades(past, instance.readings, product_id, read.query)
    if subject == "book" and books is not None:
        held = await books.rest_book(product_id, int(read.query[0][1]))
        return None if held is None else Answer(200, held)
    return None


def _response(answer: Answer) -> Response:
    response = Response(answer.body, answer.status, content_type="application/json")
    headers = response.headers
    headers["Cache-Control"] = "no-store"
    if answer.before:
        headers["CB-BEFORE"] = answer.before
    if answer.after:
        headers["CB-AFTER"] = answer.after
    if answer.retry_after_s:
        headers["Retry-After"] = str(ceil(answer.retry_after_s))
    return response


def _count(instance: Instance, status: int) -> None:
    """Count an error status; 200 is none.

    The codes are ``bad_request``, ``not_found``, and ``exchange_unavailable`` for other statuses.
    """
    if status == 200:
        return
    codes = {400: "bad_request", 404: "not_found"}
    instance.counts.refusals[codes.get(status, "exchange_unavailable")] += 1


def _time(now_ns: int) -> Answer:
    now_ms = now_ns // 1_000_000
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    iso = f"{moment:%Y-%m-%dT%H:%M:%S}.{now_ms % 1000:03}Z"
    return Answer(200, msgspec.json.encode({"iso": iso, "epoch": now_ms / 1000}))


def _served_only(answer: Answer, only: frozenset[str] | None, *, is_by_id: bool) -> Answer:
    """Return the answer, a list or an object of products, with the products of ``only``.

    An error, or any answer when ``only`` is None, is returned unchanged. An answer that cannot be
    parsed becomes a 502.
    """
    if answer.status != 200 or only is None:
        return answer
    kept: object
    try:
        if is_by_id:
            answer.body.decode()  # msgspec.Raw does not check that a value is UTF-8
            by_id = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
            kept = {product_id: raw for product_id, raw in by_id.items() if product_id in only}
        else:
            products, unreadable = read_list(answer.body, _with_id)
            if unreadable and not products:
                raise msgspec.DecodeError("no entry can be read")
            kept = [raw for product_id, raw in products if product_id in only]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failure(502, "the exchange's answer is not a list of products")
    return answer._replace(body=msgspec.json.encode(kept))


def _with_id(raw: msgspec.Raw) -> tuple[str, msgspec.Raw]:
    bytes(raw).decode()  # msgspec does not check that skipped fields are UTF-8
    return _decode_listed(raw).id, raw


def _has_no_service(rest: RestClient | None, answer: Answer) -> bool:
    """Return whether the feed has no REST service, according to ``answer``, the newest one.

    It has none without a client, or if ``answer`` is a 404 or 502 and the service has never existed
    so far (``RestClient.exists``). A service that has answered before only fails now: its error is
    the answer, because this instance's memory has only some of the products and trades that the
    service would list.
    """
    if rest is None:
        return True
    return not rest.exists and answer.status in {404, 502}


def _known_products(pipe: Pipe, answer: Answer) -> Answer:
    """Return a list of products made by this instance, for a feed without a REST service.

    It has the products that ``Catalogue.known`` returns; when that is None, those of which messages
    arrive. For a feed with a REST address, ``answer`` is returned instead when ``known`` is not
    None, or when no message arrives. Without REST address and products the answer is a 503.
    """
    known: Collection[str] | None = pipe.catalogue.known()
    if known is None:
        known = live_products(pipe)
    elif answer is not _NO_REST:
        return answer
    if not known and answer is _NO_REST:
        return failure(503, "the products of this feed are not known")
    if not known:
        return answer
    return Answer(200, msgspec.json.encode([_product_entry(each) for each in sorted(known)]))


def _known_product(product_id: str) -> Answer:
    return Answer(200, msgspec.json.encode(_product_entry(product_id)))


def _product_entry(product_id: str) -> dict[str, Any]:
    """Return a description made from the product's id alone, which states that it is tradable."""
    base, _, quote = product_id.partition("-")
    return {
        "id": product_id,
        "base_currency": base,
        "quote_currency": quote,
        "display_name": product_id.replace("-", "/"),
        "status": "online",
        "status_message": "",
        "trading_disabled": False,
    }
