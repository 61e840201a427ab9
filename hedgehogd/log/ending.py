"""The end of the log, read from its files at the start of a term.

Not for the loop: these functions wait for the disk.
"""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

import structlog

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.domain.record import FeedRecord, Record
from hedgehogd.log.archive import files
from hedgehogd.log.archive import reader as archive
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive, NewerFormat
from hedgehogd.log.continuity import Ends
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError, UnusableWindow, reported
from hedgehogd.log.lease import Predecessor
from hedgehogd.log.newest import read_newest_first
from hedgehogd.log.trade_gaps import TradeGaps

log = structlog.get_logger("log")

BEGUN = "begun"
"""The state of the feed record that begins an epoch."""
_TERM = "term "


def begun(term: int, at_us: int) -> FeedRecord:
    """Return the first record of a term; ``term_of`` reads the term from it."""
    return FeedRecord(BEGUN, f"{_TERM}{term}", received_us=at_us)


def term_of(record: FeedRecord) -> int | None:
    """Return the term that a record begins; None if it begins none."""
    number = record.detail.removeprefix(_TERM)
    is_number = number.isascii() and number.isdigit()
    return int(number) if record.state == BEGUN and is_number else None


def read_predecessor(directory: Path, *, needs_term: bool = False) -> Predecessor:
    """Return the end of the log as far as the archive in ``directory`` knows it.

    Args:
        directory: the archive.
        needs_term: search for the last term, which may have begun long ago; else it is 0.

    Raises:
        UnusableWindow: a newer version wrote the archive.
        LogError: the file system refuses to read the archive now: it may have one.
    """
    try:
        newest = _newest_header(directory)
    except NewerFormat as error:
        raise UnusableWindow(str(error)) from None
    known = Predecessor() if newest is None else Predecessor(newest.deployment, 0, newest.after_id)
    with reported(directory), suppress(FileNotFoundError), (directory / files.CATALOGUE).open("rb"):
        pass
    try:
        reader = archive.Reader(directory)
    except NewerFormat as error:
        raise UnusableWindow(str(error)) from None
    except ArchiveError:  # there is none, or its catalogue is damaged: its writer makes it again
        return known
    try:
        last_id = reader.last_id()
        term = _last_term(reader, last_id) if needs_term else 0
        return Predecessor(reader.view.catalogue.deployment, term, last_id)
    except DamagedArchive:
        return known
    except ArchiveError as error:
        raise LogError(str(error)) from None
    finally:
        reader.close()


def _newest_header(directory: Path) -> files.FileHeader | None:
    """Return the header of the newest readable file of an archive; None without one.

    Raises:
        NewerFormat: a newer version wrote it.
        LogError: the file system refuses to read the directory, or a file in it.
    """
    with reported(directory):
        try:
            found = [files.read_name(path.name) for path in directory.iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return None
        for name in sorted(filter(None, found), reverse=True):
            path = directory / str(name)
            with suppress(FileNotFoundError, DamagedArchive), path.open("rb") as file:
                return files.unpack_header(file.read(files.HEADER_BYTES), path.name)
    return None


def _last_term(reader: archive.Reader, last_id: int) -> int:
    """Return the last term of which the archive has the first record; 0 for none."""
    before_id, is_last = last_id + 1, False
    while not is_last:
        page = reader.read_back(before_id, frozenset())
        for record in page.records:
            term = term_of(record) if isinstance(record, FeedRecord) else None
            if term is not None:
                return term
        before_id, is_last = page.end_id, page.is_last
    return 0


def read_ends(directory: Directory, archive_path: Path) -> tuple[Ends, TradeGaps]:
    """Return the ends of the log's topics, and its newest gaps in trades.

    The window has the newest of them, the archive the rest. Parts that are not readable are left
    out, and reported: the archive, and of a damaged segment of the window the records after the
    first unreadable place.
    """
    ends, gaps = Ends(), TradeGaps()
    others: list[Record] = []  # records that are not messages, newest first
    first_id = None
    try:
        for first_id, records in read_newest_first(directory, ends.wants):  # noqa: B007  # it is used
            _note(records, ends, others)
    except LogError as error:
        log.warning("the end of the log is not readable", reason=str(error))
    try:
        _note_archive(archive_path, ends, others, first_id)
    except (ArchiveError, LogError) as error:
        log.warning("the end of the archive is not readable", reason=str(error))
    gaps.note(reversed(others))
    return ends, gaps


def _note(records: Sequence[Record], ends: Ends, others: list[Record]) -> None:
    """Note records before those noted so far, newest first; ``others`` is bounded."""
    ends.note(records)
    room = limits.LOG_GAPS_MAX + limits.LOG_FILLED_TRADES_MAX - len(others)
    others += islice((each for each in records if not isinstance(each, Message)), room)


def read_topics(directory: Path) -> set[Topic]:
    """Return the topics of the messages of the archive in ``directory``.

    Raises:
        ArchiveError: it cannot be read.
    """
    reader = archive.Reader(directory)
    try:
        topics = set(reader.view.catalogue.messages)
        for source in reader.view.sources:
            if source.row is None:
                with suppress(FileNotFoundError, DamagedArchive):
                    topics.update(reader.view.open(source).contents.summaries)
        return {topic for topic in topics if topic.channel}
    finally:
        reader.close()


def _note_archive(path: Path, ends: Ends, others: list[Record], before_id: int | None) -> None:
    """Note the last numbers of the archive's topics, and its last records before ``before_id``.

    Summaries have the numbers, so the cost is one index for each file that has the last message of
    a topic.

    Raises:
        ArchiveError: it cannot be read.
    """
    if _newest_header(path) is None:
        return
    reader = archive.Reader(path)
    try:
        page = reader.read_back(reader.last_id() + 1 if before_id is None else before_id)
        _note(page.records, ends, others)
        seen = 0
        for source in reversed(reader.view.sources):
            if source.row is not None and not source.row.mask & ~seen:
                continue
            try:
                opened = reader.view.open(source)
            except (FileNotFoundError, DamagedArchive):
                continue
            for topic, each in opened.contents.summaries.items():
                ends.note_numbers(topic, each.last_sequence, each.last_trade_id)
            seen |= reader.view.catalogue.mask(opened.contents.summaries)
    finally:
        reader.close()
