"""Memory is returned to the system after a burst of slow subscribers."""

import trio

from hedgehogd.app.memory import return_memory
from hedgehogd.domain.limits import TRIM_BYTES_MIN
from hedgehogd.engine.budget import Budget


async def test_the_heap_is_trimmed_once_after_much_was_freed(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """The heap is not trimmed during the burst, nor for small amounts: a trim delays the loop."""
    budget, trims = Budget(), []
    account = budget.account(lambda: None)
    nursery.start_soon(return_memory, budget, trims.append)

    account.take(TRIM_BYTES_MIN)
    account.relieve()
    await trio.sleep(30)
    account.take(1 - TRIM_BYTES_MIN)
    await trio.sleep(30)
    assert trims == []
    account.take(-1)
    await trio.sleep(30)
    assert trims == [0]


async def test_the_heap_is_trimmed_after_a_burst_shorter_than_the_interval_of_looks(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """A hundred slow subscribers may fill the budget and be ended within a second."""
    budget, trims = Budget(), []
    account = budget.account(lambda: None)
    nursery.start_soon(return_memory, budget, trims.append)
    await trio.sleep(1)

    for count in (1, 2):
        account.take(TRIM_BYTES_MIN)
        account.relieve()
        account.take(-TRIM_BYTES_MIN)
        await trio.sleep(30)
        assert trims == [0] * count


async def test_without_the_c_library_of_gnu_nothing_is_trimmed(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """musl has no such function."""
    budget = Budget()
    nursery.start_soon(return_memory, budget, None)
    account = budget.account(lambda: None)
    account.take(TRIM_BYTES_MIN)
    await trio.sleep(30)
    account.take(-TRIM_BYTES_MIN)
    await trio.sleep(30)

    assert budget.bytes == 0
