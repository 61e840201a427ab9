"""The end of the log, read from window and archive."""

import errno
import shutil
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import FeedRecord, GapRecord
from hedgehogd.log.archive import files
from hedgehogd.log.archive.errors import ArchiveError
from hedgehogd.log.archive.reader import Reader as ArchiveReader
from hedgehogd.log.archive.writer import Sizes, Writer
from hedgehogd.log.directory import Directory
from hedgehogd.log.ending import begun, read_ends, read_predecessor, read_topics, term_of
from hedgehogd.log.errors import LogError, UnusableWindow
from hedgehogd.log.lease import Predecessor
from tests.fakes import make_message
from tests.log.instances import HEARTBEAT, MATCHES, SMALL, TICKER, Instance, beat, trade

DEPLOYMENT = "aaaaaa"
SEALED_AT_ONCE = Sizes(segment_bytes=1)


def placed(messages, first_id=100):
    for record_id, message in enumerate(messages, first_id):
        message.id = message.received_us = record_id
    return messages


def archive(path, *batches, sizes=Sizes()):  # noqa: B008
    """Write an archive, with one segment or tail for each batch."""
    writer = Writer(path, DEPLOYMENT, sizes=sizes)
    for batch in batches:
        writer.append(batch)
        writer.sync()
        if sizes is SEALED_AT_ONCE:
            writer.seal()
    writer.close()


@pytest.mark.parametrize(
    ("record", "term"),
    [
        (begun(7, 5), 7), (FeedRecord("live", "term 7"), None), (FeedRecord("begun", "x"), None),
        (FeedRecord("begun"), None), (FeedRecord("begun", "term ²"), None),
    ],
)  # fmt: skip
def test_the_first_record_of_a_term_names_it(record, term):
    """An archive outlives the pages of the window."""
    assert term == term_of(record)


def test_no_archive_has_no_predecessor(tmp_path):
    """The first writer draws the deployment."""
    assert Predecessor() == read_predecessor(tmp_path / "none")
    assert Predecessor() == read_predecessor(tmp_path)


@pytest.mark.parametrize("sizes", [Sizes(), SEALED_AT_ONCE], ids=["tails", "segments"])
def test_the_archive_knows_the_predecessor(sizes, tmp_path):
    """The last term may have begun in an older segment."""
    archive(
        tmp_path, placed([begun(4, 0), trade(1)], 100), placed([begun(6, 0), trade(2)], 200),
        placed([FeedRecord("live"), trade(3)], 300), sizes=sizes,
    )  # fmt: skip

    assert Predecessor(DEPLOYMENT, 6, 301) == read_predecessor(tmp_path, needs_term=True)
    assert Predecessor(DEPLOYMENT, 0, 301) == read_predecessor(tmp_path)


def test_an_archive_without_a_term_has_none(tmp_path):
    """One that was migrated, for example."""
    archive(tmp_path, placed([trade(1)]))

    assert Predecessor(DEPLOYMENT, 0, 100) == read_predecessor(tmp_path, needs_term=True)


def test_a_damaged_catalogue_leaves_the_deployment(tmp_path):
    """Another one would make the archive foreign for ever."""
    archive(tmp_path, placed([trade(1)], 100), placed([trade(2)], 200), sizes=SEALED_AT_ONCE)
    (tmp_path / files.CATALOGUE).write_bytes(b"")
    newest = max(path for path in tmp_path.iterdir() if files.read_name(path.name))
    newest.write_bytes(b"")

    assert Predecessor(DEPLOYMENT, 0, 100) == read_predecessor(tmp_path)


@pytest.mark.parametrize("name", ["*.tail", files.CATALOGUE])
def test_a_newer_archive_is_an_error_of_the_operator(name, tmp_path, monkeypatch):
    """Before a window begins beside it."""
    archive(tmp_path, placed([trade(1)]))
    if name == files.CATALOGUE:
        monkeypatch.setattr("hedgehogd.log.ending._newest_header", lambda _: None)
        monkeypatch.setattr("hedgehogd.log.archive.catalogue.files.VERSION", 0)
    else:
        (path,) = tmp_path.glob(name)
        data = bytearray(path.read_bytes())
        data[8] = 2
        path.write_bytes(data)
    with pytest.raises(UnusableWindow, match="version"):
        read_predecessor(tmp_path)


async def logged(tmp_path, nursery, *messages, bounds=SMALL):
    here = Instance(tmp_path, bounds=bounds)
    await here.record(nursery, *messages)
    return Directory(here.place.window)


