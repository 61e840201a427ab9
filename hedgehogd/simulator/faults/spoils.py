"""Faults that change a message, or send an invalid one in addition.

An additional message is sent before the original one, which stays unchanged: a reader that
ignores the invalid message misses nothing. ``year_one``, ``malformed_amount``, ``bad_frame`` and
``garbage:truncated`` change the original.
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
    """Take effect at the first message that matches, once."""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        replacement = self._replacement(outgoing)
        if replacement is None:
            return (outgoing,)
        self._mark_fired(client)
        self.is_over = True
        return replacement

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        """Return the messages to send instead of ``outgoing``; None if it does not match."""
        raise NotImplementedError


class YearOne(_Once):
    """An ``l2update`` has a time in the year one, as real ones had."""

    channels = _BOOKS

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        if not outgoing.payload.startswith(_UPDATE):
            return None
        return (_with_payload(outgoing, _TIME.sub(YEAR_ONE, outgoing.payload)),)


class MalformedAmount(_Once):
    """The first amount of a ``snapshot`` or ``l2update`` is no number, as a real one was."""

    channels = _BOOKS

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        payload, found = _AMOUNT.subn(MALFORMED, outgoing.payload, count=1)
        return (_with_payload(outgoing, payload),) if found else None


class CrossedBook(_Once):
    """An ``l2update`` bids the price of the best ask: a book that applies it is crossed."""

    channels = _BOOKS

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        trading = self._order.market.trading(outgoing.product_id)
        book, product = trading.engine.book, trading.product
        false_message = l2update(
            product, (("buy", book.best_ask, product.size_units),), self._order.market.now_ns
        )
        return (
            _preceded_by(outgoing, false_message) if outgoing.payload.startswith(_UPDATE) else None
        )


class BareRemoval(_Once):
    """An ``l2update`` removes a level that does not exist."""

    channels = _BOOKS

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        trading = self._order.market.trading(outgoing.product_id)
        asks, tick = trading.engine.book.asks, trading.engine.book.best_ask + 1
        payload = outgoing.payload
        # The message itself must not name the level either: it may create or remove it.
        while asks[tick] or fixed(tick, trading.product.price_decimals).encode() in payload:
            tick += 1
        false_message = l2update(trading.product, (("sell", tick, 0),), self._order.market.now_ns)
        return _preceded_by(outgoing, false_message) if payload.startswith(_UPDATE) else None


class Garbage(_Once):
    """A text that is not JSON precedes a message, or half a message replaces the whole."""

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        if self._param == "truncated":
            return (_with_payload(outgoing, outgoing.payload[: len(outgoing.payload) // 2]),)
        return _preceded_by(outgoing, b"<html>502 Bad Gateway</html>")


class UnknownType(_Once):
    """A message of an unknown type precedes a message."""

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        false_message = b'{"type":"surprise","product_id":"%b"}' % outgoing.product_id.encode()
        return _preceded_by(outgoing, false_message)


class Binary(_Once):
    """A binary message precedes a message; the real feed has none."""

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        return (Outgoing("", "", b"", bytes((_BINARY, 4)) + b"\x00\x01\x02\x03"), outgoing)


class BadFrame(_Once):
    """A message's frame has a reserved bit that no extension negotiated (RFC 6455 §5.2)."""

    def _replacement(self, outgoing: Outgoing) -> Iterable[Outgoing] | None:
        frame = outgoing.frame
        return (outgoing._replace(frame=bytes((frame[0] | 0x40,)) + frame[1:]),)


def _with_payload(outgoing: Outgoing, payload: bytes) -> Outgoing:
    return outgoing._replace(payload=payload, frame=encode_text(payload))


def _preceded_by(outgoing: Outgoing, false_message: bytes) -> Iterable[Outgoing]:
    return (Outgoing("", "", false_message, encode_text(false_message)), outgoing)
