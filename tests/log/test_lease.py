"""The lease: when a candidate may take it, that only one does, and where the last term ends."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from hedgehogd.domain.limits import LEASE_LOOK_S, LEASE_S
from hedgehogd.log import lease as lease_module
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import (
    Fenced,
    LeftWindow,
    LogError,
    LostLease,
    ReplacedWindow,
    UnusableWindow,
)
from hedgehogd.log.header import Place, Seal
from hedgehogd.log.lease import (
    Predecessor,
    make_stores_visible,
    measure,
    new_deployment,
    wait_lease,
)
from hedgehogd.log.segment import frame
from tests.log.conftest import descriptors, message, numbers

LOOKS_PER_LEASE = int(LEASE_S / LEASE_LOOK_S)
ROOT = Path(__file__).parents[2]


def looks(machine, candidate, seconds, step_s=LEASE_LOOK_S):
    """Let time pass, with a look at the lease every 50 ms; return the last answer."""
    may = False
    for _ in range(round(seconds / step_s)):
        machine.clock.pass_s(step_s)
        may = candidate.look()
    return may


def test_an_empty_directory_has_no_writer(machine):
    """The first candidate begins the log, with a deployment id of its own."""
    candidate = machine.candidate(writer=3)
    assert candidate.look()
    assert candidate.begins
    page = machine.keep(candidate.take())
    other = machine.candidate()
    other.look()
    assert not other.begins

    assert (1, 3, 1) == (page.fixed.term, page.fixed.writer, page.fixed.first_id_min)
    assert Seal(Place(0, 0), 0) == page.fixed.seal
    assert 6 == len(page.fixed.deployment)


def test_a_deployment_id_is_six_characters_of_base32():
    """It is part of every position."""
    drawn = {new_deployment() for _ in range(50)}

    assert 50 == len(drawn)
    assert all(len(each) == 6 and set(each) <= set(lease_module._BASE32) for each in drawn)


def test_a_held_lease_is_left_alone_while_it_is_renewed(machine):
    """A busy writer renews late, but it renews."""
    writer = machine.writer()
    candidate = machine.candidate()
    for _ in range(10):
        assert not looks(machine, candidate, LEASE_S - 0.1)
        writer.renew()


def test_a_released_lease_may_be_taken_at_once(machine):
    """A writer that drains closes its window; so does the kernel for one that dies."""
    writer = machine.writer()
    candidate = machine.candidate()
    assert not looks(machine, candidate, 0.5)
    machine.close(writer)

    assert candidate.look()


def test_a_lease_that_is_not_renewed_may_be_taken(machine):
    """The writer hangs: the lock is held, but nothing is appended."""
    machine.writer()
    candidate = machine.candidate()
    candidate.look()
    assert not looks(machine, candidate, LEASE_S - 0.05)
    assert looks(machine, candidate, 0.1)


def test_a_pause_of_the_candidate_is_no_silence_of_the_writer(machine):
    """After a pause of the whole machine the candidate may run first."""
    machine.writer()
    candidate = machine.candidate()
    candidate.look()
    machine.clock.pass_s(3600)

    assert not candidate.look()
    assert not looks(machine, candidate, LEASE_S - LEASE_S / 4 - 0.05)
    assert looks(machine, candidate, 0.1)


def test_a_fenced_term_without_a_successor_may_be_taken(machine):
    """A candidate died in its takeover: the next one does the same."""
    writer = machine.writer()
    writer.append([message(1)])
    candidate = machine.candidate()
    assert not candidate.look()
    writer._page.fence()

    assert candidate.look()
    assert 2 == machine.keep(candidate.take()).fixed.term


def test_one_of_many_candidates_takes_the_lease(machine):
    """All of them saw that it was free."""
    machine.close(machine.writer())
    candidates = [machine.candidate() for _ in range(4)]
    assert all(candidate.look() for candidate in candidates)
    page = machine.keep(candidates[2].take())
    for each in (0, 1, 3):
        with pytest.raises(LostLease):
            candidates[each].take()

    assert 2 == page.fixed.term
    assert not page.is_fenced
    assert not any(candidate.look() for candidate in candidates)
    assert ["term-1", "term-2"] == sorted(machine.directory.names())


def test_one_of_many_candidates_begins_the_log(machine):
    """Two deployments in one directory would be two logs."""
    candidates = [machine.candidate() for _ in range(3)]
    assert all(candidate.look() for candidate in candidates)
    page = machine.keep(candidates[0].take())
    for each in (1, 2):
        with pytest.raises(LostLease):
            candidates[each].take()

    assert not page.is_fenced


def test_a_candidate_that_was_stopped_before_it_fenced_changes_nothing(machine):
    """It runs again when its term is history, and another writer is at work."""
    writer = machine.writer()
    writer.append([message(1)])
    sleeper = machine.candidate()
    machine.close(writer)
    assert sleeper.look()
    successors = [machine.writer() for _ in range(3)]
    with pytest.raises(LostLease):
        sleeper.take()
    successors[-1].append([message(2)])

    assert [1, 2] == numbers(machine.reader().read(0, 10))


def test_a_candidate_that_slept_through_many_terms_changes_nothing(machine, monkeypatch):
    """Even the page of the term that it would take was removed, so its name is free."""
    monkeypatch.setattr(lease_module, "TERMS_KEPT_MAX", 2)
    machine.close(machine.writer())
    sleeper = machine.candidate()
    assert sleeper.look()
    for _ in range(4):
        writer = machine.writer()
    machine.directory.remove_page(2)
    with pytest.raises(LostLease, match="long over"):
        sleeper.take()
    writer.append([message(1)])

    assert [1, 3, 4, 5] == machine.directory.terms()


def test_a_page_that_was_published_stays(machine, monkeypatch):
    """Its candidate was stopped right then, and succeeded by two; followers need the seal in it."""
    writer = machine.writer()
    writer.append([message(1)])
    reader = machine.reader()
    sleeper = machine.candidate()
    sleeper.look()
    publish = Directory.publish

    def stopped(directory, name, term):
        found = publish(directory, name, term)
        monkeypatch.undo()
        machine.writer()
        machine.writer().append([message(2)])
        return found

    monkeypatch.setattr(Directory, "publish", stopped)
    page = machine.keep(sleeper.take())

    assert (2, True) == (page.fixed.term, page.is_fenced)
    assert [1, 2, 3, 4] == machine.directory.terms()
    assert [2] == numbers(reader.read(reader.after_id, 10))


def test_a_full_file_system_fences_no_writer(machine, monkeypatch):
    """A candidate that cannot succeed the writer must not end its term."""
    writer = machine.writer()
    candidate = machine.candidate()
    candidate.look()

    def full(descriptor, data, offset):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(LogError, match="No space left"):
            candidate.take()
    writer.append([message(1)])

    assert [1] == numbers(machine.reader().read(0, 10))


def test_a_page_that_cannot_be_published_leaves_the_term_to_the_next_candidate(
    machine, monkeypatch
):
    """The term is fenced by then: the next candidate must find its end, not an operator."""
    writer = machine.writer()
    writer.append([message(1)])
    reader = machine.reader()
    unlucky = machine.candidate()
    unlucky.look()
    before = descriptors()

    def full(*names, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        for _ in range(2):
            with pytest.raises(LogError, match=rf"{machine.path}/term-2: No space left"):
                unlucky.take()
    with pytest.raises(Fenced):
        writer.append([message(2)])
    assert [] == [name for name in machine.directory.names() if name.startswith("new-")]
    assert [1] == machine.directory.terms()
    assert before + 2 == descriptors()  # the directories
    assert unlucky.look()
    machine.writer().append([message(3)])

    assert [2, 3] == numbers(reader.read(reader.after_id, 10))


def test_a_directory_that_is_emptied_in_a_takeover_has_no_terms(machine, monkeypatch):
    """The candidate published its page; the writer reports that its files are missing."""
    candidate = machine.candidate()
    candidate.look()
    publish = Directory.publish

    def emptied(directory, name, term):
        found = publish(directory, name, term)
        for path in machine.path.iterdir():
            path.unlink()
        return found

    monkeypatch.setattr(Directory, "publish", emptied)
    page = machine.keep(candidate.take())
    with pytest.raises(ReplacedWindow):
        machine.directory.check(page)


def test_a_candidate_of_an_emptied_directory_ends_no_new_log(machine):
    """It saw that the lease was free and was stopped; another log began there meanwhile."""
    for _ in range(4):
        machine.writer()
    candidate = machine.candidate()
    candidate.look()
    for path in machine.path.iterdir():
        path.unlink()
    writer = machine.writer()
    with pytest.raises(LostLease, match="another log"):
        candidate.take()
    writer.check()
    writer.append([message(1)])

    assert not candidate.look()
    assert [1] == machine.directory.terms()


def test_the_new_page_is_locked_before_it_is_seen(machine):
    """A candidate that looks in this instant must not find a free lease."""
    candidate = machine.candidate()
    candidate.look()
    page = machine.keep(candidate.take())
    other = machine.keep(machine.directory.page(1))
    with pytest.raises(BlockingIOError):
        fcntl.flock(other.descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    assert not machine.candidate().look()
    assert page.heartbeat_ns == machine.clock.ns


def test_the_deployment_of_the_window_is_checked(machine):
    """An archive of another deployment must not be continued."""
    writer = machine.writer(predecessor=Predecessor("aaaaaa"))
    assert "aaaaaa" == writer.deployment
    machine.candidate(predecessor=Predecessor("aaaaaa")).look()
    with pytest.raises(UnusableWindow, match="deployment aaaaaa, the archive that of bbbbbb"):
        machine.candidate(predecessor=Predecessor("bbbbbb")).look()


def test_a_window_that_begins_continues_the_archive(machine):
    """A machine restarts with a clock below the archive's ids; ids and terms of the log rise."""
    last_id = machine.clock.wall_us + 1_000_000
    predecessor = Predecessor("aaaaaa", 7, last_id)
    machine.close(machine.writer(predecessor=predecessor))  # it appends nothing
    writer = machine.writer(predecessor=predecessor)
    reader = machine.reader()
    writer.append([message(1), message(2)])

    assert ("aaaaaa", 9) == (writer.deployment, writer.term)
    assert [last_id + 1, last_id + 2] == [each.id for each in reader.read(last_id, 10)]
    with pytest.raises(LeftWindow):
        machine.reader().read(last_id - 1, 10)


