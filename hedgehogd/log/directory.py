"""The directory of a window: the names of its files, and how they are opened and published.

::

    term-7               the header page of term 7
    segment-7-1          the first segment of term 7
    follower-3f9a…       the datagram socket of a follower
    new-51c0…            a page that is not published yet

All files are opened relative to one descriptor of the directory. So an instance whose directory
was moved away or replaced never mixes the files of two windows; ``check`` notices it.

In a directory that was emptied the log begins again, with names that the old log had. It begins
there only after the page of each term of the old log was removed. So while an instance's own page
is under its name, all files of its term and of earlier ones belong to its log: ``require`` checks
that. It is called after a file is opened, which is then known to be the log's, and right before a
segment is created or removed.
"""

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hedgehogd.log.errors import LogError, ReplacedWindow, UnusableWindow, reported
from hedgehogd.log.file_system import make_directory, remote_file_system
from hedgehogd.log.header import PAGE_BYTES, Fixed, Page, unpack_page
from hedgehogd.log.segment import HEAD_BYTES, SegmentHead, unpack_head

FILE_MODE = 0o640
_TERM = re.compile(r"term-([1-9][0-9]{0,17})")
_SEGMENT = re.compile(r"segment-([1-9][0-9]{0,17})-([1-9][0-9]{0,8})")
_FOLLOWER = "follower-"
# Faults of a directory that a later attempt meets again.
_PERMANENT = {errno.EACCES, errno.EEXIST, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.EROFS}
_NEW = "new-"


