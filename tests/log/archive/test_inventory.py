"""The inventory at a start."""

from contextlib import closing
from random import Random

import pytest

from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive import catalogue, files, inventory
from hedgehogd.log.archive.block_file import BlockFile
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Sizes, Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, TOPICS, message, records
from tests.log.archive.test_reader import all_back, all_of, write

RECORDS = records(Random(1), 900)


def archive(directory):
    """Write an archive with segments, an open segment and tails."""
    writer = write(directory, RECORDS, Random(2))
    writer.close()


def closed(found):
    """Close the files of an inventory."""
    found.close()
    return found


def test_a_sound_archive_has_no_problems(tmp_path):
    """And its catalogue stays."""
    archive(tmp_path)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == found.problems


def test_a_segment_that_the_catalogue_does_not_have_yet_is_added(tmp_path):
    """The writer ended between the two."""
    archive(tmp_path)
    before = (tmp_path / files.CATALOGUE).read_bytes()
    writer = write(tmp_path, RECORDS, Random(2))
    writer.seal()
    writer.close()
    (tmp_path / files.CATALOGUE).write_bytes(before)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == found.problems
    names = sorted(path.name for path in tmp_path.glob("*.segment"))
    assert names == [row.name for row in found.catalogue.segments]


def test_a_segment_that_retention_was_removing_is_removed(tmp_path):
    """The writer ended between the catalogue and the file."""
    archive(tmp_path)
    path = min(tmp_path.glob("*.segment"))
    data = path.read_bytes()
    writer = write(tmp_path, RECORDS, Random(2))
    writer.retain(10**17, 0.0, 0)
    writer.close()
    path.write_bytes(data)
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == found.problems
    assert not path.exists()


def test_a_tail_that_is_in_the_open_segment_is_removed(tmp_path):
    """The writer ended before it removed the tail."""
    writer = write(tmp_path, RECORDS[:200], Random(1))
    tails = {path: path.read_bytes() for path in tmp_path.glob("*.tail")}
    writer.seal()
    writer.close()
    for path, data in tails.items():
        path.write_bytes(data)
    (tmp_path / "catalogue.sqlite.part").touch()
    (tmp_path / "another.part").touch()
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert [] == [tail for tail in found.tails if tail.contents.blocks]
    assert not (tmp_path / "catalogue.sqlite.part").exists()
    assert (tmp_path / "another.part").exists(), "a file of another program"


def test_a_file_that_is_no_tail_is_set_aside(tmp_path):
    """It may be of use to a person."""
    archive(tmp_path)
    path = max(tmp_path.glob("*.tail"))
    path.write_bytes(b"something else, longer than a header of a file")
    found = closed(inventory.take(tmp_path, DEPLOYMENT))

    assert ["set aside" in text for text in found.problems] == [True]
    assert path.with_suffix(".tail.damaged").exists()


