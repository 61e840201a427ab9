"""The budget: a shared object counts once, and the largest holder is freed first."""

import pytest

from hedgehogd.engine.budget import HOLD_BYTES, Budget


class Holder:
    """A holder that frees everything on request, except for a farewell the first time."""

    def __init__(self, budget, name="", log=None, farewell=0):
        self.account = budget.account(self.free)
        self.name, self.log = name, [] if log is None else log
        self.farewell = farewell
        self.own = 0
        self.shared = []

    def take(self, size):
        self.own += size
        self.account.take(size)

    def share(self, thing, size):
        self.shared.append((thing, self.account.share(thing, size)))

    def free(self):
        self.log.append(self.name)
        self.account.take(-self.own)
        self.own = 0
        while self.shared:
            self.account.release(*self.shared.pop())
        farewell, self.farewell = self.farewell, 0
        if farewell:
            self.take(farewell)
            self.account.relieve()  # as an outlet does; it must not start another relief


def test_a_shared_object_is_counted_once():
    """A thousand slow members of one cohort hold its bytes once."""
    budget = Budget(10**6)
    thing = bytearray(1000)
    holders = [Holder(budget) for _ in range(4)]
    for holder in holders:
        holder.share(thing, 1000)

    assert budget.bytes == 1000 + 4 * HOLD_BYTES
    charges = [holder.account.charge - HOLD_BYTES for holder in holders]
    assert charges == [1000, 500, 333, 250]
    for holder in holders[:3]:
        holder.free()
    assert budget.bytes == 1000 + HOLD_BYTES
    holders[3].free()
    assert (budget.bytes, budget.accounts, budget.shared) == (0, {}, {})


def test_equal_bytes_in_two_objects_are_counted_twice():
    """They are counted as they are held in memory, by identity."""
    budget = Budget(10**6)
    for thing in (bytearray(10), bytearray(10)):
        Holder(budget).share(thing, 10)

    assert budget.bytes == 2 * (10 + HOLD_BYTES)


def test_the_largest_holders_are_freed_first_and_no_more_than_needed():
    """A subscriber that is hardly slow stays while the largest ones fill the memory."""
    budget, log = Budget(3200), []
    for name, size in [("small", 100), ("large", 1500), ("larger", 1600)]:
        Holder(budget, name, log).take(size)
    budget.relieve()
    assert log == []  # at the bound, not above it

    Holder(budget, "smallest", log).take(1)
    budget.relieve()
    assert log == ["larger"]
    assert (budget.bytes, budget.relieved) == (1601, 1)


def test_relief_ends_a_little_below_the_bound():
    """Otherwise each further message would search for another holder."""
    budget, log = Budget(3200), []
    for name, size in [("a", 50), ("b", 60), ("c", 3091)]:
        Holder(budget, name, log, farewell=3000 if name == "c" else 0).take(size)
    budget.relieve()

    assert log == ["c", "b"]
    assert budget.bytes == 3050


def test_members_of_a_cohort_are_not_ended_for_one_that_fills_the_memory_alone():
    """Their bytes are shared: the end of one of them would free next to nothing."""
    budget, log = Budget(30_000), []
    thing = bytearray(20_000)
    for _ in range(20):
        Holder(budget, "member", log).share(thing, 20_000)
    first = next(iter(budget.accounts))
    first.release(thing, first.charge)  # the first one, which was charged for all, has caught up
    alone = Holder(budget, "alone", log)
    alone.take(10_400)
    budget.relieve()

    assert log[0] == "alone"
    assert log.count("member") <= 1


@pytest.mark.parametrize("farewell", [0, 900])
def test_farewells_are_freed_when_they_exceed_the_bound(farewell):
    """A thousand farewells for peers that do not read must not exceed the bound either."""
    budget, log = Budget(1000), []
    holders = [Holder(budget, name, log, farewell) for name in "ab"]
    for holder in holders:
        holder.take(700)
        holder.account.relieve()

    assert budget.bytes <= 1000
    assert log == (["a"] if not farewell else ["a", "b", "a", "b"][: len(log)])


def test_a_lower_bound_is_enforced_by_relieve():
    """The operator has changed it and reloaded."""
    budget, log = Budget(1000), []
    Holder(budget, "a", log).take(700)
    budget.bytes_max = 600
    budget.relieve()

    assert (log, budget.bytes) == (["a"], 0)


def test_a_holder_that_cannot_be_freed_is_tried_twice_and_no_more():
    """Relief must end, even if no holder frees anything."""
    budget = Budget(10)
    budget.account(lambda: None).take(11)
    budget.relieve()

    assert (budget.bytes, budget.relieved) == (11, 2)
