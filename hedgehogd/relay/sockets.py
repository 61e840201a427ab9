"""The unix sockets by which instances find each other: ``DIR/N.sock`` is instance N's.

Only the user and the group that run the instances may connect (mode 0660); there is no other
credential, and operators are served there too. A socket whose instance was
killed stays behind; nobody listens on it, and the instance's next start replaces it.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hedgehogd.domain import limits
from hedgehogd.domain.errors import OperatorError

_SUFFIX = ".sock"
_USER_AND_GROUP = 0o117
_DIAL_S = 1.0


def socket_path(directory: Path, number: int) -> Path:
    """Return where instance ``number`` listens."""
    return directory / f"{number}{_SUFFIX}"


def numbers_in(directory: Path) -> list[int]:
    """Return the numbers of the instances that have a socket, ascending, running or not.

    Raises:
        OSError: the directory cannot be read.
    """
    names = [path.stem for path in directory.iterdir() if path.suffix == _SUFFIX]
    return sorted(int(name) for name in names if name.isdecimal())[: limits.INSTANCES_MAX]


@contextmanager
def own_socket(directory: Path, number: int) -> Iterator[socket.socket]:
    """Listen on the socket of instance ``number``; at the end remove it, if it is ours still.

    Raises:
        OperatorError: an instance of this number runs already, or the socket cannot be made.
    """
    path = socket_path(directory, number)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _make_way(path, number)
            before = os.umask(_USER_AND_GROUP)
            try:
                listener.bind(str(path))
            finally:
                os.umask(before)
            listener.listen(limits.LISTEN_BACKLOG_MAX)
            listener.setblocking(False)
            ours = path.stat().st_ino
        except OSError as error:
            raise OperatorError(
                f"cannot make {path}: {error.strerror or error}\n"
                "  Expected --runtime-dir to be a directory that hedgehogd's user may write to."
            ) from None
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.stat().st_ino == ours:
                    path.unlink()


def _make_way(path: Path, number: int) -> None:
    """Remove what a killed instance left behind; a living one is not to be robbed."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_DIAL_S)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        if path.is_socket():
            path.unlink()
        return
    except (TimeoutError, BlockingIOError):
        pass  # it is there, and busy or stopped
    raise OperatorError(
        f"instance {number} runs already: it answers on {path}\n"
        "  Expected a number of its own for each instance (--instance N)."
    )
