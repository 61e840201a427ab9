"""Old stores with damaged bytes: flipped, zeroed, copied and removed, and their migration.

A migration of a damaged store succeeds or reports an error of the store. When it succeeds, the
archive has the messages that a scan of the file finds, and a gap of each topic with an unreadable
block. No other exception leaves it.
"""

import shutil
import sqlite3
import tempfile
import zlib
from collections import Counter
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord, TradeRecord
from hedgehogd.log.migration.migrate import Result, migrate
from hedgehogd.log.migration.old_store import BOOK_START, FILE_NAME, OldStoreError
from tests.log.migration.stores import make_store, read_all, unpacked

_VALUES = (None, 0, 1, -1, 3, 2**62, 2**63 - 1, -(2**63), 1.5, "", "text", "é", b"", b"\xff", b"{}")


@cache
def _sound_store() -> bytes:
    """Return the file of a store with blocks, rows, gaps and backfilled trades."""
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
        make_store(Path(directory), 11, 60)
        return (Path(directory) / FILE_NAME).read_bytes()


def damaged(random: Random, data: bytes) -> bytes:
    """Return ``data`` with some of its bytes or pages changed."""
    if not data:
        return random.randbytes(random.choice((1, 100)))
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        at = random.randrange(len(changed))
        page = at // 4096 * 4096
        match random.randrange(7):
            case 0 | 1:
                changed[at] ^= 1 << random.randrange(8)
            case 2:
                size = random.choice((1, 2, 4, 8, 64))
                changed[at : at + size] = random.randbytes(len(changed[at : at + size]))
            case 3:
                changed[page : page + 4096] = bytes(len(changed[page : page + 4096]))
            case 4:
                other = random.randrange(len(changed)) // 4096 * 4096
                piece = changed[other : other + 4096]
                changed[page : page + len(piece)] = piece
            case 5 if random.random() < 0.3:
                del changed[at:]
                if not changed:
                    break
            case 6:  # within the first page: the header and the schema
                changed[random.randrange(min(len(changed), 4096))] = random.randrange(256)
    return bytes(changed)


def _with_other_value(random: Random, path: Path) -> None:
    """Replace one value of the store in ``path`` by one of another type or size, or damage it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        table = random.choice(("block", "block", "open", "gap", "trade", "topic", "setting"))
        columns = [row[1:3] for row in connection.execute(f"PRAGMA table_info({table})")]
        column, kind = random.choice(columns)
        count = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        key = ", ".join(f'"{name}"' for name, _ in columns[:2])
        query = f'SELECT {key}, "{column}" FROM {table} LIMIT 1 OFFSET ?'
        *row, value = connection.execute(query, (random.randrange(count),)).fetchone()
        if isinstance(value, bytes) and random.random() < 0.8:
            value = damaged(random, value)
        else:
            value = random.choice(
                (*_VALUES, *([value + 1, value - 1] * 5 if kind == "INTEGER" and value else ()))
            )
        with suppress(sqlite3.IntegrityError):  # the store has no such row
            connection.execute(
                f'UPDATE {table} SET "{column}" = ? WHERE ({key}) = (?, ?)', (value, *row)
            )


def _scanned(path: Path) -> tuple[Counter[tuple[Topic, bytes]], Counter[Topic], int, int]:
    """Return the messages of a file, the number of damaged blocks by topic, of gaps and trades.

    Tables are scanned in their own order, without their indices.
    """
    messages: Counter[tuple[Topic, bytes]] = Counter()
    damages: Counter[Topic] = Counter()
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT id, channel, product_id FROM topic NOT INDEXED")
        topics = {number: Topic(*names) for number, *names in rows}
        for number, payload in connection.execute("SELECT topic, payload FROM open"):
            messages[topics[number], payload] += 1
        blocks = connection.execute("SELECT topic, count, data FROM block NOT INDEXED")
        for number, count, data in blocks:
            topic = topics[number]
            try:
                found = unpacked(topic, data)
            except (zlib.error, ValueError, TypeError, AttributeError):
                found = []
            if len(found) == count and all(0 <= place < 2**62 for place, _ in found):
                messages.update((topic, payload) for _, payload in found)
            else:
                damages[topic] += 1
        kinds = [kind for (kind,) in connection.execute("SELECT kind FROM gap")]
        trades = connection.execute("SELECT count(*) FROM trade").fetchone()[0]
    return messages, damages, len(kinds) - kinds.count(BOOK_START), trades


def _check(directory: Path, result: Result, warnings: list[str]) -> None:
    """Compare an archive with a scan of the store from which it was made."""
    messages, damages, missing, trades = _scanned(result.kept)
    records = read_all(directory)
    found: Counter[tuple[Topic, bytes]] = Counter()
    for record in records:
        if isinstance(record, Message):
            topics = [record.topic] if record.also is None else [record.topic, record.also]
            found.update((topic, record.payload) for topic in topics)
    assert found == messages, "the archive has other messages"
    gaps = [each for each in records if isinstance(each, GapRecord)]
    unreadable = Counter(gap.topic for gap in gaps if gap.kind is GapKind.UNREADABLE)
    assert unreadable == damages, "an unreadable block is no gap"
    assert len(warnings) == sum(damages.values()), "an unreadable block is not reported"
    in_archive = [gap for gap in gaps if gap.kind is GapKind.MISSING]
    assert missing == len(in_archive), "a gap is missing"
    assert trades == sum(isinstance(each, TradeRecord) for each in records), "trades"


def fuzz_stores(random: Random, inputs: int) -> int:
    """Damage and migrate a store; one input is one store."""
    for _ in range(inputs):
        directory = Path(tempfile.mkdtemp(prefix="hedgehogd-fuzz-"))
        try:
            path = directory / FILE_NAME
            path.write_bytes(_sound_store())
            if random.random() < 0.5:
                path.write_bytes(damaged(random, _sound_store()))
            else:
                _with_other_value(random, path)
            warnings: list[str] = []
            with suppress(OldStoreError):
                result = migrate(directory, lambda part, records: None, warnings.append)
                _check(directory, result, warnings)
        finally:
            shutil.rmtree(directory)
    return inputs
