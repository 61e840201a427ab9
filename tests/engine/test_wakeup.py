"""A wake-up call reaches the task that waits, whenever it comes."""

import trio
from trio.testing import wait_all_tasks_blocked

from hedgehogd.engine.wakeup import Wakeup


async def test_a_call_before_the_wait_is_kept(autojump_clock):
    """The task that waits may still be busy with the previous call."""
    wakeup = Wakeup()
    wakeup.set()
    with trio.fail_after(1):
        await wakeup.wait()


async def test_after_clear_only_a_new_call_wakes(autojump_clock, nursery):
    """A call that was acted on must not wake the task again."""
    wakeup, woken = Wakeup(), []

    async def wait():
        await wakeup.wait()
        woken.append(trio.current_time())

    wakeup.set()
    wakeup.clear()
    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    assert woken == []

    await trio.sleep(3)
    wakeup.set()
    await wait_all_tasks_blocked()
    assert woken == [3]
