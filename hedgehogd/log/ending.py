"""The end of the log, read from its files at the start of a term.

Not for the loop: these functions wait for the disk.
"""

from contextlib import suppress
from pathlib import Path

import structlog

from hedgehogd.domain import limits
from hedgehogd.domain.record import FeedRecord, Record
from hedgehogd.log.archive import files
from hedgehogd.log.archive import reader as archive
from hedgehogd.log.archive.errors import ArchiveError, DamagedArchive, NewerFormat
from hedgehogd.log.continuity import Ends
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LeftWindow, LogError, UnusableWindow
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
    """
    try:
        newest = _newest_header(directory)
    except NewerFormat as error:
        raise UnusableWindow(str(error)) from None
    known = Predecessor() if newest is None else Predecessor(newest.deployment, 0, newest.after_id)
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
    except ArchiveError:
        return known
    finally:
        reader.close()


def _newest_header(directory: Path) -> files.FileHeader | None:
    """Return the header of the newest readable file of an archive; None without one.

    Raises:
        NewerFormat: a newer version wrote it.
    """
    try:
        names = sorted(filter(None, (files.read_name(path.name) for path in directory.iterdir())))
    except OSError:
        return None
    for name in reversed(names):
        path = directory / str(name)
        with suppress(OSError, DamagedArchive), path.open("rb") as file:
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
    out, and reported.
    """
    ends, gaps = Ends(), TradeGaps()
    window = Reader(directory)
    try:
        oldest = _read_some(window, 0)
        try:
            _note_archive(archive_path, ends, gaps, oldest[0].id if oldest else None)
        except ArchiveError as error:
            log.warning("the end of the archive is not readable", reason=str(error))
        position = 0
        while records := _read_some(window, position):
            ends.note(records)
            gaps.note(records)
            position = records[-1].id
    except LogError as error:
        log.warning("the end of the log is not readable", reason=str(error))
    finally:
        window.close()
    return ends, gaps


def _read_some(window: Reader, after_id: int) -> list[Record]:
    try:
        return window.read(after_id, limits.ARCHIVER_RECORDS_MAX)
    except LeftWindow as error:
        return window.read(error.oldest_id, limits.ARCHIVER_RECORDS_MAX)


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
