"""The archive against a list: every appended record is read, in order, once."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgehogd.domain import limits
from hedgehogd.domain.channel import MATCHES
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.archive.backfill import fill
from hedgehogd.log.archive.errors import ArchiveError, ForeignArchive
from hedgehogd.log.archive.markers import concerns
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Writer
from tests.log.archive.records import DEPLOYMENT, SMALL, START_US, TOPICS, message, records


def all_of(reader, topics=None, limit=50, placement=None, after_id=0):
    """Read page after page; return all records."""
    found = []
    while True:
        page = reader.read(after_id, topics, limit, placement)
        found += page.records
        assert page.end_id >= after_id
        if page.is_last:
            return found
        assert page.end_id > after_id, "a page without progress"
        after_id = page.end_id


def all_back(reader, topics=None, limit=50, before_id=2**60):
    """Read page after page backwards; return all records, newest first."""
    found = []
    while True:
        page = reader.read_back(before_id, topics, limit)
        found += page.records
        if page.is_last:
            return found
        assert page.end_id < before_id, "a page without progress"
        before_id = page.end_id


def is_wanted(record, topics):
    """Say whether a reader of ``topics`` receives ``record``."""
    if topics is None:
        return True
    if isinstance(record, Message):
        return record.topic in topics or record.also in topics
    return concerns(record, topics)


def write(directory, appended, random, sizes=SMALL):
    """Append in batches, with syncs, compactions, seals and restarts at random."""
    writer = Writer(directory, DEPLOYMENT, sizes=sizes)
    at = 0
    while at < len(appended):
        size = random.choice((1, 3, 20, 60))
        writer.append(appended[at : at + size])
        at += size
        draw = random.random()
        if draw < 0.5:
            writer.sync()
        while draw < 0.3 and writer.work():
            pass
        if draw < 0.03:
            writer.seal()
        if 0.95 < draw:
            writer.close()
            writer = Writer(directory, DEPLOYMENT, sizes=sizes)
            assert [] == writer.problems
    writer.sync()
    return writer


def test_a_page_is_bounded_in_bytes(tmp_path, monkeypatch):
    """A page of snapshots of books would have hundreds of MB."""
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_BYTES_MAX", 1_000)
    appended = [message(TOPICS[0], n, n) for n in range(1, 300)]
    write(tmp_path, appended, Random(1)).close()
    reader = Reader(tmp_path)
    sizes = {
        sum(len(record.payload) for record in page.records)
        for page in (reader.read(0), reader.read_back(2**60))
    }

    assert all(1_000 <= size < 10_000 for size in sizes), sizes
    assert all_of(reader, None, 10_000) == appended
    assert all_back(reader, None, 10_000) == appended[::-1]
    reader.close()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 500), limit=st.sampled_from((1, 7, 1000)))
def test_the_archive_equals_a_list(tmp_path_factory, seed, count, limit):
    """For any division into batches, tails, blocks and segments, in both directions."""
    random = Random(seed)
    directory = tmp_path_factory.mktemp("archive")
    appended = records(random, count)
    writer = write(directory, appended, random)
    reader = Reader(directory, DEPLOYMENT)
    chosen = frozenset(random.sample(TOPICS, random.randint(1, len(TOPICS))))
    try:
        for topics in (None, chosen):
            expected = [record for record in appended if is_wanted(record, topics)]
            assert expected == all_of(reader, topics, limit)
            assert expected[::-1] == all_back(reader, topics, limit)
            middle = random.choice(appended).id if appended else 0
            later = [record for record in expected if record.id > middle]
            assert later == all_of(reader, topics, limit, after_id=middle)
        counts = dict.fromkeys(TOPICS, 0)
        for record in appended:
            if isinstance(record, Message):
                counts[record.topic] += 1
                if record.also is not None:
                    counts[record.also] += 1
        assert {t: n for t, n in counts.items() if n} == {
            topic: extent.messages for topic, extent in reader.extents().items()
        }
    finally:
        reader.close()
        writer.close()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), start=st.integers(0, 250), horizon=st.integers(0, 300))
def test_each_backfilled_trade_is_delivered_once(tmp_path_factory, seed, start, horizon):
    """At its gap if the stream reaches the gap after the trade is known, else where it is."""
    random = Random(seed)
    directory = tmp_path_factory.mktemp("archive")
    appended = records(random, 300)
    writer = write(directory, appended[:horizon], random)
    reader = Reader(directory, DEPLOYMENT)
    after_id = appended[start].id
    placement = reader.placement(after_id)
    writer.append(appended[horizon:])
    writer.sync()
    trades = [r for r in appended if isinstance(r, TradeRecord)]
    expected = []
    for record in appended:
        if record.id <= after_id:
            continue
        if isinstance(record, TradeRecord) and placement.moves(record):
            continue
        if isinstance(record, GapRecord):
            moved = [
                t
                for t in trades
                if (t.gap_id, t.topic) == (record.id, record.topic) and placement.moves(t)
            ]
            expected += fill(record, moved)
        else:
            expected.append(record)
    try:
        assert expected == all_of(reader, None, 13, placement, after_id)
    finally:
        reader.close()
        writer.close()


def test_a_gap_that_is_filled_is_not_listed(tmp_path):
    """An export reports the gaps that remain."""
    topic = MATCHES.topic("BTC-USD")
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    gap = GapRecord(topic, GapKind.MISSING, 5, 9, id=10, received_us=START_US)
    trades = [TradeRecord(topic, n, b"{}", 10, 20 + n, START_US) for n in (5, 6, 8)]
    writer.append([message(topic, 4, 9), gap, message(topic, 10, 11), *trades])
    writer.seal()
    reader = Reader(tmp_path)

    assert [(7, 7), (9, 9)] == [(each.first, each.last) for each in reader.gaps()]
    page = reader.read(0, frozenset({topic}), 100, reader.placement())
    assert [4, 5, 6, (7, 7), 8, (9, 9), 10] == [
        (r.first, r.last) if isinstance(r, GapRecord) else r.trade_id for r in page.records
    ]
    reader.close()
    writer.close()


def test_a_reader_continues_while_retention_removes_segments(tmp_path):
    """It reads on from the oldest record that is kept, and its pages name the end of the rest."""
    appended = records(Random(1), 600)
    writer = write(tmp_path, appended, Random(2))
    writer.seal()
    reader = Reader(tmp_path)
    first = reader.read(0, None, 10)
    dropped = writer.retain(START_US + 10**12, 1.0, 0)
    second = reader.read(first.end_id, None, 10**6)

    assert first.records + second.records == appended[:10] + [
        record for record in appended[10:] if record.id > dropped.last_id
    ]
    assert dropped.last_id == second.dropped_id
    reader.close()
    writer.close()


def test_a_missing_segment_is_a_gap_of_each_of_its_topics(tmp_path):
    """Unlike one that retention has removed."""
    writer = write(tmp_path, records(Random(1), 600), Random(2))
    writer.seal()
    writer.close()
    missing = sorted(tmp_path.glob("*.segment"))[1]
    reader = Reader(tmp_path)
    whole = all_of(reader)
    missing.unlink()
    reader.close()
    reader = Reader(tmp_path)
    rest = all_of(reader)
    gaps = [r for r in rest if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE]
    row = next(row for row in reader.view.catalogue.segments if row.name == missing.name)

    assert [r for r in whole if not row.first_id <= r.id <= row.last_id] == [
        r for r in rest if r not in gaps
    ]
    lost = [r for r in whole if row.first_id <= r.id <= row.last_id and isinstance(r, Message)]
    assert {r.topic for r in lost} <= {gap.topic for gap in gaps}
    reader.close()


def test_a_damaged_group_is_a_gap_of_its_topics(tmp_path):
    """The rest of its block is read."""
    appended = records(Random(3), 300)
    writer = write(tmp_path, appended, Random(2))
    writer.seal()
    reader = Reader(tmp_path)
    opened = reader.view.open(reader.view.sources[0])
    block = opened.contents.blocks[0]
    directory = opened.file.directory(block)
    place = directory.place(0)
    hit = {part.topic for part in directory if part.group == 0}
    path = opened.file.path
    reader.close()
    data = bytearray(path.read_bytes())
    data[block.offset + place.offset + place.size // 2] ^= 1
    path.write_bytes(data)
    reader = Reader(tmp_path)
    rest = all_of(reader)

    gaps = [r for r in rest if isinstance(r, GapRecord) and r.kind is GapKind.UNREADABLE]
    assert hit == {gap.topic for gap in gaps}
    inside = reader.read(block.header.last_id - 1, None, 1).records
    assert gaps[0] in inside, "a reader that begins inside the block receives the gap, too"
    lost = [r for r in appended if isinstance(r, Message) and r.topic in hit
            and block.header.first_id <= r.id <= block.header.last_id]  # fmt: skip
    assert [r for r in appended if r not in lost] == [r for r in rest if r not in gaps]
    reader.close()
    writer.close()


def test_another_process_reads_what_was_synced(tmp_path):
    """It takes no lock, so a stopped reader does not stop the writer."""
    appended = records(Random(5), 400)
    writer = write(tmp_path, appended[:200], Random(2))
    program = (
        "import sys; from pathlib import Path; from hedgehogd.log.archive.reader import Reader\n"
        "reader = Reader(Path(sys.argv[1]))\n"
        "while True:\n"
        "    print(len(reader.read(0, None, 10**6).records), flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    ) as child:  # fmt: skip
        first = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGSTOP)
        writer.append(appended[200:])
        writer.seal()
        os.kill(child.pid, signal.SIGCONT)
        child.stdin.write("\n")
        child.stdin.flush()
        second = int(child.stdout.readline())
        child.stdin.close()
        child.kill()

    assert (200, 400) == (first, second)
    writer.close()


def test_the_memory_of_a_reader_is_bounded(tmp_path, monkeypatch):
    """However large the archive is."""
    monkeypatch.setattr(limits, "ARCHIVE_CACHE_BYTES_MAX", 20_000)
    writer = write(tmp_path, records(Random(1), 2_000), Random(2))
    writer.seal()
    reader = Reader(tmp_path)
    reader.blocks = type(reader.blocks)(reader.view.topics)
    all_of(reader)
    all_of(reader, frozenset(TOPICS[:4]))

    assert reader.blocks.bytes < 60_000
    reader.close()
    writer.close()


def test_a_page_ends_after_a_number_of_blocks(tmp_path, monkeypatch):
    """A topic with few messages does not make one page read everything."""
    appended = records(Random(1), 1_000)
    writer = write(tmp_path, appended, Random(2))
    monkeypatch.setattr(limits, "ARCHIVE_PAGE_BLOCKS_MAX", 2)
    reader = Reader(tmp_path)

    assert not reader.read(0, None, 10**6).is_last
    assert appended == all_of(reader, None, 10**6)
    assert appended[::-1] == all_back(reader, None, 10**6)
    reader.close()
    writer.close()


def test_a_gap_of_a_topic_without_messages_is_delivered(tmp_path):
    """A segment may have no message of it."""
    topic, other = TOPICS[:2]
    writer = Writer(tmp_path, DEPLOYMENT, sizes=SMALL)
    gap = GapRecord(topic, id=2, received_us=START_US)
    for appended in ([message(topic, 1, 1)], [gap, message(other, 1, 3)]):
        writer.append(appended)
        writer.seal()
    reader = Reader(tmp_path)

    assert [gap] == reader.read(1, frozenset({topic})).records
    assert [gap] == reader.read_back(9, frozenset({topic}), 1).records
    reader.close()
    writer.close()


def test_an_absent_archive_is_an_error(tmp_path):
    """No reader creates one."""
    with pytest.raises(ArchiveError, match="there is no archive"):
        Reader(tmp_path)


def test_an_archive_of_another_deployment_is_an_error(tmp_path):
    """Its ids mean something else."""
    Writer(tmp_path, DEPLOYMENT).close()

    with pytest.raises(ForeignArchive, match="of deployment k3f2qa, this one is aaaaaa"):
        Reader(tmp_path, "aaaaaa")