def test_records_missing_at_the_end_of_a_file_are_a_gap(tmp_path):
    """The next file says where it should have ended."""
    archive(tmp_path)
    tails = sorted(tmp_path.glob("*.tail"))
    assert len(tails) > 2
    data = tails[0].read_bytes()
    tails[0].write_bytes(data[: len(data) // 2])
    reader = Reader(tmp_path)
    found = all_of(reader)
    reader.close()
    lost = [r for r in RECORDS if r not in found]
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        writer.seal()
        reader = Reader(tmp_path)
        again = all_of(reader)
        reader.close()

    gaps = {r.topic for r in found if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE}
    assert lost
    assert {r.topic for r in lost if isinstance(r, Message)} <= gaps
    assert found == again


def with_open_segment(directory):
    """Write an archive whose open segment has several blocks and whose last tail has records."""
    sizes = Sizes(tail_bytes=3_000, tail_age_s=1e9, segment_bytes=10**9, segment_age_s=1e9)
    writer = Writer(directory, DEPLOYMENT, sizes=sizes)
    writer.append(RECORDS[:100])
    writer.seal()
    for at in range(100, 400, 20):
        writer.append(RECORDS[at : at + 20])
        writer.sync()
        writer.work()
    writer.append(RECORDS[400:410])
    writer.close()
    file = BlockFile(next(directory.glob("*.open")))
    blocks = file.refresh()
    file.close()
    assert len(blocks) > 3
    return file.path, blocks


def read_and_sealed(directory):
    """Return the records as a reader has them, and after a writer has compacted and sealed."""
    with closing(Reader(directory)) as reader:
        found = all_of(reader)
    with closing(Writer(directory, DEPLOYMENT, sizes=SMALL)) as writer:
        problems = writer.problems
        assert RECORDS[409].id == writer.last_id
        writer.seal()
        with closing(Reader(directory)) as reader:
            again = all_of(reader)
            backwards = all_back(reader)
    assert again == backwards[::-1]
    return found, again, problems


def unreadable(found):
    """Return the gaps of unreadable records."""
    return [r for r in found if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE]


@pytest.mark.parametrize("is_catalogue_lost", [False, True])
@pytest.mark.parametrize("at", [0, 60, 100, -1])
def test_a_damaged_last_block_of_the_open_segment_is_damage(tmp_path, at, is_catalogue_lost):
    """No tail has its records: it was complete."""
    path, blocks = with_open_segment(tmp_path)
    if is_catalogue_lost:
        Writer(tmp_path, DEPLOYMENT, sizes=SMALL).close()
        known = catalogue.load(tmp_path)
        known.growing = dict.fromkeys(known.growing, b"")
        known.write(tmp_path)
    data = bytearray(path.read_bytes())
    begin, end = blocks[-1].offset, blocks[-1].end
    data[end - 1 if at < 0 else begin + at] ^= 1
    path.write_bytes(data)
    found, again, problems = read_and_sealed(tmp_path)

    assert problems
    assert all("checksum" in each or "damaged" in each for each in problems)
    for each in (found, again):
        gaps = unreadable(each)
        lost = [r for r in RECORDS[:410] if r not in each]
        assert lost or (at in {0, 60} and not is_catalogue_lost)
        assert bool(lost) == bool(gaps)
        assert [r for r in each if r not in gaps] == [r for r in RECORDS[:410] if r not in lost]
        assert {r.topic for r in lost if isinstance(r, Message)} <= {gap.topic for gap in gaps}
        assert all(blocks[-1].header.first_id <= r.id <= blocks[-1].header.last_id for r in lost)


@pytest.mark.parametrize("at", [0, 60, 100, -1])
def test_an_unfinished_block_of_the_open_segment_is_written_again(tmp_path, at):
    """A tail still has its records."""
    with_open_segment(tmp_path)
    sizes = Sizes(tail_bytes=10, tail_age_s=1e9, segment_bytes=10**9, segment_age_s=1e9)
    writer = Writer(tmp_path, DEPLOYMENT, sizes=sizes)
    writer.sync()
    path = next(tmp_path.glob("*.open"))
    before = path.stat().st_size
    tails = {path: path.read_bytes() for path in tmp_path.glob("*.tail")}
    assert writer.work()
    writer.close()
    for tail, content in tails.items():
        tail.write_bytes(content)
    data = bytearray(path.read_bytes())
    data[len(data) - 1 if at < 0 else before + at] ^= 1
    path.write_bytes(data)
    found, again, problems = read_and_sealed(tmp_path)

    assert ["unfinished write" in each for each in problems] == [True]
    assert RECORDS[:410] == again
    assert found


@pytest.mark.parametrize("is_catalogue_lost", [False, True])
@pytest.mark.parametrize("suffix", [".open", ".segment"])
def test_a_file_with_a_damaged_header_leaves_a_gap(tmp_path, suffix, is_catalogue_lost):
    """The files around it show which ids are missing."""
    with_open_segment(tmp_path)
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    if suffix == ".segment":
        writer.seal()
    writer.close()
    path = max(tmp_path.glob(f"*{suffix}"))
    data = path.read_bytes()
    path.write_bytes(b"x" + data[1:])
    if is_catalogue_lost:
        (tmp_path / files.CATALOGUE).unlink()
    with closing(Writer(tmp_path, DEPLOYMENT, sizes=SMALL)) as writer:
        problems = writer.problems
        last = message(TOPICS[0], 1, writer.last_id + 1)
        writer.append([last])
        writer.seal()
        damages = [each.text for each in check(tmp_path, Totals(), ()) if each.is_damage]
    with closing(Reader(tmp_path)) as reader:
        found = all_of(reader)
        assert found == all_back(reader)[::-1]

    assert any("they are a gap" in each for each in problems) or not is_catalogue_lost
    assert any("does not begin like" in each for each in problems) or suffix == ".segment"
    assert damages
    gaps = unreadable(found)
    lost = [r for r in RECORDS[:410] if r not in found]
    assert lost
    assert gaps
    assert last == found[-1]
    known = {r.topic for r in found if isinstance(r, Message)}
    assert known <= {gap.topic for gap in gaps}
    assert {gap.id for gap in gaps} == {lost[-1].id}


def test_records_that_a_killed_writer_did_not_sync_are_synced(tmp_path, monkeypatch):
    """Its successor reports them as durable."""
    writer = Writer(tmp_path, DEPLOYMENT)
    writer.append(RECORDS[:20])
    writer._flush()
    writer._has_failed = True
    writer.close()
    synced = []
    real = BlockFile.sync
    monkeypatch.setattr(BlockFile, "sync", lambda file: synced.append(file.path) or real(file))
    with closing(Writer(tmp_path, DEPLOYMENT)) as writer:
        assert RECORDS[19].id == writer.synced_id

    assert [f"{0:020}.tail"] == [path.name for path in synced]
