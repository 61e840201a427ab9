"""Fair shares of a limited number of places, by address."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.streaming.admission import Addresses, Room, RoomFull, Visit


def _visit(address: str, now: float = 0.0) -> Visit:
    return Visit(address, lambda: None, now)


def test_a_room_with_a_free_place_evicts_no_visit():
    """This holds too after a visit has left, and left again."""
    room = Room()
    visits = [_visit("a", now) for now in range(3)]
    assert [room.enter(visit, 3, 3) for visit in visits] == [None] * 3
    room.leave(visits[0])
    room.leave(visits[0])

    assert room.enter(_visit("b", 3), 3, 3) is None
    assert len(room) == 3


def test_the_longest_idle_visit_of_the_address_with_the_most_is_evicted():
    """Older visits of other addresses keep their places."""
    room = Room(grace_s=60)
    honest = _visit("honest", 0)
    crowd = [_visit("crowd", now) for now in (1, 2, 3)]
    for visit in (honest, *crowd):
        room.enter(visit, 4, 3)
    crowd[0].progress(4)

    assert room.enter(_visit("other", 4), 4, 4) is crowd[1]


def test_an_address_with_the_largest_share_pays_for_its_own_newcomers():
    """Two addresses with equally many visits do not evict each other's."""
    room = Room()
    a = [_visit("a", now) for now in (0, 2)]
    b = [_visit("b", now) for now in (1, 3)]
    for visit in (*a, *b):
        room.enter(visit, 4, 3)

    assert room.enter(_visit("b", 4), 4, 4) is b[0]
    assert room.enter(_visit("a", 4), 4, 4) is a[0]


@pytest.mark.parametrize(("now", "is_full"), [(1.9, True), (2.0, False)])
def test_a_visit_with_recent_progress_stays_when_shares_would_be_no_fairer(now, is_full):
    """To end one request for another of an address with equally many serves no client."""
    room = Room(grace_s=1.0)
    first, second = _visit("a", 0), _visit("b", 0.5)
    for visit in (first, second):
        room.enter(visit, 2, 0.5)
    first.progress(1.0)
    second.progress(1.0)
    newcomer = _visit("c", now)
    if is_full:
        with pytest.raises(RoomFull):
            room.enter(newcomer, 2, now)
    else:
        assert room.enter(newcomer, 2, now) is first
    assert len(room) == 2


def test_an_address_pays_itself_for_newcomers_beyond_its_share():
    """It pays although the room has free places."""
    room = Room(grace_s=1.0)
    own = [_visit("a", now) for now in (0, 1)]
    for visit in own:
        room.enter(visit, 9, 1, share_max=2)
    with pytest.raises(RoomFull):
        room.enter(_visit("a", 0.5), 9, 0.5, share_max=2)

    assert room.enter(_visit("a", 1.5), 9, 1.5, share_max=2) is own[0]
    assert room.enter(_visit("b", 1.5), 9, 1.5, share_max=2) is None


def test_a_flood_that_ends_its_own_visits_is_slowed_and_other_addresses_are_not():
    """Each eviction costs more than a refusal."""
    room = Room(exchanges_per_s=2.0)
    for _ in range(9):
        room.enter(_visit("flood"), 9, 0)
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(room.enter(_visit("flood"), 9, 0) is not None)
        except RoomFull:
            outcomes.append(False)
    others = [room.enter(_visit(name), 9, 0) for name in "xyz"]

    assert outcomes == [True, True, False, False]
    assert all(others)
    assert room.enter(_visit("flood", 0.5), 9, 0.5, share_max=1) is not None


def test_a_room_without_places_is_full():
    """The limit may be configured as zero."""
    with pytest.raises(RoomFull):
        Room().enter(_visit("a"), 0, 0)


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_large_shares_never_evict_the_only_visit_of_an_address(seed, places):
    """In any order of events an only visit stays while another address holds three."""
    random, room, now = Random(seed), Room(), 0.0
    held: dict[Visit, None] = {}
    for _ in range(200):
        now += 1
        address = random.choice(["crowd", "crowd", "crowd", "x", "y"])
        visit = _visit(address, now)
        counts = {name: sum(each.address == name for each in held) for name in ["crowd", "x", "y"]}
        evicted = room.enter(visit, places, now)
        held[visit] = None
        if evicted is not None:
            del held[evicted]
            assert counts[evicted.address] == max(counts.values())
            assert evicted.address == address or counts[evicted.address] > counts[address]
        if held and random.random() < 0.1:
            gone = random.choice(list(held))
            del held[gone]
            room.leave(gone)
        assert len(room) == len(held) <= places


def test_an_address_holds_no_more_than_its_limit():
    """A connection that has ended frees a place for another."""
    addresses = Addresses(connections_max=2)
    assert [addresses.enter("a", 0) for _ in range(3)] == ["", "", "address_connections"]
    assert addresses.enter("b", 0) == ""
    addresses.leave("a")

    assert addresses.enter("a", 0) == ""
    assert "2 connections" in addresses.explain("address_connections")


