"""Followers: woken by datagrams, or by their poll; they report files that are gone."""

import pytest
import trio

from hedgehogd.domain.limits import FOLLOWER_POLL_S, WINDOW_CHECK_S
from hedgehogd.log import follower as follower_module
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LeftWindow, LogError, ReplacedWindow
from hedgehogd.log.follower import Follower
from tests.log.conftest import damage_page, descriptors, message, numbers


@pytest.fixture
def follow(machine):
    """Start a follower."""
    return lambda: machine.keep(Follower(machine.directory))


async def test_a_follower_is_woken_by_an_append(machine, follow, mock_clock):
    """The clock does not move, so no poll can be the reason."""
    writer = machine.writer()
    follower = follow()
    got = []

    async def deliver():
        while len(got) < 20:
            await follower.wait()
            got.extend(follower.read(follower.reader.after_id, 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        for number in range(20):
            await trio.testing.wait_all_tasks_blocked()
            writer.append([message(number)])

    assert list(range(20)) == numbers(got)


async def test_a_lost_datagram_costs_one_poll(machine, follow, autojump_clock, monkeypatch):
    """A full socket, or a follower that the writer did not find."""
    writer = machine.writer()
    follower = follow()
    machine.directory.remove(follower._name)
    writer.renew()
    began = trio.current_time()

    async def append_later():
        await trio.sleep(1)
        writer.append([message(1)])

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.watch)
            nursery.start_soon(append_later)
            await follower.wait()
            nursery.cancel_scope.cancel()

    assert 1 <= trio.current_time() - began <= 1 + FOLLOWER_POLL_S
    assert [1] == numbers(follower.read(follower.reader.after_id, 100))


async def test_a_follower_is_woken_by_a_new_writer(machine, follow, mock_clock):
    """It joins each term that it reads, before and after its first record there."""
    writer = machine.writer()
    writer.append([message(0)])
    follower = follow()
    got = []

    async def deliver():
        while len(got) < 12:
            await follower.wait()
            got.extend(follower.read(follower.reader.after_id, 100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        for number in range(1, 13):
            if number % 4 == 1:
                writer = machine.writer()
            await trio.testing.wait_all_tasks_blocked()
            writer.append([message(number)])

    assert list(range(1, 13)) == numbers(got)


async def test_a_follower_of_a_fenced_term_waits_without_work(machine, follow, autojump_clock):
    """A candidate died in its takeover; the follower must not use a core until the next one."""
    writer = machine.writer()
    follower = follow()
    writer._page.fence()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.watch)
        with trio.move_on_after(1.05) as waited:
            await follower.wait()
        assert waited.cancelled_caught
        machine.writer()
        with trio.fail_after(1):
            await follower.wait()
        nursery.cancel_scope.cancel()

    assert [] == follower.read(follower.reader.after_id, 100)


async def test_datagrams_of_records_that_were_read_cause_no_read(machine, follow, autojump_clock):
    """A follower that was busy finds one datagram for each append."""
    writer = machine.writer()
    follower = follow()
    writer.renew()
    for number in range(8):
        writer.append([message(number)])
    assert 8 == len(follower.read(follower.reader.after_id, 100))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.watch)
        with trio.move_on_after(1) as waited:
            await follower.wait()
        nursery.cancel_scope.cancel()

    assert waited.cancelled_caught


async def test_an_error_ends_the_wait(machine, follow, autojump_clock):
    """The read reports it, so that one place handles it."""
    machine.writer()
    follower = follow()
    for _ in range(3):
        machine.writer()
    machine.directory.remove_page(2)
    with trio.fail_after(1):
        await follower.wait()
    with pytest.raises(LeftWindow):
        follower.read(follower.reader.after_id, 100)


async def test_a_wait_with_records_is_a_checkpoint(machine, follow):
    """A busy log must not keep other tasks from running."""
    writer = machine.writer()
    follower = follow()
    writer.append([message(1)])
    with trio.CancelScope() as scope:
        scope.cancel()
        await follower.wait()
    assert scope.cancelled_caught


async def test_a_follower_notices_that_its_files_are_gone(machine, follow, autojump_clock):
    """Within 5 s: no writer will ever append to them."""
    machine.writer()
    follower = follow()
    for path in machine.path.iterdir():
        path.unlink()
    with pytest.raises(ReplacedWindow), trio.fail_after(WINDOW_CHECK_S + 1):
        await follower.watch()


@pytest.mark.parametrize("deployment", [None, "aaaaaa"])
async def test_a_damaged_page_ends_its_followers(machine, follow, autojump_clock, deployment):
    """Its writer lives, and no candidate can fence it: the log begins again without them."""
    machine.writer(deployment=deployment).append([message(1)])
    follower = follow()
    damage_page(machine.path / "term-1")
    machine.writer(deployment=deployment)
    with pytest.raises(ReplacedWindow, match="terms of another log"):
        with trio.fail_after(WINDOW_CHECK_S + 1):
            await follower.watch()


async def test_a_takeover_ends_no_follower(machine, follow, autojump_clock, monkeypatch):
    """Not in any instant of a check either: the fence comes before the page of the next term."""
    machine.writer()
    follower = follow()
    for step in ("check", "_check", "names", "terms"):
        plain = getattr(Directory, step)

        def taken(*arguments, plain=plain):
            with monkeypatch.context() as patch:
                patch.setattr(Directory, plain.__name__, plain)
                machine.writer()
            return plain(*arguments)

        with monkeypatch.context() as patch, trio.move_on_after(WINDOW_CHECK_S + 1) as watched:
            patch.setattr(Directory, step, taken)
            await follower.watch()
        assert watched.cancelled_caught
        machine.writer().append([message(1)])
        assert [1] == numbers(follower.read(follower.reader.after_id, 100))


async def test_a_closed_follower_leaves_nothing(machine, follow):
    """Its socket's file would gather."""
    machine.writer()
    directory = machine.directory
    before = descriptors()
    follower = Follower(directory)
    assert 1 == len(directory.followers())
    follower.close()

    assert (0, before) == (len(directory.followers()), descriptors())


async def test_a_socket_that_cannot_be_bound_is_an_error_of_the_log(machine, monkeypatch):
    """Nothing stays open."""
    machine.writer()
    directory = machine.directory

    def refuse(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(follower_module, "bind_follower", refuse)
    before = descriptors()
    with pytest.raises(LogError, match="No space left"):
        Follower(directory)

    assert before == descriptors()
