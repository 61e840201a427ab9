"""Readers: every record after a position once and in order, or an error that names the fault."""

import itertools
import os
from contextlib import closing
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.log import reader as reader_module
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import (
    DamagedWindow,
    LeftWindow,
    LogError,
    ReplacedWindow,
    UnusableWindow,
)
from hedgehogd.log.reader import Reader
from hedgehogd.log.segment import FRAME_BYTES, HEAD_BYTES, frame
from hedgehogd.protocol import entry
from tests.log.conftest import SMALL, Machine, damage_page, descriptors, message, numbers

EVERYTHING = 10**9


def fill(writer, count, size=300, first=0):
    """Append numbered messages in batches of one to three; return their ids."""
    ids, number = [], first
    sizes = itertools.cycle((1, 3, 2))
    while len(ids) < count:
        batch = [message(number + each, size) for each in range(min(next(sizes), count - len(ids)))]
        writer.append(batch)
        number += len(batch)
        ids += [record.id for record in batch]
    return ids


def test_a_read_begins_after_any_id(machine):
    """A subscriber's position may lie inside an entry, between terms, or before the first id."""
    writer = machine.writer()
    ids = fill(writer, 60)
    ids += fill(machine.writer(), 30, first=60)
    reader = machine.reader()

    for number, each in enumerate(ids):
        assert list(range(number + 1, 90)) == numbers(reader.read(each, EVERYTHING))
    assert list(range(90)) == numbers(reader.read(ids[0] - 1, EVERYTHING))
    assert list(range(90)) == numbers(reader.read(0, EVERYTHING))
    assert [] == reader.read(ids[-1] + 10**9, EVERYTHING)


def test_a_search_reads_few_heads_and_one_entry(machine, monkeypatch):
    """Many subscribers resume at once; each of them searches."""
    ids = fill(machine.writer(SMALL._replace(window_bytes_max=1 << 24)), 3_000)
    assert 200 < len(machine.directory.segments())
    reader = machine.reader()
    heads, unpacked, plain = [], [], Directory.head

    def head(directory, *place):
        heads.append(place)
        return plain(directory, *place)

    def unpack(*arguments):
        unpacked.append(arguments)
        return entry.unpack(*arguments)

    monkeypatch.setattr(Directory, "head", head)
    monkeypatch.setattr(reader_module, "unpack", unpack)
    for number in (0, 1, 1_500, 2_997):
        found = reader.read(ids[number], 1)
        assert number + 1 == found[0].sequence
        assert len(heads) <= 9
        assert 1 == len(unpacked)
        heads.clear()
        unpacked.clear()


def test_a_search_needs_no_sound_head(machine):
    """A damaged head costs no record: the segment before it leads there."""
    ids = fill(machine.writer(), 40)
    for number in (1, 2, 4, 5):
        damage_page(machine.path / f"segment-1-{number}", last=HEAD_BYTES)
    reader = machine.reader()
    for number, each in enumerate(ids):
        assert list(range(number + 1, 40)) == numbers(reader.read(each, EVERYTHING))
    assert list(range(40)) == numbers(reader.read(0, EVERYTHING))