def test_an_address_opens_no_more_than_its_rate():
    """The rate is remembered after the last connection has ended."""
    addresses = Addresses(connections_per_s=0.2)
    for now, reason in ((0, ""), (0, ""), (0, "address_rate"), (5, ""), (5, "address_rate")):
        assert addresses.enter("a", now) == reason
        if not reason:
            addresses.leave("a")

    assert len(addresses) == 0
    assert "0.2 connections a second" in addresses.explain("address_rate")


def test_a_bounded_number_of_addresses_is_remembered(monkeypatch):
    """An attacker with many addresses must not fill the memory; open connections remain counted."""
    monkeypatch.setattr(limits, "ADDRESSES_REMEMBERED_MAX", 10)
    addresses = Addresses(connections_max=1, connections_per_s=0.1)
    addresses.enter("held", 0)
    for number in range(100):
        address = str(number)
        assert addresses.enter(address, 0) == ""
        assert addresses.enter(address, 0) == "address_connections"
        addresses.leave(address)
        assert addresses.enter(address, 0) == "address_rate"

    assert len(addresses._past) == 10
    assert addresses.enter("99", 0) == "address_rate"
    assert addresses.enter("0", 0) == ""  # forgotten
    assert addresses.enter("held", 0) == "address_connections"


def test_new_limits_are_in_force_at_once():
    """They apply to remembered addresses too."""
    addresses = Addresses(connections_max=1, connections_per_s=0.1)
    assert [addresses.enter(name, 0) for name in ("a", "b")] == ["", ""]
    addresses.leave("b")
    addresses.change(3, 0.2)

    assert [addresses.enter("a", 0) for _ in range(3)] == ["", "", "address_connections"]
    assert [addresses.enter("b", 0) for _ in range(3)] == ["", "", "address_rate"]
    addresses.change(9, 0.2)
    assert addresses.enter("a", 0) == "address_rate"


def test_an_address_is_remembered_until_its_rate_is_that_of_a_new_one():
    """Visitors of a whole day, each from another address, must not use memory."""
    addresses = Addresses(connections_per_s=1.0)
    for second in range(1_000):
        assert addresses.enter(str(second), second) == ""
        addresses.leave(str(second))
        assert len(addresses._past) <= 2
    burst = [addresses.enter("busy", 1_000) for _ in range(11)]
    for _ in range(10):
        addresses.leave("busy")
    again = [addresses.enter("new", 1_005), addresses.enter("busy", 1_005)]

    assert burst == [""] * 10 + ["address_rate"]
    assert again == ["", ""]
    assert [addresses.enter("busy", 1_005) for _ in range(5)] == [""] * 4 + ["address_rate"]


def test_an_address_starts_a_burst_of_control_requests_and_more_at_a_pace(monkeypatch):
    """The requests of another address start at once; a request for a full queue is refused."""
    monkeypatch.setattr(limits, "CONTROL_STARTS_BURST", 2)
    monkeypatch.setattr(limits, "CONTROL_STARTS_PER_S", 4.0)
    monkeypatch.setattr(limits, "CONTROL_WAIT_MAX_S", 0.5)
    addresses = Addresses()
    for address in ("a", "b"):
        addresses.enter(address, 0.0)

    assert [addresses.start("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.25, 0.5]
    with pytest.raises(RoomFull):
        addresses.start("a", 0.0)
    assert addresses.start("b", 0.0) == 0.0
    assert addresses.start("a", 0.25) == 0.5
    assert addresses.start("a", 10.0) == 0.0


def test_an_address_that_left_starts_a_whole_burst_of_control_requests(monkeypatch):
    """A client that sends one request after the other never waits."""
    monkeypatch.setattr(limits, "CONTROL_STARTS_BURST", 1)
    addresses = Addresses()
    for _ in range(3):
        addresses.enter("a", 0.0)
        assert addresses.start("a", 0.0) == 0.0
        addresses.leave("a")


def test_the_more_places_an_address_holds_the_slower_its_control_requests_start(monkeypatch):
    """Places that slow peers occupied are filled again at a fifth of the pace."""
    monkeypatch.setattr(limits, "CONTROL_STARTS_BURST", 8)
    monkeypatch.setattr(limits, "CONTROL_STARTS_PER_S", 100.0)
    room, addresses = Room(), Addresses()
    addresses.enter("a", 0.0)
    assert room.held("a") == 0
    for _ in range(32):
        room.enter(_visit("a"), 32, 0.0)

    waits = [addresses.start("a", 0.0, room.held("a")) for _ in range(4)]
    assert waits == [0.0, 0.02, 0.07, 0.12]