def test_a_damaged_page_continues_the_archive_too(machine):
    """After a loss of power the archive knows more of the log than the window."""
    machine.close(machine.writer(predecessor=Predecessor("aaaaaa")))
    (machine.path / "term-1").write_bytes(b"")

    assert 8 == machine.writer(predecessor=Predecessor("aaaaaa", 7, 5)).term


def test_another_format_is_refused(machine):
    """A newer version wrote the window; an older one never writes there."""
    machine.close(machine.writer())
    path = machine.path / "term-1"
    data = bytearray(path.read_bytes())
    data[12] = 2
    path.write_bytes(data)
    with pytest.raises(UnusableWindow, match="format 2"):
        machine.candidate().look()


@pytest.mark.parametrize("content", [b"", bytes(4096)])
def test_a_damaged_page_begins_the_window_again(machine, content):
    """After a loss of power: nothing of the old window can be proved, so nothing of it is read."""
    writer = machine.writer()
    writer.append([message(1)])
    machine.close(writer)
    (machine.path / "term-1").write_bytes(content)
    successor = machine.writer()
    successor.append([message(2)])

    assert 2 == successor.term
    assert [2] == numbers(machine.reader().read(0, 10))
    assert {2} == {term for term, _ in machine.directory.segments()}


def whole(*ids):
    return b"".join(frame(b"entry", each, each) + b"entry" for each in ids)


