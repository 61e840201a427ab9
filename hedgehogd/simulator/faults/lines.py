"""Faults of outgoing messages: an object sees each message of the connections and may change it.

A ``LineFault`` waits for a message that matches it. From then on it applies to that message's
connection alone, unless its class states otherwise, and it is over when that connection ends at
the latest. It counts as fired when the first byte differs from the unchanged stream, not before.

Pure except for calls of ``Client`` methods; it reads no clock.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from hedgehogd.domain.channel import FULL, LEVEL3, MATCHES, TICKER
from hedgehogd.simulator.faults.orders import FaultOrder

if TYPE_CHECKING:
    from hedgehogd.simulator.client import Client

_SEQUENCE = re.compile(rb'"sequence":(\d+)')
_NUMBERED = frozenset({FULL.name, LEVEL3.name, MATCHES.name})
_TRADING = frozenset({FULL.name, LEVEL3.name, MATCHES.name})


class Outgoing(NamedTuple):
    """A message that is about to be sent on one connection.

    Attributes:
        channel: the canonical name; empty for acknowledgements and errors.
        product_id: its product; empty where there is none.
        payload: the JSON text; empty for a frame without JSON.
        frame: the bytes to write: the frame of the payload, or an invalid or binary one.
    """

    channel: str
    product_id: str
    payload: bytes
    frame: bytes

    @property
    def sequence(self) -> int | None:
        """The message's sequence; None if it has none."""
        if self.channel == LEVEL3.name:
            cells = self.payload.split(b'"', 6)
            return int(cells[5]) if self.payload.startswith(b"[") else None
        found = _SEQUENCE.search(self.payload)
        return int(found.group(1)) if found else None

    @property
    def is_trade(self) -> bool:
        """True for a match, on any channel; False for a ``last_match``."""
        return self.payload.startswith((b'{"type":"match"', b'["match"'))


