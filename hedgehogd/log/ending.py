"""The end of the log, read from its files at the start of a term.

Not for the loop: these functions wait for the disk.
"""

from contextlib import suppress
from pathlib import Path

import structlog

from hedgehogd.domain import limits
from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import FeedRecord, Record
from hedgehogd.log.archive import files
from hedgehogd.log.archive import reader as archive
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive, NewerFormat
from hedgehogd.log.continuity import Ends
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import DamagedWindow, LeftWindow, LogError, UnusableWindow, reported
from hedgehogd.log.lease import Predecessor
from hedgehogd.log.reader import Reader
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
    window = Reader(directory)
    try:
        records, position = _read_some(window, directory, 0)
        try:
            _note_archive(archive_path, ends, gaps, records[0].id if records else None)
        except (ArchiveError, LogError) as error:
            log.warning("the end of the archive is not readable", reason=str(error))
        while records:
            ends.note(records)
            gaps.note(records)
            records, position = _read_some(window, directory, position)
    except LogError as error:
        log.warning("the end of the log is not readable", reason=str(error))
    finally:
        window.close()
    return ends, gaps


def _read_some(window: Reader, directory: Directory, after_id: int) -> tuple[list[Record], int]:
    """Return the next readable records after an id, and the id of the last one; none at the end.

    Raises:
        LogError: the window cannot be read any further.
    """
    while True:
        try:
            records = window.read(after_id, limits.ARCHIVER_RECORDS_MAX)
        except LeftWindow as error:
            after_id = error.oldest_id
        except DamagedWindow as error:
            following_id = _next_segment(directory, after_id)
            if following_id is None:
                raise
            log.warning("a part of the log is not readable", reason=str(error))
            after_id = following_id
        else:
            return records, records[-1].id if records else after_id


def _next_segment(directory: Directory, after_id: int) -> int | None:
    """Return the id before the first segment of the window that begins after ``after_id``."""
    heads = (directory.head(*each) for each in directory.segments())
    ids = (head.previous_id for head in heads if head is not None)
    return min((each for each in ids if each > after_id), default=None)


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


def _note_archive(path: Path, ends: Ends, gaps: TradeGaps, before_id: int | None) -> None:
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
        seen = 0
        numbers = []
        for source in reversed(reader.view.sources):
            if source.row is not None and not source.row.mask & ~seen:
                continue
            try:
                opened = reader.view.open(source)
            except (FileNotFoundError, DamagedArchive):
                continue
            for topic, each in opened.contents.summaries.items():
                numbers.append((topic, each.last_sequence, each.last_trade_id))
            seen |= reader.view.catalogue.mask(opened.contents.summaries)
        for topic, sequence, trade_id in reversed(numbers):
            ends.note_numbers(topic, sequence, trade_id)
        page = reader.read_back(reader.last_id() + 1 if before_id is None else before_id)
        records = page.records[::-1]
        ends.note(records)
        gaps.note(records)
    finally:
        reader.close()
