"""Who gets a place when places are scarce: fair shares by address. Pure; time is an argument.

Two mechanisms, for two kinds of scarcity:

* ``Room``: places for connections that shall be short, incomplete request heads and control
  requests. A newcomer to a full room gets the place of another connection: one of the address
  that holds the most, and of these the one without progress for the longest. So an address
  that fills the room pays for newcomers itself.
* ``Addresses``: how many connections an address may hold and open, streams included, and how
  fast its control requests are started. A stream never gives up its place to a newcomer.

"Address" is what ``streaming.address.share_of`` returns; empty for a unix socket.
"""

from collections.abc import Callable
from itertools import islice

from hedgehogd.domain import limits
from hedgehogd.protocol.backoff import TokenBucket

# Seconds after which an address that was refused may come again, by the reason's code.
ADDRESS_RETRY_S = {"address_connections": 10, "address_rate": round(limits.ADDRESS_BURST_S)}


_FORGOTTEN_AT_ONCE = 4  # for each address that enters, so that no entrance pays for thousands


class Visit:
    """A connection that holds a place in a room.

    Attributes:
        address: what it is counted by.
        end: closes the connection; called when its place goes to another.
        active_at: when it last made progress.
    """

    __slots__ = ("active_at", "address", "end")

    def __init__(self, address: str, end: Callable[[], None], now: float) -> None:
        self.address = address
        self.end = end
        self.active_at = now

    def progress(self, now: float) -> None:
        """The peer sent or received something."""
        self.active_at = now


class Room:
    """Places for connections that shall be short."""

    def __init__(self, grace_s: float = 0.0, exchanges_per_s: float | None = None) -> None:
        """A room.

        Args:
            grace_s: time without progress that a visit has before an address which holds no
                fewer may have its place.
            exchanges_per_s: how often a second such a place changes hands, because a flood of
                newcomers that all end each other would cost more than refusals; None for any.
        """
        self._grace_s = grace_s
        self._exchanges = None if exchanges_per_s is None else _bucket(exchanges_per_s, 1.0)
        self._count = 0
        self._visits: dict[str, dict[Visit, None]] = {}

    def __len__(self) -> int:
        return self._count

    def held(self, address: str) -> int:
        """Return how many places ``address`` holds."""
        return len(self._visits.get(address, ()))

    def enter(
        self, visit: Visit, places_max: int, now: float, share_max: int | None = None
    ) -> Visit | None:
        """Give ``visit`` a place.

        Args:
            visit: the newcomer.
            places_max: places of the room.
            now: the time.
            share_max: places that its address may hold; None for all.

        Returns:
            The visit whose place it was: the caller ends it. None when there was a free one.

        Raises:
            RoomFull: every place that it may have is taken and none may be given up.
        """
        evicted = None
        own = self._visits.get(visit.address, {})
        if share_max is not None and len(own) >= share_max:
            evicted = self._idlest([own], now)
        elif self._count >= places_max:
            evicted = self._dispensable(own, now)
        if evicted is not None:
            self.leave(evicted)
        self._visits.setdefault(visit.address, {})[visit] = None
        self._count += 1
        return evicted

    def leave(self, visit: Visit) -> None:
        """Free the place of ``visit``, if it still holds one."""
        held = self._visits.get(visit.address)
        if held is None or visit not in held:
            return
        del held[visit]
        self._count -= 1
        if not held:
            del self._visits[visit.address]

    def _dispensable(self, own: dict[Visit, None], now: float) -> Visit:
        """Return the visit that gives up its place to the address which holds ``own``.

        An address that holds two more than the newcomer's gives up one in any case. Otherwise
        the exchange makes the shares no fairer; the newcomer's own address comes first if it
        holds the most.
        """
        most = max(map(len, self._visits.values()), default=0)
        if len(own) == most:
            return self._idlest([own], now)
        crowd = [held for held in self._visits.values() if len(held) == most]
        return self._idlest(crowd, now, is_fairer=most >= len(own) + 2)

    def _idlest(
        self, crowd: list[dict[Visit, None]], now: float, *, is_fairer: bool = False
    ) -> Visit:
        """Return the visit without progress for the longest, if it may be ended.

        Raises:
            RoomFull: it made progress within the grace, or too many were ended already.
        """
        visits = (visit for held in crowd for visit in held)
        idlest = min(visits, key=lambda visit: visit.active_at, default=None)
        if idlest is None:
            raise RoomFull
        if is_fairer:
            return idlest
        if now - idlest.active_at < self._grace_s:
            raise RoomFull
        if self._exchanges is not None and not self._exchanges.try_take(now):
            raise RoomFull
        return idlest


