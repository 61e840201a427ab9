"""Faults that change a message, or put one beside it that should not be there.

What is put beside a message comes before it, and the message itself stays whole: so a
reader that passes over the nonsense has lost nothing. ``garbage:truncated`` is the one
that destroys what it touches.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from hedgehogd.domain.channel import LEVEL2, LEVEL2_BATCH
from hedgehogd.protocol.frames import encode_text
from hedgehogd.simulator.amounts import fixed
from hedgehogd.simulator.faults.lines import LineFault, Outgoing
from hedgehogd.simulator.messages import l2update

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

YEAR_ONE = b'"time":"0001-01-01T00:00:00.000000Z"'
MALFORMED = b'"0.-10000"]'

_TIME = re.compile(rb'"time":"[^"]*"')
_AMOUNT = re.compile(rb'"[0-9.]+"\]')
_BOOKS = frozenset({LEVEL2.name, LEVEL2_BATCH.name})
_UPDATE = b'{"type":"l2update"'
_BINARY = 0x82  # FIN and opcode 2


class _Once(LineFault):
    """Strikes at the first message that suits, and is over."""

    def _spoil(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        spoilt = self._spoilt(outgoing)
        if spoilt is None:
            return (outgoing,)
        self._strike(client)
        self.is_over = True
        return spoilt

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        """Return what is sent instead of ``outgoing``; None when it does not suit after all."""
        raise NotImplementedError


class YearOne(_Once):
    """An ``l2update`` says that it is of the year one; real ones did."""

    channels = _BOOKS

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        if not outgoing.payload.startswith(_UPDATE):
            return None
        return (_rewritten(outgoing, _TIME.sub(YEAR_ONE, outgoing.payload)),)


class MalformedAmount(_Once):
    """The first amount of a ``snapshot`` or ``l2update`` is no number; a real one was not."""

    channels = _BOOKS

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        payload, found = _AMOUNT.subn(MALFORMED, outgoing.payload, count=1)
        return (_rewritten(outgoing, payload),) if found else None


class CrossedBook(_Once):
    """An ``l2update`` bids what the best ask asks: a book that follows it is crossed."""

    channels = _BOOKS

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        trading = self._order.market.trading(outgoing.product_id)
        book, product = trading.engine.book, trading.product
        lie = l2update(
            product, (("buy", book.best_ask, product.size_units),), self._order.market.now_ns
        )
        return _beside(outgoing, lie) if outgoing.payload.startswith(_UPDATE) else None


class BareRemoval(_Once):
    """An ``l2update`` removes a level that does not exist."""

    channels = _BOOKS

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        trading = self._order.market.trading(outgoing.product_id)
        asks, tick = trading.engine.book.asks, trading.engine.book.best_ask + 1
        named = outgoing.payload
        # Nor may the message itself speak of it: it would exist a moment before or after.
        while asks[tick] or fixed(tick, trading.product.price_decimals).encode() in named:
            tick += 1
        lie = l2update(trading.product, (("sell", tick, 0),), self._order.market.now_ns)
        return _beside(outgoing, lie) if named.startswith(_UPDATE) else None


class Garbage(_Once):
    """A text that is not JSON comes before a message, or half of it instead of the whole."""

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        if self._param == "truncated":
            return (_rewritten(outgoing, outgoing.payload[: len(outgoing.payload) // 2]),)
        return _beside(outgoing, b"<html>502 Bad Gateway</html>")


class UnknownType(_Once):
    """A message of a type that nobody has heard of."""

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        lie = b'{"type":"surprise","product_id":"%b"}' % outgoing.product_id.encode()
        return _beside(outgoing, lie)


class Binary(_Once):
    """A binary message; the feed has none."""

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        return (Outgoing("", "", b"", bytes((_BINARY, 4)) + b"\x00\x01\x02\x03"), outgoing)


class BadFrame(_Once):
    """A frame with a reserved bit that nobody has agreed on (RFC 6455 §5.2)."""

    def _spoilt(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        frame = outgoing.frame
        return (outgoing._replace(frame=bytes((frame[0] | 0x40,)) + frame[1:]),)


def _rewritten(outgoing: Outgoing, payload: bytes) -> Outgoing:
    return outgoing._replace(payload=payload, frame=encode_text(payload))


def _beside(outgoing: Outgoing, lie: bytes) -> Iterable[Outgoing]:
    return (Outgoing("", "", lie, encode_text(lie)), outgoing)
