"""A follower: it reads the log from a position, and waits for records without polling the disk.

The writer sends a datagram after each append. A lost one costs at most ``FOLLOWER_POLL_S``.
"""

import secrets
from contextlib import suppress

import trio

from hedgehogd.domain.limits import FOLLOWER_POLL_S, WINDOW_CHECK_S
from hedgehogd.domain.record import Record
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError
from hedgehogd.log.reader import Reader
from hedgehogd.log.wakeups import bind_follower, drain


class Follower:
    """A reader that the writer wakes; the owner calls ``close``.

    Args:
        directory: the window's directory.

    Raises:
        LogError: no writer has begun the window yet, or the socket cannot be bound.
        UnusableWindow: the window has another format.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._reader = Reader(directory)
        try:
            self._socket, self._name = bind_follower(directory)
        except OSError as error:
            self._reader.close()
            raise LogError(f"{directory.path}: {error.strerror}") from None
        self._joined_term = 0
        self._checked_at = trio.current_time()
        self._join()

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
        """Wait until a read after the last one may return records.

        Raises:
            ReplacedWindow: the window's files are missing or replaced.
        """
        while not self._reader.has_more():
            with trio.move_on_after(FOLLOWER_POLL_S):
                await trio.lowlevel.wait_readable(self._socket)
                drain(self._socket)
            self._check()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close all files, and remove the socket."""
        self._directory.remove(self._name)
        with suppress(RuntimeError):  # outside of trio no task waits
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._reader.close()

    def _join(self) -> None:
        """Let the writer of the current term find the socket."""
        self._reader.page.join(secrets.randbits(64))
        self._joined_term = self._reader.term

    def _check(self) -> None:
        if trio.current_time() - self._checked_at >= WINDOW_CHECK_S:
            self._checked_at = trio.current_time()
            self._directory.check(self._reader.page)
