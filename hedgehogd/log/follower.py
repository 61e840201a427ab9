"""A follower: it reads the log from a position, and is woken when the log has grown.

The writer sends a datagram after each append. A lost one costs at most ``FOLLOWER_POLL_S``: a
second task, ``watch``, looks at the header page at that interval. It is a task of its own because
a timeout around each wait costs more than all the rest of a wake-up (30 of 60 µs in trio).
"""

import secrets
from contextlib import ExitStack, closing, suppress

import trio

from hedgehogd.domain.limits import FOLLOWER_POLL_S, WINDOW_CHECK_S
from hedgehogd.domain.record import Record
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError, reported
from hedgehogd.log.reader import Reader
from hedgehogd.log.wakeups import WAKE, bind_follower, connect_follower, drain


class Follower:
    """A reader that the writer wakes; the owner runs ``watch`` in a nursery and calls ``close``.

    Args:
        directory: the window's directory.

    Raises:
        LogError: no writer has begun the window yet, or the socket cannot be bound.
        UnusableWindow: the window has another format.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._is_waiting = False
        self._joined_term = 0
        with ExitStack() as opened, reported(directory.path):
            self._reader = opened.enter_context(closing(Reader(directory)))
            self._socket, self._name = bind_follower(directory)
            opened.callback(self._leave)
            self._own = opened.enter_context(connect_follower(directory, self._name))
            self._join()
            self._opened = opened.pop_all()

    @property
    def reader(self) -> Reader:
        """Its reader, for the deployment, the term and the position."""
        return self._reader

    def read(self, after_id: int, limit: int) -> list[Record]:
        """Return records after an id, as ``Reader.read`` does."""
        records = self._reader.read(after_id, limit)
        if self._reader.term != self._joined_term:
            self._join()
        return records

    async def wait(self) -> None:
        """Wait until a read after the last one may return records, or raise an error.

        Only one task may wait.
        """
        if self._may_read():
            await trio.lowlevel.checkpoint()
            return
        self._is_waiting = True
        try:
            while True:
                await trio.lowlevel.wait_readable(self._socket)
                try:
                    self._socket.recv(1)
                except BlockingIOError:
                    continue
                if self._may_read():
                    return
                drain(self._socket)  # of appends that were read already
                if self._may_read():
                    return
        finally:
            self._is_waiting = False

    async def watch(self) -> None:
        """Wake the task that waits if a datagram was lost, and check the files; for a nursery.

        Raises:
            ReplacedWindow: the window's files are missing or replaced, or another log has begun
                in its directory.
            LogError: the file system refuses a look at them.
        """
        checked_at = trio.current_time()
        while True:
            await trio.sleep(FOLLOWER_POLL_S)
            if self._is_waiting and self._may_read():
                with suppress(OSError):  # full: then the task is awake
                    self._own.send(WAKE)
            if trio.current_time() - checked_at >= WINDOW_CHECK_S:
                checked_at = trio.current_time()
                self._directory.check(self._reader.page)

    def close(self) -> None:
        """Close all files, and remove the socket; no task waits any more.

        Nothing is raised: the writer removes the file of a socket that is left.
        """
        self._opened.close()

    def _leave(self) -> None:
        self._socket.close()
        with suppress(LogError):
            self._directory.remove(self._name)

    def _may_read(self) -> bool:
        """Return True if a read may return records or raise an error."""
        try:
            return self._reader.has_more()
        except LogError:
            return True

    def _join(self) -> None:
        """Let the writer of the current term find the socket."""
        self._reader.page.join(secrets.randbits(64))
        self._joined_term = self._reader.term
