"""Wake-ups: the writer sends one datagram to each follower after each append.

A follower binds a datagram socket in the window's directory. The datagram has no content: the
follower reads the header page. A lost one costs at most ``FOLLOWER_POLL_S``, so nothing is
repeated, and a full socket is left alone: its follower is awake.
"""

import socket
from contextlib import suppress

from hedgehogd.domain.limits import FOLLOWERS_MAX
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LogError

WAKE = b"\0"
"""The content of each datagram: none."""


class Wakeups:
    """The writer's connections to the followers' sockets; the owner calls ``close``.

    No method raises an error of the file system: a follower without a connection polls, and the
    file of a dead one is removed later.

    Args:
        directory: the window's directory.
    """

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._sockets: dict[str, socket.socket] = {}

    def __len__(self) -> int:
        """Return the number of followers that are woken."""
        return len(self._sockets)

    def find_followers(self) -> None:
        """Connect to followers that joined, and forget those that left; at most FOLLOWERS_MAX.

        A socket that refuses belonged to a process that died; its file is removed.
        """
        try:
            names = self._directory.followers()
        except LogError:
            return
        for name in self._sockets.keys() - names:
            self._sockets.pop(name).close()
        for name in names:
            if name not in self._sockets and len(self._sockets) < FOLLOWERS_MAX:
                self._connect(name)

    def send(self) -> None:
        """Send one datagram to each follower."""
        dead: list[str] = []
        for name, sock in self._sockets.items():
            try:
                sock.send(WAKE)
            except BlockingIOError:
                continue
            except ConnectionError:  # its process died
                dead.append(name)
            except OSError:  # no memory for it now
                continue
        for name in dead:
            self._sockets.pop(name).close()
            self._remove(name)

    def close(self) -> None:
        """Close all connections."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def _connect(self, name: str) -> None:
        try:
            self._sockets[name] = connect_follower(self._directory, name)
        except ConnectionRefusedError:
            self._remove(name)
        except OSError:
            pass

    def _remove(self, name: str) -> None:
        with suppress(LogError):
            self._directory.remove(name)


def bind_follower(directory: Directory) -> tuple[socket.socket, str]:
    """Return a follower's socket, non-blocking, and its name in the directory.

    Raises:
        OSError: it cannot be bound.
    """
    name = directory.new_follower()
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind(directory.socket_path(name))
    except OSError:
        sock.close()
        raise
    return sock, name


def connect_follower(directory: Directory, name: str) -> socket.socket:
    """Return a non-blocking socket whose datagrams reach a follower's.

    Raises:
        OSError: it cannot be connected; ConnectionRefusedError if the follower's process died.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(directory.socket_path(name))
    except OSError:
        sock.close()
        raise
    return sock


def drain(sock: socket.socket) -> None:
    """Read all datagrams that wait."""
    with suppress(BlockingIOError):
        while True:
            sock.recv(1)
