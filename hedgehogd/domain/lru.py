"""A cache bounded in entries and in weight; the least recently used entries are evicted.

The owner of a cache chooses the unit of the weight.
"""

from collections import OrderedDict
from collections.abc import Iterator
from math import inf
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Lru(Generic[Key, Value]):
    """A mapping that evicts its least recently used entries to keep two bounds.

    ``put`` and ``get`` count as uses. The newest entry is never evicted, even if it alone exceeds
    the bound of the weight: a cache that must not hold such a value does not ``put`` it. All
    methods take constant time; nothing waits.

    Args:
        entries_max: largest number of entries, at least 1.
        weight_max: largest sum of the weights, in the unit that the owner chooses.

    Attributes:
        weight: sum of the weights of the entries.
    """

    __slots__ = ("_entries", "_entries_max", "_weight_max", "weight")

    def __init__(self, entries_max: float = inf, weight_max: float = inf) -> None:
        self.weight = 0
        self._entries_max = entries_max
        self._weight_max = weight_max
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Value | None:
        """Return the value of ``key`` and mark it as used; None if there is no such entry."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Key, value: Value, weight: int = 0) -> None:
        """Add or replace an entry of this ``weight``; it becomes the most recently used one."""
        self.pop(key)
        self._entries[key] = (value, weight)
        self.weight += weight
        while len(self._entries) > 1 and (
            len(self._entries) > self._entries_max or self.weight > self._weight_max
        ):
            _, (_, evicted_weight) = self._entries.popitem(last=False)
            self.weight -= evicted_weight

    def pop(self, key: Key) -> Value | None:
        """Remove the entry of ``key`` and return its value; None if there is no such entry."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.weight -= entry[1]
        return entry[0]

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Iterate over the entries, least recently used first, without marking them as used.

        The cache must not change during the iteration.
        """
        return ((key, value) for key, (value, _) in self._entries.items())

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
        self.weight = 0
