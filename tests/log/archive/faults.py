"""Calls of the operating system that fail: the n-th one, or all from the n-th on."""

import errno
import os
from pathlib import Path

_NAMES = (
    "fchmod", "fdatasync", "fstat", "fsync", "ftruncate", "lseek", "mkdir", "open", "pread",
    "rename", "replace", "scandir", "stat", "truncate", "unlink", "write",
)  # fmt: skip
_SYNCS = {"fdatasync", "fsync"}  # these tests need no disk


class Faults:
    """Let calls fail below one directory, which must be the only one in use.

    Args:
        monkeypatch: the fixture of pytest.

    Attributes:
        calls: number of calls so far.
        failed: the names of the calls that failed.
    """

    def __init__(self, monkeypatch):
        self.calls = 0
        self.failed = []
        self._range = range(0)
        self._errno = errno.EIO
        for name in _NAMES:
            monkeypatch.setattr(os, name, self._failing(name, getattr(os, name)))

    def fail(self, begin, count=1, errno_=errno.ENOSPC):
        """Let ``count`` calls fail from the one with number ``begin`` on, counted from now."""
        self.calls = 0
        self.failed = []
        self._range = range(begin, begin + count)
        self._errno = errno_

    def _failing(self, name, real):
        def call(*arguments, **options):
            number, self.calls = self.calls, self.calls + 1
            if number in self._range:
                self.failed.append(name)
                if name == "write":  # a full disk accepts a part
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(self._errno, os.strerror(self._errno))
            return None if name in _SYNCS else real(*arguments, **options)

        return call


def open_files():
    """Return the number of files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def sizes(directory):
    """Return the size of each file in ``directory`` by its name."""
    return {path.name: path.stat().st_size for path in Path(directory).iterdir()}
