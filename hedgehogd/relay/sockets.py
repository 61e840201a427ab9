"""The unix sockets of the instances: instance N listens on ``DIR/N.sock``.

Only the user and the group that run the instances may connect (mode 0660). No other credential is
checked, and the socket serves operators too. The socket file of a killed instance remains without
a listener; the instance's next start replaces it.
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
    """Return the path of the socket of instance ``number``."""
    return directory / f"{number}{_SUFFIX}"


def numbers_in(directory: Path) -> list[int]:
    """Return the numbers of the instances that have a socket file, ascending, running or not.

    At most ``INSTANCES_MAX`` are returned, the lowest ones.

    Raises:
        OSError: the directory cannot be read.
    """
    names = [path.stem for path in directory.iterdir() if path.suffix == _SUFFIX]
    return sorted(int(name) for name in names if name.isdecimal())[: limits.INSTANCES_MAX]


@contextmanager
def own_socket(directory: Path, number: int) -> Iterator[socket.socket]:
    """Yield the socket of instance ``number``, listening and non-blocking; close it at the end.

    Entering blocks for up to ``_DIAL_S``: the file of an ended instance is replaced. The end
    removes the file, unless another one has replaced it.

    Raises:
        OperatorError: an instance of this number runs already, or the socket cannot be made.
    """
    path = socket_path(directory, number)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale_socket(path, number)
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


def _remove_stale_socket(path: Path, number: int) -> None:
    """Remove the socket file of an instance that has ended, if there is one.

    A file of another kind stays. Blocks for up to ``_DIAL_S``.

    Raises:
        OperatorError: the instance runs, or does not refuse a connection in time.
        OSError: the file cannot be reached or removed.
    """
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
        pass  # the instance runs, and is busy or stopped
    raise OperatorError(
        f"instance {number} runs already: it answers on {path}\n"
        "  Expected a number of its own for each instance (--instance N)."
    )