def test_an_entry_that_was_written_but_not_published_is_in_the_log(machine):
    """The writer died between the two steps; the seal is after the last whole entry."""
    writer = machine.writer()
    writer.append([message(1)])
    end, last = writer._offset, writer.last_id
    piece = whole(last + 1)
    os.pwrite(writer._descriptor, piece, end)

    assert Seal(Place(1, end + len(piece)), last + 1) == measure(machine.directory, writer._page)
    os.pwrite(writer._descriptor, whole(last + 2)[:-1], end + len(piece))
    assert Seal(Place(1, end + len(piece)), last + 1) == measure(machine.directory, writer._page)


def test_an_entry_in_the_next_segment_is_found(machine):
    """The writer died after it opened a segment, before it published its first entry."""
    writer = machine.writer()
    writer.append([message(1)])
    published = Seal(writer._page.end, writer.last_id)
    writer._open_next(100)
    assert published == measure(machine.directory, writer._page)
    piece = whole(writer.last_id + 1)
    os.pwrite(writer._descriptor, piece, writer._offset)

    expected = Seal(Place(2, writer._offset + len(piece)), writer.last_id + 1)
    assert expected == measure(machine.directory, writer._page)


def test_a_term_is_fenced_before_it_is_measured(machine, monkeypatch):
    """An append between the measurement and the fence would be published, and not be in the log."""
    machine.writer().append([message(1)])
    candidate = machine.candidate()
    candidate.look()
    steps = []

    def measured(directory, page):
        steps.append(("measure", page.is_fenced))
        return measure(directory, page)

    monkeypatch.setattr(lease_module, "measure", measured)
    monkeypatch.setattr(lease_module, "make_stores_visible", lambda: steps.append("barrier"))
    machine.keep(candidate.take())

    assert ["barrier", ("measure", True)] == steps