class Directory:
    """One window's directory; the owner calls ``close``.

    Args:
        path: the directory; it is made if it does not exist.

    Raises:
        UnusableWindow: the directory cannot be made or opened, or is on a remote file system,
            where neither shared memory nor locks reach the other machine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            make_directory(path)
            device = path.stat().st_dev
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            known = UnusableWindow if error.errno in _PERMANENT else LogError
            raise known(f"{path}: {error.strerror}") from None
        if kind := remote_file_system(device):
            self.close()
            raise UnusableWindow(f"{path} is on {kind}; the log needs a local file system")

    def close(self) -> None:
        """Close the directory; open files stay open."""
        os.close(self._descriptor)

    def names(self) -> list[str]:
        """Return the names of all files, in no order; callable from any thread.

        A descriptor has one place in the list of names, which all its readers move. So each call
        opens a descriptor of its own.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        with reported(self.path):
            descriptor = os.open(".", flags, dir_fd=self._descriptor)
            try:
                return os.listdir(descriptor)  # noqa: PTH208  # of a descriptor, not of a path
            finally:
                os.close(descriptor)

    def terms(self) -> list[int]:
        """Return the terms that have a page, in order."""
        return sorted(int(found[1]) for found in map(_TERM.fullmatch, self.names()) if found)

    def segments(self) -> list[tuple[int, int]]:
        """Return term and number of each segment file, in order."""
        matches = map(_SEGMENT.fullmatch, self.names())
        return sorted((int(found[1]), int(found[2])) for found in matches if found)

    def followers(self) -> list[str]:
        """Return the names of the followers' sockets."""
        return [name for name in self.names() if name.startswith(_FOLLOWER)]

    def new_follower(self) -> str:
        """Return a new name for a follower's socket."""
        return f"{_FOLLOWER}{secrets.token_hex(8)}"

    def socket_path(self, name: str) -> str:
        """Return the path of a socket, short enough for its address (108 bytes)."""
        return f"/proc/self/fd/{self._descriptor}/{name}"

    def page(self, term: int) -> Page | None:
        """Open a term's page; None if it does not exist or is damaged. The caller closes it.

        Raises:
            UnusableWindow: it has another format.
            LogError: it cannot be opened, read or mapped.
        """
        name = _term_name(term)
        try:
            descriptor = self._open(name, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            with reported(self.path / name):
                fixed = unpack_page(os.pread(descriptor, PAGE_BYTES, 0), str(self.path / name))
                if fixed is not None and fixed.term == term:
                    return Page(descriptor, fixed)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def fixed(self, term: int) -> Fixed | None:
        """Return the fixed part of a term's page; None if it does not exist or is damaged.

        Raises:
            UnusableWindow: it has another format.
            LogError: it cannot be opened or read.
        """
        page = self.page(term)
        if page is None:
            return None
        page.close()
        return page.fixed

    @contextmanager
    def new_page(self) -> Iterator[tuple[int, str]]:
        """Allocate an unpublished page; yield its descriptor and name. Its name is removed after.

        The descriptor is closed if an error leaves the block; else its new owner closes it. A name
        that cannot be removed is left to the next writer.

        Raises:
            LogError: there is no space for it.
        """
        name = f"{_NEW}{secrets.token_hex(8)}"
        descriptor = self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self.write_page(descriptor, name, bytes(PAGE_BYTES))
            yield descriptor, name
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            with suppress(LogError):
                self.remove(name)

    def write_page(self, descriptor: int, name: str, data: bytes) -> None:
        """Write all bytes of an unpublished page.

        Raises:
            LogError: the file system does not accept them.
        """
        with reported(self.path / name):
            written = os.pwrite(descriptor, data, 0)
        if written < len(data):
            raise LogError(f"{self.path / name}: no space left")

    def has_page(self, term: int) -> bool:
        """Return True if a term has a page."""
        return self._status(_term_name(term)) is not None

    def publish(self, name: str, term: int) -> bool:
        """Give an unpublished page its name; return False if the term has a page already.

        ``link(2)`` is atomic and never replaces a file: of all candidates for a term, one succeeds.

        Raises:
            LogError: the file system refuses the name, for example without space for it.
        """
        here = self._descriptor
        with reported(self.path / _term_name(term)):
            try:
                os.link(name, _term_name(term), src_dir_fd=here, dst_dir_fd=here)
            except (FileExistsError, FileNotFoundError):  # not found: the next writer removed it
                return False
        return True

    def segment(self, term: int, number: int) -> int | None:
        """Open a segment for reading; None if it does not exist. The caller closes it."""
        try:
            return self._open(_segment_name(term, number), os.O_RDONLY)
        except FileNotFoundError:
            return None

    def new_segment(self, number: int, page: Page) -> int:
        """Create a segment of a page's term; return its descriptor, which the caller closes.

        Raises:
            ReplacedWindow: the page is not in place, or the segment exists: it is another log's.
            LogError: the file system refuses it.
        """
        self.require(page)
        name = _segment_name(page.fixed.term, number)
        try:
            return self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            raise ReplacedWindow(f"{self.path / name} is another log's") from None

    def head(self, term: int, number: int) -> SegmentHead | None:
        """Return a segment's head; None if the segment is missing, not opened yet or damaged."""
        descriptor = self.segment(term, number)
        if descriptor is None:
            return None
        try:
            with reported(self.path / _segment_name(term, number)):
                head = unpack_head(os.pread(descriptor, HEAD_BYTES, 0))
        finally:
            os.close(descriptor)
        return head if head and (head.term, head.number) == (term, number) else None

    def segment_bytes(self, term: int, number: int) -> int:
        """Return the size of a segment file; 0 if it does not exist."""
        status = self._status(_segment_name(term, number))
        return 0 if status is None else status.st_size

    def shorten_segment(self, term: int, number: int, size: int, page: Page) -> None:
        """Remove all of a segment after ``size`` bytes; nothing happens if it is missing.

        Raises:
            ReplacedWindow: ``page``, the caller's, is not in place; the segment is unchanged.
            LogError: the file system refuses it.
        """
        with suppress(FileNotFoundError):
            descriptor = self._open(_segment_name(term, number), os.O_RDWR)
            try:
                self.require(page)
                with reported(self.path / _segment_name(term, number)):
                    if os.fstat(descriptor).st_size > size:
                        os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)

    def remove_segment(self, term: int, number: int, page: Page) -> None:
        """Remove a segment; instances that read it keep it until they close it.

        Raises:
            ReplacedWindow: ``page``, the caller's, is not in place; nothing is removed.
            LogError: the file system refuses it.
        """
        self.require(page)
        self.remove(_segment_name(term, number))

    def remove_page(self, term: int) -> None:
        """Remove a page."""
        self.remove(_term_name(term))

    def remove_new_pages(self) -> None:
        """Remove unpublished pages: those of candidates that died, or that will fail."""
        for name in self.names():
            if name.startswith(_NEW):
                self.remove(name)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens if it is missing.

        Raises:
            LogError: the file system refuses it.
        """
        with reported(self.path / name), suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def free_bytes(self) -> int:
        """Return the bytes that are free on the directory's file system."""
        with reported(self.path):
            status = os.fstatvfs(self._descriptor)
        return status.f_bavail * status.f_frsize

    def is_in_place(self, page: Page) -> bool:
        """Return True if a page is under its name in this directory."""
        found = self._status(_term_name(page.fixed.term))
        with reported(self.path):
            return found is not None and os.path.samestat(found, os.fstat(page.descriptor))

    def require(self, page: Page) -> None:
        """Raise ReplacedWindow if a page is not under its name in this directory."""
        if not self.is_in_place(page):
            name = _term_name(page.fixed.term)
            raise ReplacedWindow(f"{self.path / name} is missing or another log's")

    def check(self, page: Page | None = None) -> None:
        """Compare the directory, and a page, at their paths with the open ones.

        A newer term of the same log begins with the fence of the page. If there is one without
        that fence, its candidate could not read the page, and has begun another log.

        Raises:
            ReplacedWindow: one of them is missing, or another one is there, or another log is.
            LogError: the file system refuses a look.
        """
        self._check(self.path, self._descriptor)
        if page is None:
            return
        self._check(self.path / _term_name(page.fixed.term), page.descriptor)
        newest = max(self.terms(), default=0)  # before the fence is read, which is written first
        if newest != page.fixed.term and not page.is_fenced:
            raise ReplacedWindow(f"{self.path} has the terms of another log")

    def _check(self, path: Path, descriptor: int) -> None:
        try:
            is_same = os.path.samestat(path.stat(), os.fstat(descriptor))
        except OSError as error:
            raise ReplacedWindow(f"{path}: {error.strerror}") from None
        if not is_same:
            raise ReplacedWindow(f"{path} was replaced")

    def _status(self, name: str) -> os.stat_result | None:
        """Return the status of a file, or None if it does not exist."""
        with reported(self.path / name):
            try:
                return os.stat(name, dir_fd=self._descriptor)
            except FileNotFoundError:
                return None

    def _open(self, name: str, flags: int) -> int:
        """Open a file.

        Raises:
            FileNotFoundError: it is missing.
            FileExistsError: it exists, and was to be created.
            LogError: any other fault.
        """
        try:
            descriptor = os.open(
                name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE, dir_fd=self._descriptor
            )
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise LogError(f"{self.path / name}: {error.strerror}") from None
        if flags & os.O_CREAT:
            try:
                with reported(self.path / name):
                    os.fchmod(descriptor, FILE_MODE)  # for any umask
            except LogError:
                os.close(descriptor)
                with suppress(LogError):
                    self.remove(name)
                raise
        return descriptor


def _term_name(term: int) -> str:
    return f"term-{term}"


def _segment_name(term: int, number: int) -> str:
    return f"segment-{term}-{number}"
