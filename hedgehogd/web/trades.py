"""``/products/<id>/trades`` from history, when history has every trade of a page."""

from collections.abc import Sequence

import msgspec

from hedgehogd.domain.channel import MATCHES
from hedgehogd.fanout.turns import CALLER, Readings
from hedgehogd.feeds.rest_cache import Answer
from hedgehogd.recovery.history_port import Past, PastUnavailable

_PAGE_TRADES_MAX = 1000


class _Trade(msgspec.Struct):
    trade_id: int
    side: str
    size: str
    price: str
    time: str


async def recorded_trades(
    past: Past | None, readings: Readings, product_id: str, query: Sequence[tuple[str, str]]
) -> Answer | None:
    """Answer a page of trades from history; None when the exchange has to answer it.

    History answers a page below the cursor ``after``, of which it has every trade; trades that were
    backfilled count. The exchange answers any other: the newest page, because history is written
    with a small delay, a page with a gap, and any page while history cannot be read. ``query`` has
    been validated by ``reads``. The call waits for a turn of the caller's address.

    Raises:
        SubscriberError: 429; too many queries of the caller's address wait for the archive.
    """
    args = dict(query)
    if past is None or "after" not in args or "before" in args:
        return None
    if not past.keeps(MATCHES.topic(product_id)):
        return None
    last = int(args["after"]) - 1
    first = last - int(args.get("limit", _PAGE_TRADES_MAX)) + 1
    if first < 1:
        return None
    readings.check(CALLER.get())
    try:
        async with readings.turn(CALLER.get()):
            found = await past.trades(product_id, first, last)
        if len(found) < last - first + 1:
            return None
        trades = [msgspec.json.decode(found[n], type=_Trade) for n in range(last, first - 1, -1)]
    except (PastUnavailable, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Answer(200, msgspec.json.encode(trades), str(last), str(first))