class RoomFull(Exception):
    """Every place that a visit may have is taken, and none may be given up."""


class _Holder:
    """What one address holds and may open."""

    __slots__ = ("bucket", "open", "starts")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.open = 0
        self.starts: TokenBucket | None = None  # from its first control request on


class Addresses:
    """How many connections each address holds, and how often it opens them.

    Addresses with open connections are as many as there are connections. Of those without,
    the ``ADDRESSES_REMEMBERED_MAX`` that left last are remembered, until their rate is that of
    a new address.

    Attributes:
        connections_max: connections that one address may hold at once.
        connections_per_s: connections that it may open a second in the long run; at once it may
            open those of ``ADDRESS_BURST_S``.
    """

    def __init__(
        self,
        connections_max: int = limits.ADDRESS_CONNECTIONS_MAX,
        connections_per_s: float = limits.ADDRESS_CONNECTIONS_PER_S,
    ) -> None:
        self.connections_max = connections_max
        self.connections_per_s = connections_per_s
        self._present: dict[str, _Holder] = {}
        self._past: dict[str, _Holder] = {}

    def __len__(self) -> int:
        """Return how many addresses have an open connection."""
        return len(self._present)

    def change(self, connections_max: int, connections_per_s: float) -> None:
        """Put new limits into force; connections that are open stay open."""
        if connections_per_s != self.connections_per_s:
            self._past.clear()
            for holder in self._present.values():
                holder.bucket = _bucket(connections_per_s, limits.ADDRESS_BURST_S)
        self.connections_max = connections_max
        self.connections_per_s = connections_per_s

    def enter(self, address: str, now: float) -> str:
        """Count one more connection of ``address``.

        Returns:
            Empty, or the reason why it may have no more: then it was not counted.
        """
        self._forget(now)
        holder = self._present.get(address) or self._past.pop(address, None)
        if holder is None:
            holder = _Holder(_bucket(self.connections_per_s, limits.ADDRESS_BURST_S))
        if holder.open >= self.connections_max:
            return "address_connections"
        if not holder.bucket.try_take(now):
            if not holder.open:
                self._remember(address, holder)
            return "address_rate"
        holder.open += 1
        self._present[address] = holder
        return ""

    def start(self, address: str, now: float, held: int = 0) -> float:
        """Give a control request of ``address``, which has a connection open, its turn.

        Args:
            address: what the request is counted by.
            now: the time.
            held: control requests of the address that are being answered.

        Returns:
            The seconds that the request has to wait before it starts; 0 for at once.

        Raises:
            RoomFull: the request would wait for longer than ``CONTROL_WAIT_MAX_S``.
        """
        holder = self._present[address]
        if holder.starts is None:
            holder.starts = TokenBucket(limits.CONTROL_STARTS_PER_S, limits.CONTROL_STARTS_BURST)
        if holder.starts.take(now, 0) >= limits.CONTROL_WAIT_MAX_S:
            raise RoomFull
        return holder.starts.take(now, 1 + held // limits.CONTROL_STARTS_BURST)

    def explain(self, reason: str) -> str:
        """Return a sentence about a reason that ``enter`` returned."""
        if reason == "address_rate":
            return f"your address opens more than {self.connections_per_s:g} connections a second"
        return f"your address holds {self.connections_max} connections, which are the most"

    def leave(self, address: str) -> None:
        """A connection that was counted is over."""
        holder = self._present[address]
        holder.open -= 1
        if not holder.open:
            self._remember(address, self._present.pop(address))

    def _forget(self, now: float) -> None:
        """Forget a few addresses without a connection that may open as much as a new one."""
        for address, holder in list(islice(self._past.items(), _FORGOTTEN_AT_ONCE)):
            if not holder.bucket.is_full(now):
                return  # those that follow left later
            del self._past[address]

    def _remember(self, address: str, holder: _Holder) -> None:
        holder.starts = None  # the address has no request left that could wait
        self._past[address] = holder
        if len(self._past) > limits.ADDRESSES_REMEMBERED_MAX:
            del self._past[next(iter(self._past))]


def _bucket(per_s: float, burst_s: float) -> TokenBucket:
    return TokenBucket(per_s, max(1, round(per_s * burst_s)))