def test_a_large_entry_is_measured(machine, monkeypatch):
    """Measuring reads in pieces; an entry may be larger than one."""
    monkeypatch.setattr(lease_module, "WINDOW_READ_BYTES", 100)
    writer = machine.writer()
    for number in range(5):
        writer.append([message(number, 300)])
    seal = Seal(writer._page.end, writer.last_id)
    writer._page.publish(1, 64, writer._page.fixed.first_id_min)

    assert seal == measure(machine.directory, writer._page)


def test_after_another_boot_the_published_end_proves_nothing(machine, monkeypatch):
    """A loss of power may have kept the page and lost the bytes."""
    writer = machine.writer()
    for number in range(30):
        writer.append([message(number, 500)])
    assert writer._page.end.segment > 3
    path = machine.path / "segment-1-2"
    data = bytearray(path.read_bytes())
    data[1500] ^= 1
    path.write_bytes(data)
    lost = writer.last_id
    machine.close(writer)
    monkeypatch.setattr(lease_module, "_boot", lambda: 5)
    successor = machine.writer()
    successor.append([message(100)])
    found = machine.reader().read(0, 10**6)

    assert [*range(len(found) - 1), 100] == numbers(found)
    assert 0 < len(found) < 30
    assert found[-1].id > lost


def test_without_a_barrier_it_waits(monkeypatch):
    """Old kernels and other processors have no membarrier; a pause is as good."""
    slept = []
    monkeypatch.setattr(lease_module, "_MEMBARRIER", {})
    monkeypatch.setattr("time.sleep", slept.append)
    make_stores_visible()

    assert [lease_module.STORES_VISIBLE_S] == slept


def test_a_barrier_that_is_refused_is_replaced_by_a_pause(monkeypatch):
    """A container may forbid the call."""
    slept = []
    monkeypatch.setattr(lease_module, "_syscall", lambda: lambda *arguments: -1)
    monkeypatch.setattr("time.sleep", slept.append)
    make_stores_visible()

    assert [lease_module.STORES_VISIBLE_S] == slept


def test_looking_costs_no_descriptors(machine):
    """A candidate looks twenty times a second, for months."""
    writer = machine.writer()
    candidate = machine.candidate()
    candidate.look()
    before = descriptors()
    for _ in range(50):
        candidate.look()
    assert before == descriptors()
    writer._page.fence()
    for _ in range(3):
        machine.writer()
        candidate.look()

    assert before + 3 * 5 >= descriptors()


async def test_a_candidate_waits_for_the_lease(machine, autojump_clock):
    """It takes the lease at its first look after the writer's end."""
    writer = machine.writer()
    candidate = machine.candidate()
    with trio.move_on_after(10):
        machine.keep(await wait_lease(candidate))
    machine.close(writer)
    began = trio.current_time()
    page = machine.keep(await wait_lease(candidate))

    assert 2 == page.fixed.term
    assert trio.current_time() - began <= LEASE_LOOK_S


async def test_a_candidate_that_lost_waits_again(machine, autojump_clock, monkeypatch):
    """Another candidate was quicker; its lease is respected."""
    candidate = machine.candidate()
    look = candidate.look

    def slow_look():
        may = look()
        if may and not machine.directory.terms():
            machine.writer()
        return may

    monkeypatch.setattr(candidate, "look", slow_look)
    with trio.move_on_after(1) as waited:
        await wait_lease(candidate)

    assert waited.cancelled_caught
    assert [1] == machine.directory.terms()


def test_a_killed_process_has_no_lease(machine):
    """The kernel releases the lock, however the process ends."""
    code = (
        "import sys, pathlib, time\n"
        "from hedgehogd.log.directory import Directory\n"
        "from hedgehogd.log.lease import Candidate\n"
        "candidate = Candidate(Directory(pathlib.Path(sys.argv[1])))\n"
        "assert candidate.look()\n"
        "page = candidate.take()\n"
        "print('taken', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, machine.path], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        assert b"taken\n" == process.stdout.readline()
        candidate = machine.candidate()
        assert not candidate.look()
    finally:
        process.kill()
        process.communicate()

    assert candidate.look()
