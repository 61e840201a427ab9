"""One bound for all memory that waits for the subscribers of an instance.

Each subscriber has bounds of its own, but a thousand slow subscribers together may hold
gigabytes. The budget counts bytes as they are held: what several holders share is counted
once. When the sum exceeds the bound, the largest holders free what they hold, one after the
other, until the sum is a little below it.

The size that decides is an account's ``charge``: what it holds alone, and of what it shares
its part, divided by the number of holders at the time it joined them. A member of a large
cohort, whose end would free next to nothing, is therefore not ended in place of a holder
that fills the memory alone.

Only what waits is counted: a delivery that the socket accepts at once never gets here.
"""

from collections.abc import Callable

from hedgehogd.domain.limits import WAITING_BYTES_MAX

HOLD_BYTES = 160
"""What Python needs for one reference that waits: the entry, its place in a line, a time."""

_SLACK = 32  # the relief ends this part of the bound below it, so that the search is rare


class _Shared:
    """A thing that is counted once; the reference keeps its ``id`` from being reused."""

    __slots__ = ("holders", "size", "thing")

    def __init__(self, thing: object, size: int) -> None:
        self.thing = thing
        self.size = size
        self.holders = 0


class Account:
    """What one holder has of the budget.

    Attributes:
        charge: the bytes that it answers for; 0 when it holds nothing.
    """

    __slots__ = ("_budget", "charge", "free")

    def __init__(self, budget: "Budget", free: Callable[[], None]) -> None:
        self.charge = 0
        self.free = free
        self._budget = budget

    def take(self, size: int) -> None:
        """Hold ``size`` bytes more that no other account holds; fewer when it is negative."""
        self._budget.bytes += size
        self._move(size)

    def share(self, thing: object, size: int) -> int:
        """Hold ``thing``, which takes ``size`` bytes, whoever else holds it.

        Returns:
            The charge for it, by which ``release`` ends this hold.
        """
        budget = self._budget
        shared = budget.shared.get(id(thing))
        if shared is None:
            shared = budget.shared[id(thing)] = _Shared(thing, size)
            budget.bytes += size
        shared.holders += 1
        charge = HOLD_BYTES + shared.size // shared.holders
        budget.bytes += HOLD_BYTES
        self._move(charge)
        return charge

    def release(self, thing: object, charge: int) -> None:
        """Hold ``thing`` no longer."""
        budget = self._budget
        shared = budget.shared[id(thing)]
        shared.holders -= 1
        if not shared.holders:
            del budget.shared[id(thing)]
            budget.bytes -= shared.size
        budget.bytes -= HOLD_BYTES
        self._move(-charge)

    def relieve(self) -> None:
        """Keep the bound; call it after ``take`` and ``share``, when this holder's books are right.

        It may free what this account holds.
        """
        self._budget.relieve()

    def _move(self, change: int) -> None:
        self.charge += change
        if self.charge:
            self._budget.accounts[self] = None
        else:
            self._budget.accounts.pop(self, None)


class Budget:
    """All that waits for the subscribers of one instance.

    Attributes:
        bytes: the memory that it takes now.
        bytes_max: the bound; after it was lowered, ``relieve`` enforces it.
        relieved: how often a holder had to free what it held.
        accounts: those that hold something.
        shared: the things that may have several holders, by ``id``.
    """

    def __init__(self, bytes_max: int = WAITING_BYTES_MAX) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max
        self.relieved = 0
        self.accounts: dict[Account, None] = {}
        self.shared: dict[int, _Shared] = {}
        self._is_relieving = False

    def account(self, free: Callable[[], None]) -> Account:
        """Return an account; ``free`` shall free what it holds, at once.

        ``free`` may leave a farewell; called again, it has to free that as well.
        """
        return Account(self, free)

    def relieve(self) -> None:
        """Let the largest holders free what they hold while the sum exceeds the bound."""
        if self.bytes <= self.bytes_max or self._is_relieving:
            return
        self._is_relieving = True  # a holder that is freed writes its farewell
        try:
            for _ in range(2):  # in a second round the farewells go too
                if self._free_down_to(self.bytes_max - self.bytes_max // _SLACK):
                    return
        finally:
            self._is_relieving = False

    def _free_down_to(self, enough: int) -> bool:
        largest_first = sorted(self.accounts, key=lambda each: each.charge, reverse=True)
        for account in largest_first:
            self.relieved += 1
            account.free()
            if self.bytes <= enough:
                return True
        return False
