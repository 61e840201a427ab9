"""Reads of the exchange's REST service, validated and in canonical form; no I/O.

The canonical form makes equal requests of many clients one request to the exchange: unknown keys
are dropped, numbers and times are formatted again.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from hedgehogd.domain.position import read_number
from hedgehogd.feeds.catalogue import PRODUCTS_PATH
from hedgehogd.feeds.rest_cache import Answer, Keeping

BOOK_KEEP_S = TICKER_KEEP_S = TRADES_KEEP_S = 1.0
OLD_TRADES_KEEP_S = 10.0
CANDLES_KEEP_S = STATS_KEEP_S = 5.0
LISTS_KEEP_S = 60.0

GRANULARITIES = (60, 300, 900, 3600, 21600, 86400)
BY_PRODUCT = frozenset({"stats", "spark-lines"})
"""Overviews that answer with an object by product id; the other overviews are lists."""
_CANDLES_MAX = 300
_PAGE_TRADES_MAX = 1000
_BOOK_LEVELS = {"1", "2", "3"}
_NUMBER_MAX = 2**63 - 1  # the exchange's cursors have 64 bits
_EPOCH_MAX_S = 9_999_999_999  # more digits would be a date of ISO 8601, or milliseconds
_CURRENCY_ID = re.compile(r"[A-Z0-9]{1,16}")


class Read(NamedTuple):
    """One request to the exchange.

    Attributes:
        path: absolute path; no character of it needs quoting.
        query: keys and values.
        keeping: returns how many seconds an answer may be cached.
    """

    path: str
    query: tuple[tuple[str, str], ...]
    keeping: Keeping


class BadRead(Exception):
    """A request that the exchange would refuse; the message is for the client."""


def keep_for(seconds: float) -> Keeping:
    """Return a ``Keeping`` that caches every answer for ``seconds``."""
    return lambda _: seconds


def currency_read(currency_id: str) -> Read | None:
    """Return the request for one currency; None when ``currency_id`` cannot be its id."""
    if not _CURRENCY_ID.fullmatch(currency_id):
        return None
    return Read(f"/currencies/{currency_id}", (), keep_for(LISTS_KEEP_S))


def overview_read(name: str) -> Read:
    """Return the request for the overview ``name`` of all products; if empty, for their list."""
    if not name:
        return Read(PRODUCTS_PATH, (), keep_for(LISTS_KEEP_S))
    return Read(f"{PRODUCTS_PATH}/{name}", (), keep_for(STATS_KEEP_S))


def product_read(product_id: str, subject: str, args: Mapping[str, str]) -> Read:
    """Return the request for ``subject`` of a product.

    Args:
        product_id: for example ``BTC-USD``; the caller has checked that it is a product id.
        subject: ``book``, ``trades``, ``candles``, ``ticker``, ``stats``, or empty for the
            product itself.
        args: the client's query, not yet validated.

    Raises:
        BadRead: a value in ``args`` is invalid.
    """
    path = f"/products/{product_id}"
    match subject:
        case "book":
            query = (("level", book_level(args)),)
            return Read(f"{path}/book", query, keep_for(BOOK_KEEP_S))
        case "trades":
            return _trades_read(f"{path}/trades", args)
        case "candles":
            return Read(f"{path}/candles", _candles_query(args), keep_for(CANDLES_KEEP_S))
        case "ticker":
            return Read(f"{path}/ticker", (), keep_for(TICKER_KEEP_S))
        case "stats":
            return Read(f"{path}/stats", (), keep_for(STATS_KEEP_S))
    return Read(path, (), keep_for(LISTS_KEEP_S))


def book_level(args: Mapping[str, str]) -> str:
    """Return the requested level of the book: ``1``, which is the default, ``2`` or ``3``.

    Raises:
        BadRead: there is no such level.
    """
    level = args.get("level", "1")
    if level not in _BOOK_LEVELS:
        raise BadRead("unexpected level: _")  # the exchange's message, verbatim
    return level


def _trades_read(path: str, args: Mapping[str, str]) -> Read:
    query = []
    limit, before, after = (_number(args, key) for key in ("limit", "before", "after"))
    if limit is not None:
        if not limit:
            raise BadRead("limit has to be at least 1")
        query.append(("limit", str(min(limit, _PAGE_TRADES_MAX))))
    if before is not None:
        query.append(("before", str(before)))
    if after is not None:
        query.append(("after", str(after)))

    def keeping(answer: Answer) -> float:
        # A page can never change if its newest trade is directly below its cursor. Any other page
        # may be stale, and a backfill requests it again.
        is_old = after is not None and answer.before == str(after - 1)
        return OLD_TRADES_KEEP_S if is_old else TRADES_KEEP_S

    return Read(path, tuple(query), keeping)


def _candles_query(args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    granularity = _number(args, "granularity")
    if granularity is None:
        granularity = GRANULARITIES[0]
    if granularity not in GRANULARITIES:
        raise BadRead("Unsupported granularity")
    query = [("granularity", str(granularity))]
    start, end = (_time(args, key) for key in ("start", "end"))
    if start is not None and end is not None:
        if end < start:
            raise BadRead("start has to be before end")
        if (end - start).total_seconds() / granularity > _CANDLES_MAX:
            raise BadRead(
                "granularity too small for the requested time range. "
                f"Count of aggregations requested exceeds {_CANDLES_MAX}"
            )
    for key, time in (("start", start), ("end", end)):
        if time is not None:
            query.append((key, time.strftime("%Y-%m-%dT%H:%M:%SZ")))
    return tuple(query)


def _number(args: Mapping[str, str], key: str) -> int | None:
    text = args.get(key)
    if text is None:
        return None
    number = read_number(text, _NUMBER_MAX)
    if number is None:
        at_most = f", at most {_NUMBER_MAX}" if text.isascii() and text.isdigit() else ""
        raise BadRead(f"{key} has to be a whole number{at_most}")
    return number


def _time(args: Mapping[str, str], key: str) -> datetime | None:
    """Return a time of the query in UTC; its text is seconds since 1970, or ISO 8601.

    None when it is absent.

    Raises:
        BadRead: the text is neither, or the year is before 1000.
    """
    text = args.get(key)
    if text is None:
        return None
    try:
        seconds = read_number(text, _EPOCH_MAX_S)
        if seconds is not None:
            return datetime.fromtimestamp(seconds, UTC)
        if "T" in text:
            text = text.replace(" ", "+")  # an unquoted plus sign of an offset arrives as a blank
        time = datetime.fromisoformat(text)
        time = time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise BadRead(f"{key} has to be a time in ISO 8601, or seconds since 1970") from None
    if time.year < 1000:
        raise BadRead(f"{key} is too long ago")
    return time