class LineFault:
    """A fault of outgoing messages.

    Attributes:
        is_over: True when it has no further effect.
    """

    channels: frozenset[str] = frozenset()
    """Canonical names of the channels that match; empty for all, without answers."""

    def __init__(self, order: FaultOrder) -> None:
        self.is_over = False
        self._order = order
        self._param: Any = order.param
        self._client: Client | None = None
        self._has_fired = False

    def apply(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        """Return the messages to send for ``outgoing``: itself if the fault does not match it."""
        if self.is_over or not self._matches(client, outgoing):
            return (outgoing,)
        return self._replace(client, outgoing)

    def left(self, client: "Client") -> None:
        """End the fault if ``client``, which has gone, is the affected one."""
        if client is self._client:
            self.is_over = True

    def _matches(self, client: "Client", outgoing: Outgoing) -> bool:
        order = self._order
        if self._client not in (None, client) or order.client not in (None, client.number):
            return False
        if order.product_id not in (None, outgoing.product_id):
            return False
        return outgoing.channel in self.channels if self.channels else bool(outgoing.channel)

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        """Return the replacement of a message that matches."""
        raise NotImplementedError

    def _mark_fired(self, client: "Client") -> None:
        """Bind the fault to ``client``, and count it at its first effect."""
        self._client = client
        if not self._has_fired:
            self._has_fired = True
            self._order.fired()


class SequenceGap(LineFault):
    """The next n numbered messages of one product are lost on one connection.

    The parameter is n.
    """

    channels = _NUMBERED

    def __init__(self, order: FaultOrder) -> None:
        super().__init__(order)
        self._product_id = ""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        if outgoing.sequence is None or b'"last_match"' in outgoing.payload:
            return (outgoing,)
        if self._product_id not in ("", outgoing.product_id):
            return (outgoing,)
        self._product_id = outgoing.product_id
        self._mark_fired(client)
        self._param -= 1
        self.is_over = self._param == 0
        return ()


class TradeGap(LineFault):
    """The next n trades of one product are lost on all channels of one connection.

    The parameter is n.
    """

    channels = _TRADING
    everywhere = False

    def __init__(self, order: FaultOrder) -> None:
        super().__init__(order)
        self._product_id = ""
        self._lost: set[int] = set()

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        sequence = outgoing.sequence
        if not outgoing.is_trade or sequence is None:
            return (outgoing,)
        if self._product_id not in ("", outgoing.product_id):
            return (outgoing,)
        if sequence not in self._lost:
            if len(self._lost) == self._param:
                # A trade after the last lost one: none of the lost ones can follow.
                self.is_over = True
                return (outgoing,)
            self._lost.add(sequence)
            self._product_id = outgoing.product_id
        self._mark_fired(client)
        return ()

    def _mark_fired(self, client: "Client") -> None:
        super()._mark_fired(client)
        if self.everywhere:
            self._client = None


class TradeGapEverywhere(TradeGap):
    """Trades are lost on all connections; REST still has them."""

    everywhere = True


class Duplicate(LineFault):
    """A numbered message is sent twice."""

    channels = _NUMBERED | {TICKER.name}

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        if outgoing.sequence is None:
            return (outgoing,)
        self._mark_fired(client)
        self.is_over = True
        return (outgoing, outgoing)


class Late(LineFault):
    """A numbered message is delayed until k later messages are sent on its connection.

    The parameter is k. Acknowledgements and errors are not counted.
    """

    channels = _NUMBERED

    def __init__(self, order: FaultOrder) -> None:
        super().__init__(order)
        self._held: Outgoing | None = None

    def _matches(self, client: "Client", outgoing: Outgoing) -> bool:
        if self._held is not None:
            return client is self._client
        return super()._matches(client, outgoing) and self._is_held(outgoing)

    def _is_held(self, outgoing: Outgoing) -> bool:
        return outgoing.sequence is not None and b'"last_match"' not in outgoing.payload

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        if self._held is None:
            self._held, self._client = outgoing, client
            return ()
        if not outgoing.channel:
            return self._on_answer(outgoing)
        self._mark_fired(client)
        self._param -= 1
        if self._param:
            return (outgoing,)
        self.is_over = True
        return (outgoing, self._held)

    def _on_answer(self, answer: Outgoing) -> Iterable[Outgoing]:
        """Return the messages to send when an answer comes while a message is delayed."""
        return (answer,)


class AckAfterData(Late):
    """An acknowledgement is sent only after k data messages; the parameter is k.

    If the client sends another command meanwhile, the acknowledgement precedes the next answer:
    an older state after a newer one would be a different fault.
    """

    channels = frozenset({""})

    def _matches(self, client: "Client", outgoing: Outgoing) -> bool:
        product_id = self._order.product_id
        if self._held is not None or product_id is None:
            return super()._matches(client, outgoing)
        is_about = b'"%b"' % product_id.encode() in outgoing.payload
        return is_about and super()._matches(client, outgoing._replace(product_id=product_id))

    def _on_answer(self, answer: Outgoing) -> Iterable[Outgoing]:
        self.is_over = True
        return (answer,) if self._held is None else (self._held, answer)

    def _is_held(self, outgoing: Outgoing) -> bool:
        return outgoing.payload.startswith(b'{"type":"subscriptions"')


class QuietProduct(LineFault):
    """One product sends nothing more on one connection, not even a heartbeat."""

    def __init__(self, order: FaultOrder) -> None:
        super().__init__(order)
        self._product_id = order.product_id or ""

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:
        if not outgoing.product_id or self._product_id not in ("", outgoing.product_id):
            return (outgoing,)
        self._product_id = outgoing.product_id
        self._mark_fired(client)
        return ()


class LostTopic(LineFault):
    """One topic of one connection is never sent; made by ``doors.LostSubscription``."""

    def __init__(self, order: FaultOrder, client: "Client", topic: tuple[str, str]) -> None:
        super().__init__(order)
        self._client = client
        self._topic = topic

    def _matches(self, client: "Client", outgoing: Outgoing) -> bool:
        return client is self._client and (outgoing.channel, outgoing.product_id) == self._topic

    def _replace(self, client: "Client", outgoing: Outgoing) -> Iterable[Outgoing]:  # noqa: ARG002
        self._mark_fired(client)
        return ()

    def dropped(self, client: "Client", topic: tuple[str, str]) -> None:
        """End the fault if ``client`` has unsubscribed from the topic: a new subscribe works."""
        if client is self._client and topic == self._topic:
            self.is_over = True
