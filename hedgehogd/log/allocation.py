"""The window segments, for their writer: allocated ahead, bounded, removed oldest first.

Space is allocated in slices before an append needs it, so an append neither waits for the file
system to find space nor finds none. When an allocation fails, the oldest segments are removed
until it succeeds: the window shrinks, and ``is_short`` reports it.

A segment is removed whole and never overwritten, so a reader that has it open reads on. Nothing is
created or removed in a directory where another log has begun: each step checks the writer's page.
"""

import errno
import os
from collections import deque
from contextlib import suppress
from typing import NamedTuple

from hedgehogd.domain.limits import (
    ALLOCATED_AHEAD_BYTES,
    ALLOCATION_SLICE_BYTES,
    SEGMENT_BYTES,
    TERMS_KEPT_MAX,
    WINDOW_BYTES_MAX,
    WINDOW_S,
)
from hedgehogd.log.chain import Sealed, terms_before
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError, WindowFull
from hedgehogd.log.header import Page
from hedgehogd.log.segment import HEAD_BYTES, SegmentHead, end_mark, pack_head

_NS = 1_000_000_000


class Bounds(NamedTuple):
    """How far the window reaches back.

    Attributes:
        window_s: age in seconds up to which records are kept.
        window_bytes_max: bytes of all segments, those allocated ahead included.
        segment_bytes: bytes of one segment; a larger entry has a segment of its own.
    """

    window_s: float = WINDOW_S
    window_bytes_max: int = WINDOW_BYTES_MAX
    segment_bytes: int = SEGMENT_BYTES


class _Full(NamedTuple):
    """A segment that is complete: its term and number, its bytes, the time of its last append."""

    term: int
    number: int
    size: int
    ended_ns: int


class _Allocated:
    """A segment that is open, and the bytes allocated in it."""

    __slots__ = ("descriptor", "number", "size")

    def __init__(self, descriptor: int, number: int) -> None:
        self.descriptor = descriptor
        self.number = number
        self.size = 0


