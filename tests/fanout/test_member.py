"""The port to the writing end of a subscriber.

The suite of the port runs on the real adapter, over a socket pair, and on the fake.
"""

import socket
from contextlib import closing

import pytest
import trio

from hedgehogd.fanout.instance import StreamCounts
from hedgehogd.fanout.member import Member
from hedgehogd.fanout.session import Session
from hedgehogd.streaming.outlet import Outlet, OutletSettings
from tests.engine.test_chunk import FORM, make_chunk
from tests.fakes import FakeMember


@pytest.fixture(params=["fake", "outlet"])
async def peers(request, plumbing):
    """A member with a small backlog, and a function that returns the bytes its peer received."""
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        theirs.setblocking(False)
        async with trio.open_nursery() as nursery:
            if request.param == "fake":
                member = FakeMember(FORM, chunks_max=3)
                received = lambda: bytes(member.data)  # noqa: E731
            else:
                member = Outlet(ours, FORM, OutletSettings(nursery, StreamCounts(), 1024))
                received = lambda: theirs.recv(10**6)  # noqa: E731
            member.session = Session("1.x", member, FORM, plumbing.pipe, 1)
            yield member, received
            nursery.cancel_scope.cancel()


async def test_writes_and_notices_arrive_in_order(peers):
    """The hub leaves all work after its write to the member."""
    member, received = peers
    one, two = make_chunk(1, 2), make_chunk(3)
    member.write(one)
    member.tell(b"{}")
    member.write(two)

    assert received() == one.data + FORM.tell(b"{}") + two.data
    assert member.statistics(0.0) == (3, 0, 0, 0.0)


async def test_after_its_end_a_member_ignores_writes(peers):
    """Bytes after a farewell would be a broken stream."""
    member, received = peers
    member.write(make_chunk(1))
    member.end(1012, "drain")
    before = received()
    member.write(make_chunk(2))
    member.tell(b"{}")
    member.end(1012, "drain")

    assert received() in {before, b""}  # the real one has shut its socket
    assert member.session.is_closed
    assert member.statistics(0.0).delivered == 1


async def test_a_member_that_keeps_up_has_an_empty_backlog(peers):
    """A catch-up waits for this before it delivers more."""
    member, received = peers
    member.write(make_chunk(1, 2))
    await member.wait_written()

    assert list(member.waiting()) == []
    assert received()


async def test_a_member_with_a_full_backlog_ends_during_a_write(peers):
    """So the hub must allow that members leave while it writes to them."""
    member, _ = peers
    for sequence in range(9):
        member.write(make_chunk(sequence, size=200_000))

    assert member.session.is_closed
    assert member.statistics(0.0).waiting_bytes == 0


async def test_a_member_that_sheds_ends_and_holds_nothing(peers):
    """All subscribers together hold too much; shedding again frees the farewell too."""
    member, _ = peers
    for sequence in range(2):
        member.write(make_chunk(sequence, size=400))
    member.shed()
    member.shed()

    assert member.session.is_closed
    assert list(member.waiting()) == []
    assert member.statistics(0.0).waiting_bytes == 0


async def test_a_member_is_a_port():
    """A method that an adapter does not implement raises at once."""
    member = Member()
    calls = [
        lambda: member.write(make_chunk(1)),
        lambda: member.tell(b"{}"),
        lambda: member.end(1012, "drain"),
        member.shed,
        lambda: member.statistics(0.0),
        member.waiting,
    ]

    assert (member.served_to, member.cohort) == (0, None)
    for call in calls:
        with pytest.raises(NotImplementedError):
            call()
    with pytest.raises(NotImplementedError):
        await member.wait_written()