async def test_ends_are_those_of_window_and_archive(tmp_path, autojump_clock, nursery):
    """The window reaches back less far; a topic may be quiet for days."""
    sent = [make_message(*TICKER, sequence=7), beat(0), *[trade(n) for n in range(1, 400)], beat(1)]
    directory = await logged(tmp_path, nursery, *sent)
    ends, gaps = read_ends(directory, tmp_path / "archive")
    directory.close()

    assert {TICKER: 7, MATCHES: 399} == ends.numbers()
    assert [beat(0).payload, beat(1).payload] == ends.newest(HEARTBEAT)
    assert 0 == len(gaps)


async def test_gaps_of_the_log_can_be_filled_by_a_successor(tmp_path, autojump_clock, nursery):
    """Its own backfill may return trades of a gap that the last writer recorded."""
    directory = await logged(tmp_path, nursery, trade(1), trade(4))
    _, gaps = read_ends(directory, tmp_path / "archive")
    directory.close()
    (gap,) = [each for each in all_of(tmp_path / "archive") if isinstance(each, GapRecord)]

    assert [gap.id, gap.id] == [
        each.gap_id for each in gaps.fill("BTC-USD", [{"trade_id": n} for n in range(6)], 0)
    ]


def all_of(path):
    reader = ArchiveReader(path)
    records = reader.read(0).records
    reader.close()
    return records


async def test_parts_that_are_not_readable_are_left_out(tmp_path, autojump_clock, nursery):
    """The log continues with the rest; numbers of the other part are known."""
    directory = await logged(tmp_path, nursery, trade(1), trade(2))
    (tmp_path / "archive" / files.CATALOGUE).write_bytes(b"x")
    assert {MATCHES: 2} == read_ends(directory, tmp_path / "archive")[0].numbers()
    (segment,) = (tmp_path / "window").glob("segment-*")
    segment.write_bytes(bytes(len(segment.read_bytes())))
    assert {} == read_ends(directory, tmp_path / "archive")[0].numbers()
    directory.close()


async def test_an_archive_of_other_topics_is_no_fault(tmp_path, autojump_clock, nursery):
    """A window may have topics that the archive never had, and the other way round."""
    directory = await logged(tmp_path, nursery, make_message("full", sequence=3))
    shutil.rmtree(tmp_path / "archive")
    ends, _ = read_ends(directory, tmp_path / "archive")
    directory.close()

    assert {Topic("full", "BTC-USD"): 3} == ends.numbers()


@pytest.mark.parametrize("name", ["", "tail", files.CATALOGUE])
def test_an_archive_that_the_disk_refuses_may_be_there(name, tmp_path, monkeypatch):
    """Another deployment would never be able to continue it."""
    archive(tmp_path, placed([trade(1)]))
    real = {method: getattr(Path, method) for method in ("open", "iterdir")}

    def refuse(method):
        def call(path, *arguments):
            if path == tmp_path if not name else path.name.endswith(name):
                raise OSError(errno.EIO, "Input/output error")
            return real[method](path, *arguments)

        return call

    for method in real:
        monkeypatch.setattr(Path, method, refuse(method))
    with pytest.raises(LogError, match="Input/output error"):
        read_predecessor(tmp_path)


def test_an_archive_that_cannot_be_read_now_may_be_longer(tmp_path, monkeypatch):
    """Ids that it has must not be used again."""
    archive(tmp_path, placed([trade(1)]))

    def refuse(_):
        raise ArchiveError("no more open files")

    monkeypatch.setattr(ArchiveReader, "last_id", refuse)
    with pytest.raises(LogError, match="no more open files"):
        read_predecessor(tmp_path)


async def test_segments_after_a_damaged_one_are_read(tmp_path, autojump_clock, nursery):
    """Else the messages of the tape would be appended again."""
    directory = await logged(tmp_path, nursery, *[trade(n) for n in range(1, 400)])
    shutil.rmtree(tmp_path / "archive")
    segments = sorted(
        (tmp_path / "window").glob("segment-*"), key=lambda path: int(path.name.split("-")[-1])
    )
    for segment in (segments[0], segments[-3]):
        data = bytearray(segment.read_bytes())
        data[200:] = bytes(len(data) - 200)
        segment.write_bytes(data)
    with capture_logs() as lines:
        ends, _ = read_ends(directory, tmp_path / "archive")
    directory.close()

    assert {MATCHES: 399} == ends.numbers()
    assert "a part of the log is not readable" in [line["event"] for line in lines]


def test_the_topics_of_an_archive(tmp_path):
    """Those of sealed segments and of tails; the topic of damaged blocks is none."""
    archive(tmp_path, placed([trade(1)], 100), sizes=SEALED_AT_ONCE)
    archive(tmp_path, placed([beat(1)], 200))

    assert {MATCHES, HEARTBEAT} == read_topics(tmp_path)
