"""The order of commands and reads: a light session does not wait for any number of heavy ones."""

import pytest
import trio

from hedgehogd.domain import limits
from hedgehogd.domain.errors import SubscriberError
from hedgehogd.fanout.turns import Readings, Turns

ALL = limits.COMMAND_TOPICS_BURST


async def _send(turns, share, weight, times, count=1):
    """Submit ``count`` commands one after the other, as a session does; record their times."""
    for _ in range(count):
        async with turns.turn(share, weight):
            times.append(trio.current_time())


async def test_the_largest_valid_first_subscribe_is_executed_at_once(autojump_clock):
    """All products and all channels: the subscribe of a recorder of the whole market."""
    turns, times, begin = Turns(), [], trio.current_time()
    await _send(turns, "a", limits.TOPICS_PER_SUBSCRIBER_MAX, times)

    assert (times, turns.delayed) == ([begin], 0)


async def test_small_commands_of_many_addresses_never_wait(autojump_clock):
    """A thousand subscribers that return after a restart."""
    turns, times, begin = Turns(), [], trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(_send, turns, str(number), 2, times, 10)

    assert times == [begin] * 10_000
    assert turns.delayed == 0


@pytest.mark.parametrize("shares", [1, 4, 40])
async def test_all_heavy_sessions_together_keep_their_rate(shares, nursery, autojump_clock):
    """Four or forty that change 5,000 topics 10 times a second leave the loop to the feed."""
    turns, times = Turns(), []
    begin = trio.current_time()
    for number in range(40):
        nursery.start_soon(_send, turns, str(number % shares), 5000, times, 10**6)
    await trio.sleep(100)

    most = (ALL + limits.COMMAND_TOPICS_PER_S * 100) / 5000
    assert 0.9 * most <= len(times) <= most + 1
    assert sum(at == begin for at in times) <= ALL / 5000


async def test_heavy_sessions_take_turns(nursery, autojump_clock):
    """None is served twice before each waiting one is served once."""
    turns, order = Turns(), []

    async def send(name):
        while True:
            async with turns.turn("one address", ALL):
                order.append(name)

    for name in "abcd":
        nursery.start_soon(send, name)
    await trio.sleep(35)

    last = order[-32:]
    assert [last[n : n + 4] for n in range(0, 32, 4)] == [last[:4]] * 8
    assert sorted(last[:4]) == list("abcd")


async def test_a_light_session_does_not_wait_for_heavy_ones(nursery, autojump_clock):
    """Its answer comes at once, and its first large subscribe after at most one of theirs."""
    turns = Turns()
    for number in range(40):
        nursery.start_soon(_send, turns, f"heavy {number % 4}", 5000, [], 10**6)
    await trio.sleep(30)
    light, begin = [], trio.current_time()
    await _send(turns, "light", 10, light, 50)
    assert light == [begin] * 50
    await _send(turns, "light", 5000, light)

    assert light[-1] - begin <= 2 * 5000 / limits.COMMAND_TOPICS_PER_S + 0.001


async def test_an_allowance_is_restored(autojump_clock):
    """A subscriber that connects again later is served as fast as before."""
    turns, times = Turns(), []
    await _send(turns, "a", ALL, times)
    await trio.sleep(ALL / limits.ADDRESS_TOPICS_PER_S)
    begin = trio.current_time()
    await _send(turns, "a", ALL, times)

    assert (times[-1], turns.delayed) == (begin, 0)


async def test_the_number_of_allowances_is_bounded(monkeypatch, autojump_clock):
    """The one that was used longest ago is forgotten."""
    monkeypatch.setattr(limits, "ALLOWANCES_MAX", 2)
    turns, times = Turns(), []
    for share in ("a", "b", "a", "c", "a"):
        await _send(turns, share, 4000, times)
    assert turns.delayed == 1  # a, which was not forgotten
    await _send(turns, "b", 10_000, times)

    assert turns.delayed == 1


async def test_an_allowance_is_kept_until_it_is_full(autojump_clock):
    """A day of subscribers, each from an address of its own, must not fill memory."""
    turns, times = Turns(), []
    await _send(turns, "heavy", ALL, times)
    for number in range(100):
        await _send(turns, str(number), 250, times)
        await trio.sleep(2)
        assert ("heavy" in dict(turns._allowances.items())) == (trio.current_time() < times[0] + 42)
    assert len(turns._allowances) <= 3
    await _send(turns, "heavy", ALL, times)

    assert turns.delayed == 0


