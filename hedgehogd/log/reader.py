"""Read the window from an id: the newest part of the log, which the log writer appends to.

A reader delivers an entry only if it lies below the published end of its term, or below the
term's seal once a successor has published one. Each published end lies at or below the seal
(``window.py``), so a reader never delivers an entry that is not part of the log, whenever its own
process or the writer's is stopped, and needs no lock.

A position whose next records were removed is an error of its own, ``LeftWindow``: a reader never
skips records silently.
"""

import os
from contextlib import ExitStack

from hedgehogd.domain.errors import OperatorError
from hedgehogd.domain.limits import WINDOW_READ_BYTES
from hedgehogd.domain.record import Record
from hedgehogd.log.chain import terms_before
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import DamagedWindow, LeftWindow, LogError, ReplacedWindow
from hedgehogd.log.header import Page
from hedgehogd.log.segment import FRAME_BYTES, HEAD_BYTES, Scan, scan, skip
from hedgehogd.protocol.entry import BadEntry, unpack

_OFFSET_END = 1 << 32  # above each offset in a segment
_RECORD_BYTES = 1024  # a guess: bytes to read for one record, so that few are read twice


class Reader:
    """A reader of the window; the owner calls ``close``.

    Args:
        directory: the window's directory.

    Raises:
        LogError: no writer has begun the window yet.
        UnusableWindow: the window has another format.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._descriptor: int | None = None
        self._following: Page | None = None
        self._page = self._newest_page()
        self._segment, self._at = self._page.end
        self._after = self._page.last_id
        if self._segment == 0:
            self._segment, self._at = 1, HEAD_BYTES

    @property
    def deployment(self) -> str:
        """The id of the deployment, 6 characters."""
        return self._page.fixed.deployment

    @property
    def term(self) -> int:
        """The term of the records that the last read returned, unless that read ended a term."""
        return self._page.fixed.term

    @property
    def after_id(self) -> int:
        """The id after which the next read continues without a search; at first the log's end."""
        return self._after

    @property
    def page(self) -> Page:
        """The page of the term that is read; closed when the reader reaches another term."""
        return self._page

    def close(self) -> None:
        """Close all files."""
        self._close_segment()
        self._page.close()
        if self._following is not None:
            self._following.close()
            self._following = None

    def has_more(self) -> bool:
        """Return True if a read after ``after_id`` may return records; one load, usually."""
        if self._page.end_word > (self._segment << 32 | self._at):
            return True
        if self._following is None and self._page.is_fenced:
            self._following = self._next_page()
        return self._following is not None

    def read(self, after_id: int, limit: int) -> list[Record]:
        """Return records with ids above ``after_id``, in order; an empty list at the log's end.

        Whole entries are read until there are at least ``limit`` records, so there may be up to
        one entry more. A read after the last id returned continues there; any other one searches,
        which reads the frames of up to one segment. Not a checkpoint.

        Raises:
            LeftWindow: records after ``after_id`` were removed.
            DamagedWindow: bytes are not as they were written.
            ReplacedWindow: the directory was emptied or has another log, or a segment is missing
                after which no other one follows; the reader must be closed.
            UnusableWindow: the next term has another format.
            LogError: the file system refuses to open or read a file.
        """
        if after_id != self._after:
            self._search(after_id)
        records: list[Record] = []
        try:
            while len(records) < limit:
                end = self._end()
                if self._segment << 32 | self._at < end:
                    self._read_segment(end, after_id, limit, records)
                elif self._following is not None:
                    self._enter_term(self._following)
                else:
                    break
        except (LogError, OperatorError):
            if not records:
                raise  # else the next read raises it
        if records:
            self._after = records[-1].id
        return records

    def _end(self) -> int:
        """Return the place up to which the current term may be read now, as a word of the page.

        The fence is read first: without it the published end is part of the log. With it, the
        seal decides as soon as a successor has published it.
        """
        if self._following is None and self._page.is_fenced:
            self._following = self._next_page()
        if self._following is not None:
            return self._following.fixed.seal.place.word
        return self._page.end_word

    def _next_page(self) -> Page | None:
        """Open the next term's page; None if no candidate has published it yet.

        Raises:
            ReplacedWindow: it is damaged or of another log, and newer terms exist.
            LeftWindow: it was removed, and newer terms exist.
        """
        term = self._page.fixed.term
        page = self._directory.page(term + 1)
        if page is None and any(each > term + 1 for each in self._directory.terms()):
            page = self._directory.page(term + 1)  # it may have been published just now
            if page is None and not self._directory.has_page(term + 1):
                raise self._left(self._after)
            if page is None:  # it is damaged: the log has begun again after it
                raise ReplacedWindow(f"{self._directory.path} has another log")
        if page is not None:
            with ExitStack() as opened:
                opened.callback(page.close)
                self._directory.require(self._page)
                if not self._page.precedes(page.fixed):
                    raise ReplacedWindow(f"{self._directory.path} has another log")
                opened.pop_all()
        return page

    def _enter_term(self, page: Page) -> None:
        self._close_segment()
        self._page.close()
        self._page, self._following = page, None
        self._segment, self._at = 1, HEAD_BYTES

    def _read_segment(self, end: int, after_id: int, limit: int, records: list[Record]) -> None:
        """Add the records of one piece of the current segment, or go to the next segment.

        The reader's place is after the last entry of which the records were added.
        """
        is_last = self._segment == end >> 32
        size = min(WINDOW_READ_BYTES, limit * _RECORD_BYTES)
        if is_last:
            size = min(size, (end & 0xFFFF_FFFF) - self._at)
        data, found = self._scan(size)
        if not found.entries:
            if not found.is_ended or is_last:
                raise DamagedWindow(f"{self._name()} is damaged at byte {self._at}")
            self._close_segment()
            self._segment, self._at = self._segment + 1, HEAD_BYTES
            return
        base = self._at
        for start, stop, first_id, last_id in found.entries:
            if last_id > after_id:
                try:
                    unpacked = unpack(data, start, stop)
                except BadEntry as error:
                    raise DamagedWindow(f"{self._name()}, byte {self._at}: {error}") from None
                if first_id <= after_id:
                    unpacked = [record for record in unpacked if record.id > after_id]
                records += unpacked
            self._at = base + stop
            if len(records) >= limit:
                break

    def _scan(self, size: int) -> tuple[bytes, Scan]:
        """Read ``size`` bytes from the current place, or all of one larger entry.

        A second read follows if no entry is whole: on a processor that delays stores, data may
        become visible after the end that was published for it.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open_segment()
        try:
            data = os.pread(descriptor, size, self._at)
            found = scan(data)
            if not found.entries and not found.is_ended:
                data = os.pread(descriptor, max(size, found.needed), self._at)
                found = scan(data)
        except OSError as error:
            raise LogError(f"{self._name()}: {error.strerror}") from None
        return data, found

    def _open_segment(self) -> int:
        descriptor = self._directory.segment(self.term, self._segment)
        if descriptor is None:
            raise self._left(self._after)
        try:
            self._directory.require(self._page)
        except LogError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return descriptor

    def _close_segment(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _name(self) -> str:
        return f"segment {self._segment} of term {self.term} in {self._directory.path}"

    def _left(self, after_id: int) -> LogError:
        """Return the error of a position whose next records have no file."""
        self._directory.require(self._page)
        for place in self._segments():
            previous_id = self._previous_id(*place)
            if previous_id is not None and previous_id >= after_id:
                return LeftWindow(previous_id)
        # A writer never removes its newest segment.
        return ReplacedWindow(f"{self._directory.path} has no segment after id {after_id}")

    def _newest_page(self) -> Page:
        for _ in range(2):  # the window may be begun again in between
            terms = self._directory.terms()
            page = self._directory.page(terms[-1]) if terms else None
            if page is not None:
                return page
        raise LogError(f"{self._directory.path} has no log yet")

    def _search(self, after_id: int) -> None:
        """Go to the entry that contains the first record after ``after_id``.

        The heads of a few segments lead to its segment, the frames of entries to the entry.

        Raises:
            LeftWindow: it was removed.
            ReplacedWindow: the directory was emptied or has another log.
        """
        self._directory.check(self._page)
        places = self._segments(is_own=True)
        low, high = 0, len(places)
        while low < high:
            middle = (low + high) // 2
            previous_id = self._previous_id(*places[middle])
            if previous_id is None:  # removed just now, or damaged: the one before it leads there
                del places[middle]
                high -= 1
            elif previous_id <= after_id:
                low = middle + 1
            else:
                high = middle
        page = self._directory.page(places[low - 1][0]) if low else None
        if page is None:
            raise self._left(after_id)
        self.close()
        self._page = page
        self._segment, self._at = places[low - 1][1], HEAD_BYTES
        self._after = after_id
        self._skip(after_id)

    def _skip(self, after_id: int) -> None:
        """Go past the entries of the current segment up to ``after_id``, by their frames.

        Only the last one is checked, because its size leads to the next place. If it is not whole,
        the reader stays at the segment's start, reads from there and finds the damage.
        """
        end = self._end()
        if self._segment > end >> 32:
            return  # the term has no entries
        end = end & 0xFFFF_FFFF if self._segment == end >> 32 else _OFFSET_END
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = self._open_segment()
        at, last_at, is_found = self._at, 0, False
        try:
            while at < end and not is_found:
                data = os.pread(descriptor, min(WINDOW_READ_BYTES, end - at), at)
                if len(data) < FRAME_BYTES:
                    return
                size, last_size, is_found = skip(data, after_id)
                if size:
                    last_at = at + size - last_size
                at += size
            if last_at:
                last = os.pread(descriptor, at - last_at, last_at)
                if scan(last).end == len(last):
                    self._at = at
        except OSError as error:
            raise LogError(f"{self._name()}: {error.strerror}") from None

    def _segments(self, *, is_own: bool = False) -> list[tuple[int, int]]:
        """Return term and number of each segment of the log, in order; of an empty term, the first.

        Raises:
            ReplacedWindow: ``is_own``, and the term that is read is not of the newest term's log.
        """
        newest = self._newest_page()
        fixed, end = newest.fixed, newest.end
        newest.close()
        segments = self._directory.segments()
        oldest = min([self.term, *(term for term, _ in segments)])
        terms = terms_before(self._directory, fixed, oldest)
        if is_own and self.term not in {*terms, fixed.term}:
            raise ReplacedWindow(f"{self._directory.path} has another log")
        ends = {term: sealed.seal.place.segment for term, sealed in terms.items()}
        ends[fixed.term] = end.segment
        places = [each for each in segments if each[1] <= ends.get(each[0], 0)]
        return places if end.segment else [*places, (fixed.term, 1)]

    def _previous_id(self, term: int, number: int) -> int | None:
        """Return the last id of the log before a segment; None if it is missing or damaged."""
        head = self._directory.head(term, number)
        if head is not None:
            return head.previous_id
        fixed = self._directory.fixed(term) if number == 1 else None
        return None if fixed is None else fixed.seal.last_id
