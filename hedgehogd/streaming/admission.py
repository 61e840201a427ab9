"""Admission of connections: fair shares by address; no I/O, the time is an argument.

Two mechanisms serve two kinds of connections:

* ``Room`` limits the number of short connections: incomplete request heads, and control requests.
  A newcomer to a full room evicts another connection: of the address that holds the most places,
  the connection without progress for the longest time. So an address that fills the room pays
  for the newcomers itself.
* ``Addresses`` limits the connections that one address may hold and open, streams included, and
  the rate at which its control requests start. A stream is never evicted for a newcomer.

"Address" means the result of ``streaming.address.share_of``; it is empty for a unix socket.
"""

from collections.abc import Callable
from itertools import islice

from hedgehogd.domain import limits
from hedgehogd.domain.lru import Lru
from hedgehogd.protocol.backoff import TokenBucket

# Seconds after which a refused address may try again, by the code of the reason.
ADDRESS_RETRY_S = {"address_connections": 10, "address_rate": round(limits.ADDRESS_BURST_S)}


_FORGOTTEN_AT_ONCE = 4  # for each address that enters: bounds the work of one entrance


class Visit:
    """A connection that holds a place in a room.

    Attributes:
        address: the address to which the place is charged.
        end: closes the connection; called when the visit is evicted.
        active_at: time of the last progress.
    """

    __slots__ = ("active_at", "address", "end")

    def __init__(self, address: str, end: Callable[[], None], now: float) -> None:
        self.address = address
        self.end = end
        self.active_at = now

    def progress(self, now: float) -> None:
        """Record that the peer sent or received bytes at ``now``."""
        self.active_at = now


class Room:
    """A bounded number of places for short connections."""

    def __init__(self, grace_s: float = 0.0, exchanges_per_s: float | None = None) -> None:
        """Create an empty room.

        Args:
            grace_s: seconds without progress after which a visit may be evicted even if that
                makes the shares of the addresses no fairer.
            exchanges_per_s: largest number of such evictions per second, because a flood of
                newcomers that evict each other would cost more than refusals; None for no limit.
        """
        self._grace_s = grace_s
        self._exchanges = None if exchanges_per_s is None else _bucket(exchanges_per_s, 1.0)
        self._count = 0
        self._visits: dict[str, dict[Visit, None]] = {}

    def __len__(self) -> int:
        return self._count

    def held(self, address: str) -> int:
        """Return the number of places that ``address`` holds."""
        return len(self._visits.get(address, ()))

    def enter(
        self, visit: Visit, places_max: int, now: float, share_max: int | None = None
    ) -> Visit | None:
        """Give ``visit`` a place.

        Args:
            visit: the newcomer.
            places_max: number of places in the room.
            now: the time.
            share_max: number of places that its address may hold; None for all.

        Returns:
            The evicted visit, which the caller ends; None when a place was free.

        Raises:
            RoomFull: no place is free for it, and no visit may be evicted.
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
        """Return the visit to evict for a newcomer of the address that holds the visits ``own``.

        An address that holds at least two more places than the newcomer's always yields one.
        Otherwise the eviction makes the shares no fairer, and grace and rate apply. If the
        newcomer's own address holds the most places, one of its visits is evicted.

        Raises:
            RoomFull: no visit may be evicted.
        """
        most = max(map(len, self._visits.values()), default=0)
        if len(own) == most:
            return self._idlest([own], now)
        crowd = [held for held in self._visits.values() if len(held) == most]
        return self._idlest(crowd, now, is_fairer=most >= len(own) + 2)

    def _idlest(
        self, crowd: list[dict[Visit, None]], now: float, *, is_fairer: bool = False
    ) -> Visit:
        """Return the visit without progress for the longest time, if it may be evicted.

        Raises:
            RoomFull: it made progress within the grace, the rate of evictions is reached, or there
                is no visit.
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
    """No place is free and no visit may be evicted; or an address has too many waiting requests."""