class Allocation:
    """The segments of a window, for its writer; the owner calls ``close``.

    Args:
        directory: the window's directory.
        page: the page of the writer's term; the caller closes it.
        bounds: how far the window reaches back.
        now_ns: the monotonic time, in ns.

    Raises:
        ReplacedWindow: the directory was emptied or has another log.
        LogError: segments of earlier terms cannot be read, or those after a seal cannot be removed.

    Attributes:
        is_short: True while the window is shorter than its bounds because space ran out.
        shrinks: number of segments that were removed early because space ran out.
    """

    def __init__(self, directory: Directory, page: Page, bounds: Bounds, now_ns: int) -> None:
        self._directory = directory
        self._page = page
        self._fixed = page.fixed
        self._bounds = bounds
        self._segment_bytes = bounds.segment_bytes
        self._full: deque[_Full] = deque()
        self._full_bytes = 0
        self._next: _Allocated | None = None
        self._current: _Allocated | None = None
        self.is_short = False
        self.shrinks = 0
        self._inherit(now_ns)

    @property
    def window_bytes(self) -> int:
        """Bytes of all segments, those allocated ahead included."""
        return self._full_bytes + sum(
            each.size for each in (self._current, self._next) if each is not None
        )

    @property
    def number(self) -> int:
        """The number of the current segment; 0 before the first one is opened."""
        return 0 if self._current is None else self._current.number

    def room(self, offset: int) -> int:
        """Return the allocated bytes of the current segment after ``offset``."""
        return 0 if self._current is None else self._current.size - offset

    def open_next(self, size: int, offset: int, last_id: int, now_ns: int) -> int:
        """Continue in the next segment, with room for at least ``size`` bytes; return its file.

        The current segment gets its end mark at ``offset``, after ``last_id``. If an error is
        raised, the current segment is still the current one.

        Raises:
            WindowFull: there is no space, even without the older segments.
            ReplacedWindow: the directory was emptied or has another log.
            LogError: the segment cannot be created, or an older one cannot be removed.
        """
        following = self._make_next()
        while following.size < HEAD_BYTES + size:
            missing = HEAD_BYTES + size - following.size
            if not self._allocate(following, missing):
                raise WindowFull(f"no space for {size} bytes in {self._directory.path}")
        head = SegmentHead(
            self._fixed.deployment, self._fixed.term, following.number, last_id, now_ns
        )
        self._write(following, pack_head(head), 0)
        if self._current is not None:
            self._write(self._current, end_mark(last_id), offset)
            os.close(self._current.descriptor)
            self._add_full(
                _Full(self._fixed.term, self._current.number, self._current.size, now_ns)
            )
        self._current, self._next = following, None
        with suppress(LogError):  # the next renewal reports it
            self.expire(now_ns)
        return following.descriptor

    def allocate_ahead(self, offset: int) -> None:
        """Allocate one slice if less than ``ALLOCATED_AHEAD_BYTES`` lie ahead of ``offset``.

        Nothing is raised, because a batch was published just before: a missing slice is tried
        again, and reported when it is needed.
        """
        current, following = self._current, self._next
        ahead = (current.size - offset if current else 0) + (following.size if following else 0)
        if ahead >= min(ALLOCATED_AHEAD_BYTES, self._segment_bytes):
            return
        try:
            if current is None or current.size >= self._segment_bytes:
                current = self._make_next()
            self._allocate(current, min(ALLOCATION_SLICE_BYTES, self._segment_bytes))
        except LogError:
            self.is_short = True

    def expire(self, now_ns: int) -> None:
        """Remove segments that are older than ``window_s``, and those over the bound of bytes.

        Raises:
            ReplacedWindow: the directory was emptied or has another log.
            LogError: one cannot be removed; a later call tries again.
        """
        oldest_ns = now_ns - int(self._bounds.window_s * _NS)
        bytes_max = self._bounds.window_bytes_max
        while self._full and (self._full[0].ended_ns < oldest_ns or self.window_bytes > bytes_max):
            self._remove_oldest()
            self.is_short = False  # its bounds limit it again

    def close(self) -> None:
        """Close the files; remove the segment that was only allocated.

        Nothing is raised: the next writer removes a segment that is left.
        """
        for each in (self._current, self._next):
            if each is not None:
                os.close(each.descriptor)
        if self._next is not None:
            with suppress(LogError):
                number = self._next.number
                self._directory.remove_segment(self._fixed.term, number, self._page)
        self._current = self._next = None

    def _make_next(self) -> _Allocated:
        if self._next is None:
            number = self.number + 1
            self._next = _Allocated(self._directory.new_segment(number, self._page), number)
        return self._next

    def _allocate(self, target: _Allocated, size: int) -> bool:
        """Allocate ``size`` more bytes; remove old segments until it succeeds.

        None is removed if that could not make enough room, and at the limit of a file's size.
        """
        while True:
            try:
                os.posix_fallocate(target.descriptor, target.size, size)
            except OSError as error:
                self.is_short = True
                if error.errno == errno.EFBIG:  # the limit of a file's size
                    self._segment_bytes = target.size or self._segment_bytes
                    return False
                free_bytes = self._directory.free_bytes()
                if not self._full or size > self._full_bytes + free_bytes:
                    return False
                self._remove_oldest()
                self.shrinks += 1
            else:
                target.size += size
                return True

    def _add_full(self, segment: _Full) -> None:
        self._full.append(segment)
        self._full_bytes += segment.size

    def _remove_oldest(self) -> None:
        oldest = self._full[0]
        self._directory.remove_segment(oldest.term, oldest.number, self._page)
        self._full.popleft()
        self._full_bytes -= oldest.size

    def _write(self, target: _Allocated, data: bytes, offset: int) -> None:
        """Write all of ``data``, or raise WindowFull; a later call writes it again."""
        try:
            written = os.pwrite(target.descriptor, data, offset)
        except OSError as error:
            raise WindowFull(f"{self._directory.path}: {error.strerror}") from None
        if written < len(data):
            raise WindowFull(f"{self._directory.path}: no space left")

    def _inherit(self, now_ns: int) -> None:
        """Take over the segments of earlier terms, each up to the seal of its term.

        All that lies after a seal is removed, and all terms that are not of this log. Segments of
        the own term are left from a log that began in this directory before; those of later terms
        may belong to a successor.
        """
        own_term = self._fixed.term
        segments = [each for each in self._directory.segments() if each[0] <= own_term]
        oldest = segments[0][0] if segments else own_term
        terms = terms_before(self._directory, self._fixed, oldest)
        kept: list[tuple[int, int]] = []
        for term, number in segments:
            if term not in terms or number > terms[term].seal.place.segment:
                self._directory.remove_segment(term, number, self._page)
                continue
            place = terms[term].seal.place
            if number == place.segment:
                self._directory.shorten_segment(term, number, place.offset, self._page)
            kept.append((term, number))
        ends = [*(self._opened_ns(*each, terms, now_ns) for each in kept[1:]), now_ns]
        for (term, number), ended_ns in zip(kept, ends, strict=False):
            size = self._directory.segment_bytes(term, number)
            self._add_full(_Full(term, number, size, ended_ns))
        oldest = kept[0][0] if kept else own_term
        pages = self._directory.terms()
        self._directory.require(self._page)
        for term in pages:
            if term < min(oldest, own_term - TERMS_KEPT_MAX):
                self._directory.remove_page(term)
        self.expire(now_ns)

    def _opened_ns(self, term: int, number: int, terms: dict[int, Sealed], now_ns: int) -> int:
        """Return when a segment was opened; now if that was on the clock of another boot."""
        head = self._directory.head(term, number)
        if head is None or terms[term].fixed.boot != self._fixed.boot:
            return now_ns
        return min(head.opened_ns, now_ns)