def test_no_damaged_frame_hides_a_record(machine):
    """A changed size may lead from one frame to another one; then the damage is reported."""
    writer = machine.writer(SMALL._replace(segment_bytes=1 << 13))
    first = writer.append([message(10, 300)])
    size = 300 + 512 - (writer._offset - HEAD_BYTES)
    machine.close(writer)
    machine.directory.remove("term-1")
    writer = machine.writer(SMALL._replace(segment_bytes=1 << 13))
    ids = [writer.append([message(number, size)]) for number in range(10, 18)]
    assert (first, HEAD_BYTES + 8 * 512) == (ids[0], writer._offset)
    path = machine.path / "segment-1-1"
    sound = path.read_bytes()
    directory = machine.directory
    wrong, reported = [], 0
    for place, bit in itertools.product(range(2, 6), [*range(32, 64), *range(128, 192)]):
        data = bytearray(sound)
        data[HEAD_BYTES + 512 * place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with closing(Reader(directory)) as reader:
            try:
                found = numbers(reader.read(ids[3], 1))
            except DamagedWindow:
                reported += 1
            else:
                wrong += [(place, bit)] * (found != [14])

    assert [] == wrong
    assert reported > 100


def test_an_entry_larger_than_a_piece_is_passed(machine, monkeypatch):
    """Its bytes are not read at all."""
    monkeypatch.setattr(reader_module, "WINDOW_READ_BYTES", 100)
    ids = fill(machine.writer(), 40)
    reader = machine.reader()
    for number, each in enumerate(ids):
        assert list(range(number + 1, 40)) == numbers(reader.read(each, EVERYTHING))


def test_a_read_is_limited_and_continues(machine):
    """One read is one turn of the loop; a whole entry is never divided."""
    fill(machine.writer(), 100)
    reader = machine.reader()
    got, last = [], 0
    while batch := reader.read(last, 4):
        assert 4 <= len(batch) <= 6 or batch[-1].sequence == 99
        got += batch
        last = got[-1].id

    assert list(range(100)) == numbers(got)


def test_a_new_reader_is_at_the_end(machine):
    """A follower that starts without a position delivers only records that follow."""
    writer = machine.writer()
    assert 0 == machine.reader().after_id
    fill(writer, 5)
    reader = machine.reader()

    assert not reader.has_more()
    assert (writer.last_id, writer.term) == (reader.after_id, reader.term)
    assert writer.deployment == reader.deployment
    fill(writer, 2, first=5)
    assert reader.has_more()
    assert [5, 6] == numbers(reader.read(reader.after_id, EVERYTHING))
    assert not reader.has_more()


def test_a_reader_waits_for_the_seal_of_a_fenced_term(machine):
    """A candidate died between fence and seal: the published part is read, the rest is not."""
    writer = machine.writer()
    fill(writer, 5)
    reader = machine.reader()
    fill(writer, 2, first=5)
    writer._page.fence()

    assert [5, 6] == numbers(reader.read(reader.after_id, EVERYTHING))
    assert not reader.has_more()
    assert [] == reader.read(reader.after_id, EVERYTHING)
    fill(machine.writer(), 1, first=7)
    assert reader.has_more()
    assert [7] == numbers(reader.read(reader.after_id, EVERYTHING))
    assert 2 == reader.term


def test_terms_without_a_record_are_passed(machine):
    """A candidate may die right after its takeover, several times."""
    fill(machine.writer(), 3)
    reader = machine.reader()
    for _ in range(4):
        machine.writer()
    last = fill(machine.writer(), 2, first=3)[-1]

    assert [3, 4] == numbers(reader.read(reader.after_id, EVERYTHING))
    assert last == reader.after_id
    assert (6, 6) == (reader.term, machine.reader().term)
    assert list(range(5)) == numbers(machine.reader().read(0, EVERYTHING))


def test_an_unpublished_entry_is_not_delivered(machine):
    """Its writer may be fenced in this instant."""
    writer = machine.writer()
    fill(writer, 3)
    entry = b"never published"
    whole = frame(entry, writer.last_id + 1, writer.last_id + 1) + entry
    os.pwrite(writer._descriptor, whole, writer._offset)

    assert [0, 1, 2] == numbers(machine.reader().read(0, EVERYTHING))


def test_a_reader_that_is_too_slow_is_told_so(machine):
    """A position that left the window is an error with the oldest id, never a silent gap."""
    writer = machine.writer(SMALL._replace(window_bytes_max=20_000))
    ids = fill(writer, 3)
    slow, stopped = machine.reader(), machine.reader()
    assert [2] == numbers(stopped.read(ids[1], EVERYTHING))
    more = fill(writer, 400, first=3)
    reader = machine.reader()
    with pytest.raises(LeftWindow) as error:
        reader.read(ids[0], EVERYTHING)
    oldest = error.value.oldest_id
    found = reader.read(oldest, EVERYTHING)

    assert [each for each in more if each > oldest] == [record.id for record in found]
    assert 10 < len(found) < 400
    for each in (slow, stopped):
        got = []
        with pytest.raises(LeftWindow):
            while True:
                got += each.read(got[-1].id if got else ids[-1], EVERYTHING)
        assert list(range(3, 3 + len(got))) == numbers(got)


def test_a_reader_of_a_removed_term_is_told_so(machine):
    """It slept through many terms."""
    writer = machine.writer(SMALL._replace(window_bytes_max=9_000))
    ids = fill(writer, 3)
    reader = machine.reader()
    for term in range(3):
        fill(machine.writer(SMALL._replace(window_bytes_max=9_000)), 60, first=100 * term)
    for term in (2, 3):
        machine.directory.remove_page(term)
    with pytest.raises(LeftWindow):
        reader.read(ids[-1], EVERYTHING)
    with pytest.raises(LeftWindow):
        reader.has_more()


def test_terms_that_are_published_during_a_read_are_not_missing(machine, monkeypatch):
    """The process was stopped after it looked for the next page; two takeovers followed."""
    writer = machine.writer()
    fill(writer, 3)
    reader = machine.reader()
    writer._page.fence()
    page = Directory.page

    def stopped(directory, term):
        found = page(directory, term)
        if term == 2 and found is None:
            monkeypatch.undo()
            for number in (3, 4):
                fill(machine.writer(), 1, first=number)
        return found

    monkeypatch.setattr(Directory, "page", stopped)

    assert reader.has_more()
    assert [3, 4] == numbers(reader.read(reader.after_id, EVERYTHING))


@pytest.mark.parametrize("place", [HEAD_BYTES, HEAD_BYTES + FRAME_BYTES, HEAD_BYTES + 200])
def test_damage_is_reported_after_all_that_precedes_it(machine, place):
    """Records before the damage are delivered; the error names file and byte."""
    writer = machine.writer()
    fill(writer, 40)
    path = machine.path / "segment-1-3"
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    reader = machine.reader()
    found = numbers(reader.read(0, EVERYTHING))

    assert list(range(len(found))) == found
    assert 0 < len(found) < 40
    for _ in range(2):
        with pytest.raises(DamagedWindow, match=r"segment 3 of term 1 in .* byte 64"):
            reader.read(reader.after_id, EVERYTHING)


def test_an_entry_of_other_bytes_is_damage(machine):
    """Its CRC is right, so another version wrote it; records before it are delivered."""
    writer = machine.writer()
    fill(writer, 3)
    reader = machine.reader()
    fill(writer, 1, first=3)
    entry = b"\x09other format"
    whole = frame(entry, writer.last_id + 1, writer.last_id + 1) + entry
    os.pwrite(writer._descriptor, whole, writer._offset)
    end = writer._offset + len(whole)
    writer._page.publish(writer._allocation.number, end, writer.last_id + 1)

    assert [3] == numbers(reader.read(reader.after_id, EVERYTHING))
    with pytest.raises(DamagedWindow, match="format 9"):
        reader.read(reader.after_id, EVERYTHING)


def test_a_missing_end_mark_is_damage(machine):
    """A reader must not take the zero bytes after a damaged entry for the end of a segment."""
    writer = machine.writer()
    fill(writer, 40)
    path = machine.path / "segment-1-2"
    data = path.read_bytes().rstrip(b"\0")
    path.write_bytes(data[:-10] + bytes(200))
    with pytest.raises(DamagedWindow):
        reader = machine.reader()
        reader.read(reader.read(0, EVERYTHING)[-1].id, EVERYTHING)


def test_no_segment_of_another_log_is_read(machine):
    """Both logs have term 1, and the old writer publishes until its next check."""
    writer = machine.writer()
    fill(writer, 3, size=1000)
    reader = machine.reader()
    fill(writer, 3, size=1000, first=3)
    for path in machine.path.iterdir():
        path.unlink()
    fill(machine.writer(), 40, size=1000, first=100)
    for after in (reader.after_id, 0):
        with pytest.raises(ReplacedWindow):
            reader.read(after, EVERYTHING)
    before = descriptors()
    with pytest.raises(ReplacedWindow):
        reader.read(0, EVERYTHING)
    assert before == descriptors()


@pytest.mark.parametrize("deployment", [None, "aaaaaa"])
@pytest.mark.parametrize("fences", [True, False])
def test_no_term_of_another_log_follows(machine, deployment, fences):
    """A damaged page begins another log, of another deployment or of the archive's again."""
    writer = machine.writer(deployment=deployment)
    ids = fill(writer, 3)
    reader = machine.reader()
    fill(writer, 2, first=3)
    if fences:
        writer._page.fence()
    damage_page(machine.path / "term-1")
    fill(machine.writer(deployment=deployment), 2, first=100)
    fill(machine.writer(deployment=deployment), 2, first=102)
    before = descriptors()
    for after in (reader.after_id, ids[0], 0):
        with pytest.raises(ReplacedWindow):
            reader.read(after, EVERYTHING)
    assert before == descriptors()


@pytest.mark.parametrize("deployment", [None, "aaaaaa"])
def test_no_search_leads_to_another_log(machine, deployment):
    """The term of the reader is not fenced, because its page is damaged."""
    ids = fill(machine.writer(deployment=deployment), 3)
    reader = machine.reader()
    damage_page(machine.path / "term-1")
    fill(machine.writer(deployment=deployment), 2, first=100)
    for after in (ids[0], 0, ids[-1] + 10):
        with pytest.raises(ReplacedWindow):
            reader.read(after, EVERYTHING)


@pytest.mark.parametrize("deployment", [None, "aaaaaa"])
def test_no_term_follows_a_damaged_page(machine, deployment):
    """A reader of the term before it would deliver another log's records."""
    fill(machine.writer(deployment=deployment), 3)
    reader = machine.reader()
    fill(machine.writer(deployment=deployment), 3)
    damage_page(machine.path / "term-2")
    assert [] == reader.read(reader.after_id, EVERYTHING)
    fill(machine.writer(deployment=deployment), 2, first=100)
    for after in (reader.after_id, 0):
        with pytest.raises(ReplacedWindow):
            reader.read(after, EVERYTHING)


def test_no_next_term_of_an_emptied_directory_follows(machine):
    """The new log has the deployment of the archive, as the old one had, and the same terms."""
    fill(machine.writer(deployment="aaaaaa"), 3)
    reader = machine.reader()
    machine.writer(deployment="aaaaaa")
    for path in machine.path.iterdir():
        path.unlink()
    fill(machine.writer(deployment="aaaaaa"), 6)
    fill(machine.writer(deployment="aaaaaa"), 6)
    before = descriptors()
    with pytest.raises(ReplacedWindow):
        reader.read(reader.after_id, EVERYTHING)
    assert before == descriptors()


def test_a_segment_that_is_missing_is_no_part_that_left(machine):
    """A segment that the writer still has was removed by another hand; its records are lost."""
    writer = machine.writer()
    ids = fill(writer, 3, size=1000)
    reader = machine.reader()
    fill(writer, 12, size=1000, first=3)
    machine.directory.remove("segment-1-2")
    machine.directory.remove("segment-1-3")
    with pytest.raises(LeftWindow) as error:
        reader.read(ids[-1], EVERYTHING)
    assert ids[-1] < error.value.oldest_id
    found = numbers(reader.read(error.value.oldest_id, EVERYTHING))
    assert list(range(found[0], 15)) == found
    for path in machine.path.glob("segment-*"):
        path.unlink()
    for after in (ids[-1], 0):
        with pytest.raises(ReplacedWindow, match=f"{machine.path} has no segment after id {after}"):
            machine.reader().read(after, EVERYTHING)


def test_without_a_window_there_is_no_reader(machine):
    """A follower may start before the first writer."""
    with pytest.raises(LogError, match="no log yet"):
        machine.reader()


def test_a_reader_closes_its_files(machine):
    """Every resume opens one."""
    ids = fill(machine.writer(), 60)
    fill(machine.writer(), 3)
    before = descriptors()
    reader = machine.reader()
    for each in (0, ids[30], ids[5], 0):
        assert reader.read(each, EVERYTHING)
    machine.close(reader)

    assert before + 1 == descriptors()  # its directory


@settings(max_examples=25)
@given(st.integers(0, 2**31))
def test_any_schedule_is_read_once_and_in_order(tmp_path_factory, seed):
    """Batches of all sizes, takeovers, slow readers and new ones: all read the same sequence."""
    chance = Random(seed)
    machine = Machine(tmp_path_factory.mktemp("window") / "w")
    try:
        writer, number = machine.writer(), 0
        readers = [(machine.reader(), [], [0])]
        appended = []
        for _ in range(60):
            choice = chance.random()
            if choice < 0.6:
                size = chance.choice((0, 50, 900, 6_000))
                batch = [message(number + n, size) for n in range(chance.randint(1, 5))]
                number += len(batch)
                writer.append(batch)
                appended += [record.id for record in batch]
                machine.clock.wall_us += chance.choice((0, 1, 10_000, -50_000))
            elif choice < 0.7:
                if chance.random() < 0.5:
                    machine.close(writer)
                writer = machine.writer()
            elif choice < 0.8:
                last = chance.choice([0, *appended])
                readers.append((machine.reader(), [], [last]))
            else:
                reader, got, last = chance.choice(readers)
                batch = reader.read(last[0], chance.choice((1, 7, EVERYTHING)))
                got += [record.id for record in batch]
                last[0] = ([last[0], *got])[-1]
        for reader, got, last in readers:
            first = last[0] if not got else got[0] - 1
            got += [record.id for record in reader.read(last[0], EVERYTHING)]
            assert [each for each in appended if each > first] == got
    finally:
        machine.close_all()


def test_a_successor_of_another_format_skips_no_record(machine, monkeypatch):
    """Its page appears while a read has records: this read returns them, the next one raises."""
    window = machine.writer()
    reader = machine.reader()
    for number in (1, 2):
        window.append([message(number)])
    read_segment = reader._read_segment

    def succeeded(*arguments):
        read_segment(*arguments)
        monkeypatch.undo()
        machine.writer().append([message(3)])
        (path,) = machine.path.glob("term-2")
        data = bytearray(path.read_bytes())
        data[12] = 2
        path.write_bytes(data)

    monkeypatch.setattr(reader, "_read_segment", succeeded)
    found = reader.read(reader.after_id, 10)
    assert [1, 2] == numbers(found)
    for _ in range(2):
        with pytest.raises(UnusableWindow):
            reader.read(found[-1].id, 10)
