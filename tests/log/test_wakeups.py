"""Wake-ups: each follower gets a datagram; no follower delays the writer or another follower."""

import pytest

from hedgehogd.log import wakeups as wakeups_module
from hedgehogd.log.wakeups import Wakeups, bind_follower, drain
from tests.log.conftest import descriptors


@pytest.fixture
def wakeups(machine):
    """The writer's side."""
    return machine.keep(Wakeups(machine.directory))


def join(machine):
    sock, name = bind_follower(machine.directory)
    machine.keep(sock)
    return sock, name


def count(sock):
    got = 0
    while True:
        try:
            sock.recv(10)
        except BlockingIOError:
            return got
        got += 1


def test_each_follower_gets_one_datagram(machine, wakeups):
    """Those that joined later too, once the writer looked for them."""
    one, _ = join(machine)
    wakeups.find_followers()
    other, _ = join(machine)
    wakeups.send()
    wakeups.find_followers()
    wakeups.find_followers()
    wakeups.send()

    assert (2, 1, 2) == (count(one), count(other), len(wakeups))


def test_a_full_socket_is_left_alone(machine, wakeups):
    """A stopped follower must not delay another one."""
    slow, _ = join(machine)
    quick, _ = join(machine)
    wakeups.find_followers()
    for _ in range(3_000):
        wakeups.send()
        drain(quick)
    wakeups.send()

    assert 1 == count(quick)
    assert 0 < count(slow) < 3_000
    wakeups.send()
    assert 1 == count(slow)


def test_a_dead_follower_is_forgotten_and_its_file_removed(machine, wakeups):
    """A process that is killed removes nothing itself."""
    dead = [join(machine) for _ in range(3)]
    alive, name = join(machine)
    wakeups.find_followers()
    for sock, _ in dead:
        machine.close(sock)
    wakeups.send()
    wakeups.send()

    assert (2, 1) == (count(alive), len(wakeups))
    assert [name] == machine.directory.followers()


def test_a_follower_that_died_before_is_removed(machine, wakeups):
    """Files of earlier processes do not gather."""
    sock, _ = join(machine)
    machine.close(sock)
    wakeups.find_followers()

    assert [] == machine.directory.followers()


def test_a_follower_that_left_is_forgotten(machine, wakeups):
    """It removed its file; the connection would hold memory."""
    _, name = join(machine)
    wakeups.find_followers()
    machine.directory.remove(name)
    before = descriptors()
    wakeups.find_followers()

    assert (0, before - 1) == (len(wakeups), descriptors())


def test_any_other_file_is_left_alone(machine, wakeups):
    """A name alone makes no follower."""
    join(machine)
    (machine.path / "follower-x").touch()
    wakeups.find_followers()
    wakeups.send()

    assert 1 == len(wakeups)


def test_followers_are_bounded(machine, wakeups, monkeypatch):
    """Each costs the writer time; the rest polls."""
    monkeypatch.setattr(wakeups_module, "FOLLOWERS_MAX", 2)
    for _ in range(3):
        join(machine)
    wakeups.find_followers()

    assert 2 == len(wakeups)


def test_a_socket_that_cannot_be_bound_is_not_left_open(machine, monkeypatch):
    """The directory may be gone."""
    directory = machine.directory
    machine.path.rmdir()
    before = descriptors()
    with pytest.raises(OSError):  # noqa: PT011  # any
        bind_follower(directory)

    assert before == descriptors()
