"""Windows of the log with damaged bytes: in a page, or in a segment of any term.

A damaged window is read as written up to the damage, or an error of the log reports it: no record
is missing between two that are read, and none is another one. A candidate takes its lease and a
writer appends, or they report an error. No other exception leaves the window.
"""

import shutil
import tempfile
from contextlib import ExitStack, closing, suppress
from functools import cache
from pathlib import Path
from random import Random

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LeftWindow, LogError, UnusableWindow
from hedgehogd.log.lease import Candidate
from hedgehogd.log.reader import Reader
from hedgehogd.log.window import Window
from hedgehogd.protocol.frames import encode_text
from tests.fuzz.stores import damaged

_BOUNDS = Bounds(segment_bytes=4096, window_bytes_max=1 << 20)
_START_US = 1_700_000_000_000_000
_READS_MAX = 1_000


def _message(number: int, size: int) -> Message:
    payload = b'{"sequence":%d,"x":"%b"}' % (number, b"x" * size)
    return Message(Topic("ticker", "BTC-USD"), "ticker", encode_text(payload), payload, number)


def _writer(directory: Directory, opened: ExitStack) -> Window:
    """Take the lease; return the writer."""
    candidate = opened.enter_context(closing(Candidate(directory)))
    candidate.look()
    page = candidate.take()
    return opened.enter_context(closing(Window(directory, page, lambda: _START_US, _BOUNDS)))


@cache
def _sound_window() -> tuple[dict[str, bytes], list[tuple[int, bytes]]]:
    """Return the files of a window of three terms, and the ids and payloads of its records."""
    random, records = Random(11), []
    with tempfile.TemporaryDirectory(prefix="hedgehogd-fuzz-") as path:
        with ExitStack() as opened:
            directory = opened.enter_context(closing(Directory(Path(path))))
            for term in range(3):
                writer = _writer(directory, opened)
                for number in range(term * 20, term * 20 + 20):
                    batch = [_message(number, random.choice((0, 200, 900))) for _ in range(2)]
                    writer.append(batch)
                    records += [(each.id, each.payload) for each in batch]
            files = {each.name: each.read_bytes() for each in Path(path).iterdir()}
        return files, records


def _read(directory: Directory, records: list[tuple[int, bytes]], random: Random) -> None:
    """Read from some positions to the end or to an error."""
    for _ in range(4):
        after = random.choice([0, *(each for each, _ in records)])
        with closing(Reader(directory)) as reader:
            found: list[tuple[int, bytes]] = []
            try:
                for _ in range(_READS_MAX):
                    batch = reader.read(after, random.choice((1, 10, 1_000)))
                    if not batch:
                        break
                    found += [(each.id, each.payload) for each in batch if type(each) is Message]
                    after = found[-1][0]
                else:
                    raise AssertionError(f"no end after {_READS_MAX} reads")
            except LeftWindow as error:
                if error.oldest_id < after:
                    raise AssertionError("an older position than the last one") from error
            except LogError:
                pass
            if found:
                first = records.index(found[0])
                assert records[first : first + len(found)] == found, "a record is missing"


def _write(directory: Directory) -> None:
    """Succeed the writer, append, and read that."""
    with ExitStack() as opened:
        writer = _writer(directory, opened)
        last_id = writer.append([_message(1, 10)])
        with closing(Reader(directory)) as reader:
            assert [last_id] == [each.id for each in reader.read(last_id - 1, 9)]


def _damaged(random: Random, name: str, data: bytes) -> bytes:
    """Return a file with damaged bytes; of a page, often a word, which has no CRC.

    The low bytes of the last id are left alone: no reader can distinguish another id from it.
    """
    if not name.startswith("term") or random.random() < 0.5:
        return damaged(random, data)
    at = random.choice((512, 526, 526, 528, 532, 576, 640))
    return data[:at] + random.randbytes(2) + data[at + 2 :]


def fuzz_windows(random: Random, inputs: int) -> int:
    """Damage, read and continue a window; one input is one window."""
    for _ in range(inputs):
        path = Path(tempfile.mkdtemp(prefix="hedgehogd-fuzz-"))
        try:
            files, records = _sound_window()
            names = sorted(files)
            target = random.choice(names + [n for n in names if n.startswith("term")] * 2)
            for name, data in files.items():
                (path / name).write_bytes(_damaged(random, name, data) if name == target else data)
            if random.random() < 0.1:
                (path / random.choice(names)).unlink()
            with closing(Directory(path)) as directory:
                with suppress(LogError, UnusableWindow):
                    _read(directory, records, random)
                with suppress(LogError, UnusableWindow):
                    _write(directory)
        finally:
            shutil.rmtree(path)
    return inputs
