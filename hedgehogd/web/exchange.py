"""The REST companion: reads in Coinbase's shapes, for clients that bootstrap by REST.

What a client sends is checked here, so that nothing reaches the exchange that it would
refuse; answers come from what we hold, from what is kept of earlier answers, or from the
exchange, asked once for all who want to know. Errors have the exchange's form,
``{"message":…}``, because that is what its clients read.
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
from hedgehogd.web.memory import heard_products, remembered
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
from hedgehogd.web.trades import kept_trades

EXPOSED_HEADERS = ("CB-BEFORE", "CB-AFTER", "Retry-After")

_NOT_FOUND = failure(404, "NotFound")
_NO_REST = failure(
    503, "this feed is a recording without REST, and what it brings now does not say this"
)
_TOO_LATE = failure(504, "the exchange did not answer in time")
_ALL_CURRENCIES = Read("/currencies", (), keep_for(LISTS_KEEP_S))


class HeldBooks(Protocol):
    """The order books that this instance keeps."""

    async def rest_book(self, product_id: str, level: int) -> bytes | None:
        """Return the body of ``/products/<id>/book``; None when it is not held, or not fresh."""


@dataclass(frozen=True)
class Companion:
    """Where the answers come from.

    Attributes:
        rest: the exchange's REST service; None when the feed has none.

    Attributes:
        rest: the exchange's REST service; None when the feed has none.
        books: the books held here; None when there are none.
        backfill: who fetches missing trades by ``rest``, for the metrics; None when nobody does.
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

    async def said(answer: Answer) -> Response:
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
        return await said(_restricted(answer, catalogue.only, is_by_id=name in BY_PRODUCT))

    @app.get("/products/<pair>")
    @app.get("/products/<pair>/book", defaults={"subject": "book"})
    @app.get("/products/<pair>/trades", defaults={"subject": "trades"})
    @app.get("/products/<pair>/candles", defaults={"subject": "candles"})
    @app.get("/products/<pair>/ticker", defaults={"subject": "ticker"})
    @app.get("/products/<pair>/stats", defaults={"subject": "stats"})
    async def of_product(pair: str, subject: str = "") -> Response:
        product_id = pair.upper()
        if not catalogue.accepts(product_id):
            return await said(_NOT_FOUND)
        try:
            read = product_read(product_id, subject, query())
        except BadRead as error:
            return await said(failure(400, str(error)))
        if rest is None and not subject:
            return await said(_known_product(product_id))
        answer = await _own(instance, companion.books, product_id, subject, read)
        answer = answer or await fetched(read)
        if _has_no_service(rest, answer):
            answer = remembered(instance.pipe, product_id, subject, dict(read.query)) or answer
        return await said(answer)

    @app.get("/currencies")
    async def all_currencies() -> Response:
        return await said(await fetched(_ALL_CURRENCIES))

    @app.get("/currencies/<currency>")
    async def one_currency(currency: str) -> Response:
        read = currency_read(currency.upper())
        return await said(_NOT_FOUND if read is None else await fetched(read))

    @app.get("/time")
    async def the_time() -> Response:
        return _response(_time(time.time_ns()))


async def _own(
    instance: Instance, books: HeldBooks | None, product_id: str, subject: str, read: Read
) -> Answer | None:
    """Answer from what is held or kept here; None when the exchange has to be asked."""
    if subject == "trades":
        past = instance.pipe.resumes.past
        return await kept_trades(past, instance.readings, product_id, read.query)
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
    """Count a refusal under the name that other routes have for it."""
    if status == 200:
        return
    codes = {400: "bad_request", 404: "not_found"}
    instance.counts.refusals[codes.get(status, "exchange_unavailable")] += 1


def _time(now_ns: int) -> Answer:
    now_ms = now_ns // 1_000_000
    moment = datetime.fromtimestamp(now_ms // 1000, UTC)
    iso = f"{moment:%Y-%m-%dT%H:%M:%S}.{now_ms % 1000:03}Z"
    return Answer(200, msgspec.json.encode({"iso": iso, "epoch": now_ms / 1000}))


def _restricted(answer: Answer, only: frozenset[str] | None, *, is_by_id: bool) -> Answer:
    """Return a list or an object of products without those that are not served here."""
    if answer.status != 200 or only is None:
        return answer
    kept: object
    try:
        if is_by_id:
            answer.body.decode()  # what is skipped below may be bad text
            by_id = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
            kept = {product_id: raw for product_id, raw in by_id.items() if product_id in only}
        else:
            products, unreadable = read_list(answer.body, _with_id)
            if unreadable and not products:
                raise msgspec.DecodeError("no entry can be read")
            kept = [raw for product_id, raw in products if product_id in only]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return failure(502, "the exchange's answer is no list of products")
    return answer._replace(body=msgspec.json.encode(kept))


def _with_id(raw: msgspec.Raw) -> tuple[str, msgspec.Raw]:
    bytes(raw).decode()  # what is skipped in it may be bad text
    return _decode_listed(raw).id, raw


def _has_no_service(rest: RestClient | None, answer: Answer) -> bool:
    """Say whether ``answer`` is that of a feed without a REST service.

    A service that has answered before is in trouble: then its error is the answer, because memory
    knows some products and some trades of those that the service would list.
    """
    if rest is None:
        return True
    return not rest.exists and answer.status in {404, 502}


def _known_products(pipe: Pipe, answer: Answer) -> Answer:
    """Return the products that are known or heard, where the exchange never listed its own.

    ``answer`` is the exchange's, and the right one if it has listed them before.
    """
    known: Collection[str] | None = pipe.catalogue.known()
    if known is None:
        known = heard_products(pipe)
    elif answer is not _NO_REST:
        return answer
    if not known and answer is _NO_REST:
        return failure(503, "which products this feed has is not known")
    if not known:
        return answer
    return Answer(200, msgspec.json.encode([_minimal(each) for each in sorted(known)]))


def _known_product(product_id: str) -> Answer:
    return Answer(200, msgspec.json.encode(_minimal(product_id)))


def _minimal(product_id: str) -> dict[str, Any]:
    """Return what can be said about a product by its id alone."""
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
