"""Archives with damaged bytes: flipped, zeroed, copied and removed, in any of their files.

A damaged archive is read as written, except where gap records say so, or reported as unusable. Its
writer opens it and writes, or reports an error. No other exception leaves it.
"""

import shutil
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random

from hedgehogd.domain.message import Message
from hedgehogd.domain.record import GapKind, GapRecord
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import checkpoint_before, find, find_time, stretches
from hedgehogd.log.archive.writer import Writer
from tests.fuzz.stores import damaged
from tests.log.archive.records import DEPLOYMENT, SMALL, START_US, TOPICS, message, records

_RECORDS = records(Random(11), 500)
_PAGES_MAX = 1_000


@cache
def _sound_archive() -> dict[str, bytes]:
    """Return the files of an archive with segments, an open segment and tails."""
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
        writer = Writer(Path(directory), DEPLOYMENT, sizes=SMALL)
        for at in range(0, len(_RECORDS), 20):
            writer.append(_RECORDS[at : at + 20])
            writer.sync()
            if at < 400:
                writer.work()
        writer.close()
        return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def _read(directory: Path, random: Random) -> None:
    """Read a whole archive by every method of its reader."""
    with closing(Reader(directory, DEPLOYMENT)) as reader:
        topics = frozenset(random.sample(TOPICS, random.randint(1, 4)))
        for wanted in (None, topics):
            _check_order(_pages(reader, wanted), wanted)
        before_id = 2**60
        for _ in range(_PAGES_MAX):
            page = reader.read_back(before_id, topics, 100)
            if page.is_last:
                break
            assert page.end_id < before_id, "a page without progress"
            before_id = page.end_id
        reader.extents()
        list(reader.gaps())
        stretches(reader, START_US, START_US + 10**6)
        find_time(reader, START_US + random.randrange(10**6))
        for topic in topics:
            find(reader, topic, random.randrange(500))
            checkpoint_before(reader, topic, random.randrange(10**6))


def _pages(reader: Reader, topics: frozenset | None) -> list:
    found, after_id = [], 0
    for _ in range(_PAGES_MAX):
        page = reader.read(after_id, topics, 100, reader.placement())
        found += page.records
        if page.is_last:
            return found
        assert page.end_id > after_id, "a page without progress"
        after_id = page.end_id
    raise AssertionError(f"no end after {_PAGES_MAX} pages")


def _check_order(found: list, topics: frozenset | None) -> None:
    """Every message is one that was written; those that are missing have a gap record."""
    written = {r.id: r for r in _RECORDS if isinstance(r, Message)}
    messages = [r for r in found if isinstance(r, Message)]
    assert all(written.get(each.id) == each for each in messages), "a message of no writer"
    assert sorted({each.id for each in messages}) == [each.id for each in messages]
    gaps = [r for r in found if isinstance(r, GapRecord)]
    unreadable = {gap.topic for gap in gaps if gap.kind == GapKind.UNREADABLE}
    last_id = found[-1].id if found else 0
    for each in written.values():
        is_wanted = topics is None or {each.topic, each.also} & topics
        if is_wanted and each.id < last_id and not {each.topic, each.also} & unreadable:
            assert each in messages, f"{each.topic} {each.id} is missing without a gap"


def _write(directory: Path) -> None:
    """Open an archive as its writer, append to it, and read that."""
    with closing(Writer(directory, DEPLOYMENT, sizes=SMALL)) as writer:
        last = message(TOPICS[0], 1, writer.last_id + 1)
        writer.append([last])
        writer.seal()
        writer.check()
        with closing(Reader(directory, DEPLOYMENT)) as reader:
            assert [last] == reader.read(last.id - 1, None, 9).records


def fuzz_archives(random: Random, inputs: int) -> int:
    """Damage and open an archive; one input is one archive."""
    for _ in range(inputs):
        directory = Path(tempfile.mkdtemp(prefix="hedgehogd-fuzz-"))
        try:
            archive = _sound_archive()
            target = random.choice(sorted(archive))
            for name, data in archive.items():
                (directory / name).write_bytes(damaged(random, data) if name == target else data)
            with suppress(ArchiveError):
                list(check(directory, Totals(), ()))
            with suppress(ArchiveError):
                _read(directory, random)
            with suppress(ArchiveError):
                _write(directory)
        finally:
            shutil.rmtree(directory)
    return inputs