async def test_a_cancelled_wait_leaves_the_turn_to_the_next(nursery, autojump_clock):
    """A strict client has five seconds to subscribe; its wait is cancelled and started again."""
    turns, times = Turns(), []
    await _send(turns, "a", ALL, times)
    nursery.start_soon(_send, turns, "a", ALL, times)
    await trio.testing.wait_all_tasks_blocked()
    with trio.move_on_after(0.5) as scope:
        await _send(turns, "a", 10, [])
    assert scope.cancelled_caught
    await _send(turns, "a", 10, times)
    await trio.sleep(1)

    assert len(times) == 3


async def test_a_cancelled_command_returns_its_part_of_the_rate(nursery, autojump_clock):
    """A hundred commands that are cancelled during their wait delay no other address."""
    turns, times = Turns(), []
    await _send(turns, "many", ALL, times)
    scopes = []

    async def wait_in_vain():
        with trio.CancelScope() as scope:
            scopes.append(scope)
            await _send(turns, "many", ALL, times)

    for _ in range(100):
        nursery.start_soon(wait_in_vain)
        await trio.testing.wait_all_tasks_blocked()
    for scope in scopes:  # each of them is the first in the queue when it is cancelled
        await trio.sleep(0.001)
        scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    begin = trio.current_time()
    await _send(turns, "one", 5000, times)

    assert len(times) == 2
    assert times[-1] - begin <= 5000 / limits.COMMAND_TOPICS_PER_S


async def test_a_command_of_more_topics_than_the_burst_costs_the_whole_allowance(autojump_clock):
    """It would never fit into the allowance, and so never be charged."""
    turns, times, begin = Turns(), [], trio.current_time()
    await _send(turns, "a", 12 * ALL, times)
    assert (times, turns.delayed) == ([begin], 0)
    await _send(turns, "a", 1, times)

    assert turns.delayed == 1


async def test_an_address_beyond_its_allowance_waits_for_one_command_of_another(
    nursery, autojump_clock
):
    """A hundred commands of one address do not make another address wait for all of them."""
    turns, times = Turns(), []
    await _send(turns, "one", ALL, times)
    for _ in range(100):
        nursery.start_soon(_send, turns, "many", ALL, [])
    await trio.sleep(10)
    begin = trio.current_time()
    await _send(turns, "one", ALL, times)
    assert times[-1] - begin <= 3 * ALL / limits.COMMAND_TOPICS_PER_S
    await trio.sleep(100)

    assert turns._beyond_by_share.waiting("many") == 0


async def test_an_address_reads_one_page_of_history_at_a_time(nursery, autojump_clock):
    """A hundred queries of one address do not make another address wait for them."""
    readings, reading, done = Readings(), set(), []

    async def read(share, number):
        async with readings.turn(share):
            assert share not in reading
            reading.add(share)
            await trio.sleep(1)
            reading.remove(share)
        done.append((share, number))

    for number in range(5):
        nursery.start_soon(read, "many", number)
        await trio.testing.wait_all_tasks_blocked()
    await trio.sleep(0.5)
    nursery.start_soon(read, "one", 0)
    await trio.sleep(1.1)
    assert done == [("many", 0), ("one", 0)]
    await trio.sleep(10)

    assert [each for each in done if each[0] == "many"] == [("many", n) for n in range(5)]
    assert readings.waiting("many") == 0


async def test_an_address_with_many_waiting_queries_is_refused(nursery, autojump_clock):
    """Each holds a page in memory; the client is asked to retry later."""
    readings = Readings()

    async def read(share):
        async with readings.turn(share):
            await trio.sleep(1)

    for _ in range(limits.HISTORY_WAITING_MAX):
        readings.check("many")
        nursery.start_soon(read, "many")
        await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(SubscriberError) as refused:
        readings.check("many")
    readings.check("other")

    assert (refused.value.status, refused.value.code) == (429, "too_many_queries")
    await trio.sleep(limits.HISTORY_WAITING_MAX)
    readings.check("many")


async def test_queries_of_all_addresses_write_one_after_the_other_each_in_turn(autojump_clock):
    """An address with many queries gets as many turns as one with one, and waits for no client."""
    readings, order = Readings(), []

    async def write(share):
        for _ in range(3):
            async with readings.writing_turn(share):
                order.append(share)
                await trio.sleep(1)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for share in ("a", "a", "a", "b"):
            nursery.start_soon(write, share)

    assert trio.current_time() - began == pytest.approx(12)
    assert order[:6].count("b") == 3
    assert readings.waiting("a") == 0
