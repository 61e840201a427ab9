"""Read the window backwards, from the newest record to the oldest.

A new writer looks for the ends of the topics. Most of them are near the end of the log, so most of
the window is passed quickly: of an entry without a wanted topic only the checksum is computed, and
the table of routes read.
"""

import os
from collections.abc import Callable, Iterator

import structlog

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.record import Record
from hedgehogd.log.chain import terms_before
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError, reported
from hedgehogd.log.segment import HEAD_BYTES, scan
from hedgehogd.protocol.entry import BadEntry, unpack_some

log = structlog.get_logger("log")


def read_newest_first(
    directory: Directory, is_wanted: Callable[[Topic], bool]
) -> Iterator[tuple[int, list[Record]]]:
    """Yield the first id of each entry of the window, and some of its records, newest first.

    They are the messages of wanted topics, and all records that are not messages. Parts that are
    not readable are left out, and reported. Not for the loop: it waits for the disk. One segment
    is in memory at a time.

    Args:
        directory: the window's directory.
        is_wanted: says whether messages of a topic are wanted; never again once it is False.

    Raises:
        UnusableWindow: a page has another format.
        LogError: the pages cannot be read.
    """
    unwanted: set[bytes] = set()
    for term, number, end in _segments(directory):
        problem = ""
        try:
            data = _read(directory, term, number, end)
        except LogError as error:
            log.warning("a part of the log is not readable", reason=str(error))
            continue
        found = scan(data, HEAD_BYTES)
        is_whole = found.is_ended if end is None else found.end >= end
        if data and not is_whole:
            problem = f"damaged at byte {found.end}"
        for start, stop, first_id, _ in reversed(found.entries):
            try:
                records = unpack_some(data, start, stop, is_wanted, unwanted)
            except BadEntry as error:
                problem = f"damaged at byte {start}: {error}"
            else:
                yield first_id, records[::-1]
        if problem:
            name = f"segment {number} of term {term} in {directory.path}"
            log.warning("a part of the log is not readable", reason=f"{name} is {problem}")


def _segments(directory: Directory) -> list[tuple[int, int, int | None]]:
    """Return term, number and end of each segment of the log, newest first.

    The end is None for a segment that an end mark ends.
    """
    terms = directory.terms()
    page = directory.page(terms[-1]) if terms else None
    if page is None:
        return []
    fixed, end = page.fixed, page.end
    page.close()
    segments = directory.segments()
    oldest = min((term for term, _ in segments), default=fixed.term)
    ends = {
        term: sealed.seal.place for term, sealed in terms_before(directory, fixed, oldest).items()
    }
    ends[fixed.term] = end
    return [
        (term, number, ends[term].offset if number == ends[term].segment else None)
        for term, number in reversed(segments)
        if term in ends and number <= ends[term].segment
    ]


def _read(directory: Directory, term: int, number: int, end: int | None) -> bytes:
    """Return the bytes of a segment up to its end; none if it was removed.

    Raises:
        LogError: the file system refuses it.
    """
    descriptor = directory.segment(term, number)
    if descriptor is None:
        return b""
    try:
        with reported(directory.path):
            return os.pread(descriptor, os.fstat(descriptor).st_size if end is None else end, 0)
    finally:
        os.close(descriptor)
