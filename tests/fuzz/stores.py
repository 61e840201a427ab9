"""Stores with damaged bytes: flipped, zeroed, copied and removed, in the database and its log.

A damaged store is read as written, or reported as unusable; a reader never crashes, hangs or
returns a message of a topic that was not requested. A writer that opens it either writes or
reports an error.
"""

import shutil
import tempfile
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from random import Random

from hedgehogd.domain import limits
from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, MATCHES, TICKER, Topic
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME, StoreError
from hedgehogd.history.writer import Entry, Hole, Writer

_NOW_US = 1_790_000_000_000_000
_PAGES_MAX = 400
_TOPICS = [channel.topic("BTC-USD") for channel in (MATCHES, TICKER, LEVEL2, HEARTBEAT)]


def _payload(topic: Topic, number: int) -> bytes:
    kind = {"matches": b"match", "level2": b"l2update"}.get(topic.channel, topic.channel.encode())
    return b'{"type":"%b","product_id":"BTC-USD","sequence":%d,"trade_id":%d,"pad":"%b"}' % (
        kind, number, number, b"x" * (number % 50))  # fmt: skip


@cache
def _sound_store() -> dict[str, bytes]:
    """Return the files of a store with blocks, open rows, gaps and backfilled trades."""
    before = limits.BLOCK_BYTES
    limits.BLOCK_BYTES = 2_000
    try:
        with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as directory:
            writer = Writer(Path(directory), {"pairs": "BTC-USD"})
            for begin in range(0, 600, 60):
                entries = [
                    Entry(topic, _NOW_US + 10 * n + at, _payload(topic, n), n, n)
                    for n in range(begin, begin + 60)
                    for at, topic in enumerate(_TOPICS)
                ]
                entries.insert(30, Hole(_TOPICS[0], "missing", begin, begin + 3))
                writer.write(entries, _NOW_US + 10 * begin)
            trades = [{"trade_id": n, "side": "buy", "size": "1", "price": "1"} for n in range(5)]
            writer.keep_trades("BTC-USD", trades)
            names = [path.name for path in Path(directory).iterdir()]
            files = {name: (Path(directory) / name).read_bytes() for name in names}
            writer.close()
            return {name: data for name, data in files.items() if not name.endswith("-shm")}
    finally:
        limits.BLOCK_BYTES = before


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


def _read(directory: Path, random: Random) -> None:
    """Read a whole store by every method of its reader."""
    with closing(Reader(directory)) as reader:
        reader.settings()
        extents = reader.extents()
        assert all(extent.messages >= 0 for extent in extents.values())
        for topic in _TOPICS:
            with suppress(StoreError):
                reader.first_place(topic)
            with suppress(StoreError):
                reader.find(topic, random.randrange(700))
            with suppress(StoreError):
                reader.snapshot_before(topic, _NOW_US + 3_000)
        with suppress(StoreError):
            reader.trades("BTC-USD", 0, 100)
        requested = random.sample(_TOPICS, random.randint(1, 4))
        after = -1
        for _ in range(_PAGES_MAX):
            page = reader.page(requested, after)
            assert all(message.topic in requested for message in page.messages)
            assert page.end >= after
            if page.is_last:
                return
            assert page.end > after, "a page without progress"
            after = page.end
        raise AssertionError(f"no end after {_PAGES_MAX} pages")


def _write(directory: Path) -> None:
    """Open a store as its writer and append to it."""
    with closing(Writer(directory, {"pairs": "BTC-USD"})) as writer:
        last = max(writer.last_place, _NOW_US) + 1
        writer.write([Entry(_TOPICS[0], last, _payload(_TOPICS[0], 700), 700, 700)], last)


def fuzz_stores(random: Random, inputs: int) -> int:
    """Damage and open a store; one input is one store."""
    for _ in range(inputs):
        directory = Path(tempfile.mkdtemp(prefix="hedgehogd-fuzz-"))
        try:
            files = _sound_store()
            target = random.choice((FILE_NAME, FILE_NAME, random.choice(sorted(files))))
            for name, data in files.items():
                if name != FILE_NAME and random.random() < 0.3:
                    continue  # the log is missing
                (directory / name).write_bytes(damaged(random, data) if name == target else data)
            with suppress(StoreError):
                _read(directory, random)
            with suppress(StoreError):
                _write(directory)
        finally:
            shutil.rmtree(directory)
    return inputs
