"""One bound for all memory that waits for the subscribers of an instance.

Each subscriber has bounds of its own, but a thousand slow subscribers together may hold
gigabytes. The budget counts the bytes that *holders* (backlogs, snapshots, replays) hold; an object
with several holders is counted once. When the sum exceeds the bound, the largest holders free
their memory, one after the other, until the sum is a little below it.

Holders are compared by the ``charge`` of their account: the bytes that it holds alone, plus its
part of each shared object, the object's size divided by the number of holders at the time it
joined them. So a holder that fills the memory alone is ended before a member of a large cohort,
which would free almost nothing.

Only waiting bytes are counted: a delivery that the socket accepts at once never gets here.
"""

from collections.abc import Callable

import msgspec

from hedgehogd.domain.limits import WAITING_BYTES_MAX

HOLD_BYTES = 160
"""Memory of one waiting reference in Python: the entry, its place in a queue, a time."""

_SLACK = 32  # relief ends 1/32 of the bound below it, so that the search is rare


class _Shared(msgspec.Struct, gc=False, eq=False):
    """An object that is counted once; the reference keeps its ``id`` from being reused.

    The object refers to no account and no budget: the cycle collector does not look here.
    """

    thing: object
    size: int
    holders: int = 0


class Account:
    """The account of one holder.

    Attributes:
        charge: the bytes by which holders are compared; 0 when it holds nothing.
        free: frees the holder's memory; see ``Budget.account``.
    """

    __slots__ = ("_budget", "charge", "free")

    def __init__(self, budget: "Budget", free: Callable[[], None]) -> None:
        self.charge = 0
        self.free = free
        self._budget = budget

    def take(self, size: int) -> None:
        """Add ``size`` bytes that no other account holds, or subtract them if it is negative.

        The bound is not enforced: see ``relieve``.
        """
        self._budget.bytes += size
        self._move(size)

    def share(self, thing: object, size: int) -> int:
        """Hold ``thing``, which takes ``size`` bytes and may have other holders.

        The budget keeps a reference to it until the last holder releases it. The ``size`` that the
        first holder states is counted. The bound is not enforced: see ``relieve``.

        Returns:
            The charge for it, to be passed to ``release``.
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
        """End one hold of ``thing``; ``charge`` is the result of its ``share``.

        Raises:
            KeyError: no account holds it.
        """
        budget = self._budget
        shared = budget.shared[id(thing)]
        shared.holders -= 1
        if not shared.holders:
            del budget.shared[id(thing)]
            budget.bytes -= shared.size
        budget.bytes -= HOLD_BYTES
        self._move(-charge)

    def relieve(self) -> None:
        """Enforce the bound; call it after ``take`` and ``share``, in a consistent state.

        It may call ``free`` of any account, this one included.
        """
        self._budget.relieve()

    def _move(self, change: int) -> None:
        self.charge += change
        if self.charge:
            self._budget.accounts[self] = None
        else:
            self._budget.accounts.pop(self, None)


class Budget:
    """All memory that waits for the subscribers of one instance.

    Attributes:
        bytes: the memory held now.
        highest: the most memory held since the start, or since a reader set it back to ``bytes``.
        bytes_max: the bound; after it was lowered, ``relieve`` enforces it.
        relieved: how often a holder had to free its memory.
        accounts: the accounts that hold memory.
        shared: objects that may have several holders, by ``id``.
    """

    def __init__(self, bytes_max: int = WAITING_BYTES_MAX) -> None:
        self.bytes = self.highest = 0
        self.bytes_max = bytes_max
        self.relieved = 0
        self.accounts: dict[Account, None] = {}
        self.shared: dict[int, _Shared] = {}
        self._is_relieving = False

    def account(self, free: Callable[[], None]) -> Account:
        """Return a new account.

        Args:
            free: frees the holder's memory at once. It may keep a farewell; called again, it has
                to free the farewell too.
        """
        return Account(self, free)

    def relieve(self) -> None:
        """Note the sum; if it exceeds the bound, free the largest holders until it is 1/32 below.

        A call from within a holder's ``free`` has no effect.
        """
        if self.bytes > self.highest:
            self.highest = self.bytes
        if self.bytes <= self.bytes_max or self._is_relieving:
            return
        self._is_relieving = True  # a holder that is freed writes its farewell
        try:
            for _ in range(2):  # the second round frees the farewells
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