class _Holder:
    """The connections of one address.

    Attributes:
        bucket: the connections that it may still open.
        open: number of its open connections.
        starts: its control requests that may still start.
    """

    __slots__ = ("bucket", "open", "starts")

    def __init__(self, bucket: TokenBucket) -> None:
        self.bucket = bucket
        self.open = 0
        self.starts: TokenBucket | None = None  # set at its first control request


class Addresses:
    """The number of connections of each address, and the rate at which it opens them.

    The addresses with open connections are at most as many as the connections. Of the addresses
    without one, the last ``ADDRESSES_REMEMBERED_MAX`` are remembered, each until its token bucket
    is full again, as that of a new address is.

    Attributes:
        connections_max: number of connections that one address may hold at a time.
        connections_per_s: rate at which one address may open connections; the burst is the
            number of ``ADDRESS_BURST_S`` seconds.
    """

    def __init__(
        self,
        connections_max: int = limits.ADDRESS_CONNECTIONS_MAX,
        connections_per_s: float = limits.ADDRESS_CONNECTIONS_PER_S,
    ) -> None:
        self.connections_max = connections_max
        self.connections_per_s = connections_per_s
        self._present: dict[str, _Holder] = {}
        self._past: Lru[str, _Holder] = Lru(limits.ADDRESSES_REMEMBERED_MAX)

    def __len__(self) -> int:
        """Return the number of addresses with an open connection."""
        return len(self._present)

    def change(self, connections_max: int, connections_per_s: float) -> None:
        """Apply new limits; open connections stay open.

        A new rate begins with a full burst for every address.
        """
        if connections_per_s != self.connections_per_s:
            self._past.clear()
            for holder in self._present.values():
                holder.bucket = _bucket(connections_per_s, limits.ADDRESS_BURST_S)
        self.connections_max = connections_max
        self.connections_per_s = connections_per_s

    def enter(self, address: str, now: float) -> str:
        """Count one more connection of ``address``.

        Returns:
            An empty string; or ``address_connections`` or ``address_rate``, the code of the reason
            for which the connection is refused and was not counted.
        """
        self._forget(now)
        holder = self._present.get(address) or self._past.pop(address)
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
        """Schedule a control request of ``address``, which has an open connection.

        Args:
            address: the address to which the request is charged.
            now: the time.
            held: number of control requests of the address that are being answered; many of them
                delay its later ones.

        Returns:
            Seconds for which the request has to wait before it starts; 0 for none.

        Raises:
            RoomFull: the requests before it already wait for ``CONTROL_WAIT_MAX_S`` or longer; it
                is not scheduled.
        """
        holder = self._present[address]
        if holder.starts is None:
            holder.starts = TokenBucket(limits.CONTROL_STARTS_PER_S, limits.CONTROL_STARTS_BURST)
        if holder.starts.take(now, 0) >= limits.CONTROL_WAIT_MAX_S:
            raise RoomFull
        return holder.starts.take(now, 1 + held // limits.CONTROL_STARTS_BURST)

    def explain(self, reason: str) -> str:
        """Return a sentence for the client that explains a reason returned by ``enter``."""
        if reason == "address_rate":
            return f"your address opens more than {self.connections_per_s:g} connections a second"
        return f"your address holds {self.connections_max} connections, which is the limit"

    def leave(self, address: str) -> None:
        """Count one connection of ``address`` less: it has closed."""
        holder = self._present[address]
        holder.open -= 1
        if not holder.open:
            self._remember(address, self._present.pop(address))

    def _forget(self, now: float) -> None:
        """Forget a few addresses without a connection, those with a full token bucket."""
        for address, holder in list(islice(self._past.items(), _FORGOTTEN_AT_ONCE)):
            if not holder.bucket.is_full(now):
                return  # the following ones left later
            self._past.pop(address)

    def _remember(self, address: str, holder: _Holder) -> None:
        holder.starts = None  # no request of the address is left that could wait
        self._past.put(address, holder)


def _bucket(per_s: float, burst_s: float) -> TokenBucket:
    return TokenBucket(per_s, max(1, round(per_s * burst_s)))
