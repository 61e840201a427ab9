"""A migrated store has every message, gap and backfilled trade of the old one, after any fault."""

import fcntl
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from hedgehogd.domain.channel import BY_TOPIC_CHANNEL, MATCHES, Topic
from hedgehogd.domain.message import BadMessage, read_head
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.writer import Sizes
from hedgehogd.log.migration import merge
from hedgehogd.log.migration import migrate as migration
from hedgehogd.log.migration.migrate import migrate
from hedgehogd.log.migration.old_store import (
    LOCK_NAME,
    DamagedStore,
    LockedStore,
    OldStoreError,
)
from tests.log.migration.stores import (
    gaps_of,
    make_store,
    messages_of,
    only,
    read_all,
    stored_gaps,
    stored_messages,
    trades_of,
)

SMALL = Sizes(tail_bytes=10_000, tail_age_s=1e9, segment_bytes=10_000, segment_age_s=1e9)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Several parts and segments from a small store."""
    monkeypatch.setattr(merge, "_CHUNK_BYTES", 5_000)
    monkeypatch.setattr(migration, "Sizes", lambda **_: SMALL)


def run(directory, warnings=None):
    return migrate(
        directory, lambda part, records: None, [].append if warnings is None else warnings.append
    )


def drawn_seed():
    seed = int(os.environ.get("MIGRATION_SEED") or secrets.randbits(31))
    print(f"seed {seed}")  # noqa: T201  # pytest shows it when it fails
    return seed


@pytest.mark.random
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_message_gap_and_trade_of_the_store_is_in_the_archive(tmp_path, seed):
    """Of all channels; numbers begin again, books too; sealed blocks and rows; twins; gaps."""
    seed = seed or drawn_seed()
    trades = make_store(tmp_path, seed)
    expected = stored_messages(tmp_path)
    gaps = stored_gaps(tmp_path)
    result = run(tmp_path)
    records = read_all(tmp_path)

    assert len({topic.channel for topic in expected}) > 8
    ids = [each.id for each in records]
    assert ids == sorted(set(ids))
    for topic, messages in expected.items():
        found = messages_of(read_all(tmp_path, only(topic)))
        assert [payload for _, payload in messages] == [m.payload for m in found]
        for (place, payload), new in zip(messages, found, strict=True):
            assert heads_of(payload) == (new.type, new.sequence, new.trade_id)
            assert new.received_us == new.id
            is_twin = new.topic != topic
            assert new.id == place - is_twin
    assert gaps == [(g.id, g.topic, g.first, g.last) for g in gaps_of(records)]
    assert trades == {(each.topic, each.trade_id) for each in trades_of(records)}
    assert result[:3] == (sum(map(len, expected.values())), len(gaps), len(trades))
    assert any(each.also is not None for each in messages_of(records))
    assert [f.text for f in check(tmp_path, Totals()) if f.is_damage] == []


@pytest.mark.random
@pytest.mark.parametrize("seed", [0, 4, 5])
def test_a_read_from_before_a_gap_delivers_its_trades_there(tmp_path, seed):
    """The trades and the gaps between them cover the gap, next to each other, at its place."""
    seed = seed or drawn_seed()
    trades = make_store(tmp_path, seed)
    run(tmp_path)
    placed = 0
    for topic in {topic for topic, _ in trades}:
        records = read_all(tmp_path, only(topic), placed=True)
        for gap in gaps_of(read_all(tmp_path, only(topic))):
            at = [n for n, each in enumerate(records) if _is_of(each, gap)]
            assert at == list(range(at[0], at[-1] + 1))
            covered = [number for n in at for number in _numbers(records[n])]
            assert covered == list(range(gap.first, gap.last + 1))
            assert at[0] == 0 or records[at[0] - 1].id < gap.id or records[at[0] - 1].gap_id
            placed += len(trades_of(records[at[0] : at[-1] + 1]))
    in_gaps = [each for each in trades_of(read_all(tmp_path)) if each.gap_id]
    assert placed == len(in_gaps) > 0


def heads_of(payload):
    """Return type, sequence and trade id of a message; a damaged text has none."""
    try:
        head = read_head(payload)
    except BadMessage:
        return "", None, None
    return head.type, head.sequence, head.trade_id


def _is_of(record, gap):
    if isinstance(record, TradeRecord):
        return record.gap_id == gap.id
    return isinstance(record, GapRecord) and record.id == gap.id


def _numbers(record):
    if isinstance(record, TradeRecord):
        return [record.trade_id]
    return range(record.first, record.last + 1)


@pytest.mark.random
def test_a_migration_that_is_killed_at_any_instant_continues(tmp_path):
    """SIGKILL before, or within, a random system call that changes a file, again and again."""
    seed = drawn_seed()
    random = Random(seed)
    make_store(tmp_path / "undisturbed", seed, 60)
    shutil.copytree(tmp_path / "undisturbed", tmp_path / "killed")
    run(tmp_path / "undisturbed")
    kills = 0
    while not (tmp_path / "killed" / "history.sqlite.migrated").exists():
        words = [sys.executable, "-m", "tests.log.migration.killed", str(tmp_path / "killed")]
        words.append(str(random.randrange(1, 60) if kills < 12 else 10**9))
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode in {0, -9}, done.stderr
        kills += done.returncode == -9

    assert kills > 5
    assert read_all(tmp_path / "killed") == read_all(tmp_path / "undisturbed")
    assert not (tmp_path / "killed" / "history.sqlite").exists()
    assert [f.text for f in check(tmp_path / "killed", Totals()) if f.is_damage] == []
    assert _books(tmp_path / "killed") <= _all_books(tmp_path / "undisturbed")


def _books(directory):
    """Return the checkpoints of the segments."""
    reader = Reader(directory)
    found = set()
    for source in reader.view.sources_after(0):
        opened = reader.view.open(source)
        for block in opened.contents.checkpoints:
            for part in opened.file.directory(block):
                unpacked = opened.file.group(block, opened.file.directory(block).place(part.group))
                messages = unpacked.messages(part.topic, part.begin, part.end)
                found |= {(m.id, m.topic, m.payload) for m in messages}
    reader.close()
    return found


def _all_books(directory):
    """Return the books after every record, by the records alone."""
    books, found = migration.Books(), set()
    for record in read_all(directory):
        for message in messages_of([record]):
            for topic in (message.topic, message.also):
                if topic is not None and topic.channel in migration.CHANNELS:
                    books.follow(topic, message)
        found |= {(record.id, m.topic, m.payload) for m in books.snapshots()}
    return found


def test_segments_begin_with_the_books(tmp_path):
    """Replay starts from them."""
    make_store(tmp_path, 7)
    run(tmp_path)
    books = _books(tmp_path)

    assert len({id_ for id_, _, _ in books}) > 3
    assert {BY_TOPIC_CHANNEL[topic.channel].begins_with_snapshot for _, topic, _ in books} == {True}


def test_a_damaged_block_becomes_a_gap_and_is_reported(tmp_path):
    """The old file has its bytes still."""
    make_store(tmp_path, 8)
    expected = stored_messages(tmp_path)
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    row = "SELECT block.id, channel, product_id, count, last_place FROM block JOIN topic"
    row += " ON topic.id = topic WHERE channel = 'ticker'"
    number, channel, product, count, place = connection.execute(row).fetchone()
    connection.execute("UPDATE block SET data = 'damaged' WHERE id = ?", (number,))
    connection.commit()
    connection.close()
    warnings = []
    result = run(tmp_path, warnings)
    topic = Topic(channel, product)
    records = read_all(tmp_path, only(topic))

    assert (result.damages, len(warnings)) == (1, 1)
    assert f"block {number} of {topic} is damaged" in warnings[0]
    assert len(messages_of(records)) == len(expected[topic]) - count
    unreadable = [each for each in gaps_of(records) if each.kind is GapKind.UNREADABLE]
    assert [(each.topic, each.id) for each in unreadable] == [(topic, place)]


def test_two_writers_at_one_place_lose_nothing(tmp_path):
    """A fault may have put records of several topics at one place: ids still rise."""
    make_store(tmp_path, 9, 20)
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute("DELETE FROM block")
    connection.execute("UPDATE OR IGNORE open SET place = place / 10000000 * 10000000")
    connection.commit()
    connection.close()
    expected = stored_messages(tmp_path)
    run(tmp_path)

    for topic, messages in expected.items():
        found = [m.payload for m in messages_of(read_all(tmp_path, only(topic)))]
        assert found == [payload for _, payload in messages]


def test_a_daemon_or_a_reader_of_the_store_is_not_disturbed(tmp_path):
    """The store is refused while another process uses it."""
    make_store(tmp_path, 10, 5)
    daemon = (tmp_path / LOCK_NAME).open("wb")
    fcntl.flock(daemon, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with pytest.raises(LockedStore, match="stop all instances"):
        run(tmp_path)
    daemon.close()
    run(tmp_path)


def test_another_archive_in_the_directory_is_refused(tmp_path):
    """Its records are not those of the store."""
    make_store(tmp_path, 11, 5)
    make_store(tmp_path / "other", 12, 5)
    run(tmp_path / "other")
    for path in (tmp_path / "other").glob("*[0-9e].*"):
        if "history" not in path.name:
            shutil.copy(path, tmp_path)
    with pytest.raises(OldStoreError, match="archive with other records"):
        run(tmp_path)
    assert (tmp_path / "history.sqlite").exists()


@pytest.mark.parametrize("query", ["DELETE FROM open", "DELETE FROM gap", "DELETE FROM trade"])
def test_an_archive_that_differs_from_the_store_is_no_success(tmp_path, monkeypatch, query):
    """The store keeps its name."""
    make_store(tmp_path, 13, 40)
    verified = migration._verified

    def verify(store, *rest):
        store._connection.execute(query)
        return verified(store, *rest)

    monkeypatch.setattr(migration, "_verified", verify)
    with pytest.raises(DamagedStore, match="the new archive has"):
        run(tmp_path)
    assert (tmp_path / "history.sqlite").exists()


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ("topic SET channel = x'ff'", "a topic has damaged values"),
        ("block SET topic = 99", "no topic has"),
        ("block SET last_place = 'text'", "a row has damaged values"),
        ("block SET count = 'text'", "a row has damaged values"),
        ("open SET topic = 99", "no topic has"),
        ("open SET topic = 'text'", "a row has damaged values"),
        ("open SET place = 1 << 62", "has a damaged place"),
        ("open SET place = -1", "has a damaged place"),
        ("open SET payload = 5", "a row has damaged values"),
        ("gap SET topic = 99", "no topic has"),
        ("gap SET kind = 'text'", "a gap has damaged values"),
        ("gap SET place = 1 << 62", "a gap has damaged values"),
        ("gap SET place = -1", "a gap has damaged values"),
        ("gap SET first = 'text'", "a row has damaged values"),
        ("trade SET topic = 99", "no topic has"),
        ("trade SET trade_id = 'text'", "a row has damaged values"),
        ("trade SET time_us = 1.5", "a row has damaged values"),
        ("trade SET payload = 5", "a row has damaged values"),
    ],
)
def test_a_damaged_value_ends_the_migration(tmp_path, update, reason):
    """SQLite does not protect its rows; a value of another type or range is reported."""
    make_store(tmp_path, 20, 40)
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute(f"UPDATE OR IGNORE {update}")
    connection.commit()
    connection.close()
    with pytest.raises(DamagedStore, match=reason):
        run(tmp_path)
    assert (tmp_path / "history.sqlite").exists()


@pytest.mark.parametrize("time_us", [-1, 2**63 - 1])
def test_a_backfilled_trade_with_another_time_is_kept(tmp_path, time_us):
    """The time decides its place only."""
    trades = make_store(tmp_path, 20, 40)
    connection = sqlite3.connect(tmp_path / "history.sqlite")
    connection.execute("UPDATE trade SET time_us = ?", (time_us,))
    connection.commit()
    connection.close()
    run(tmp_path)

    assert {(each.topic, each.trade_id) for each in trades_of(read_all(tmp_path))} == trades


def test_a_damaged_archive_is_no_success(tmp_path, monkeypatch):
    """Each checksum is verified before the store is renamed."""
    make_store(tmp_path, 14, 40)
    verified = migration._verified

    def verify(store, directory, *rest):
        path = min(directory.glob("*.segment"))
        data = path.read_bytes()
        path.write_bytes(data[:200] + b"damage" + data[206:])
        return verified(store, directory, *rest)

    monkeypatch.setattr(migration, "_verified", verify)
    with pytest.raises(DamagedStore, match="the new archive is damaged"):
        run(tmp_path)
    assert (tmp_path / "history.sqlite").exists()


def test_a_disk_that_fails_ends_the_migration(tmp_path, monkeypatch):
    """The next one continues."""
    make_store(tmp_path, 15, 40)
    expected = stored_messages(tmp_path)
    write, written = os.write, []

    def fail(descriptor, data):
        written.append(len(data))
        if len(written) == 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(ArchiveError, match="No space left"):
        run(tmp_path)
    monkeypatch.setattr(os, "write", write)
    assert run(tmp_path).messages == sum(map(len, expected.values()))


def test_a_trade_of_no_gap_is_where_its_time_is(tmp_path):
    """Retention may have removed the gap."""
    make_store(tmp_path, 16)
    run(tmp_path)
    loose = [each for each in trades_of(read_all(tmp_path)) if not each.gap_id]

    assert loose
    assert {each.topic.channel for each in loose} == {MATCHES.topic_channel}
    assert all(each.id >= each.received_us for each in loose)


def test_an_empty_store_is_renamed(tmp_path):
    """The daemon made it, and wrote nothing."""
    (tmp_path / "history.sqlite").write_bytes(b"")
    result = run(tmp_path)

    assert result[:3] == (0, 0, 0)
    assert [each.name for each in tmp_path.glob("*.migrated")] == [result.kept.name]
    assert isinstance(result.kept, Path)
