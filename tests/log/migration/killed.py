"""Migrate a store, and kill this process in the N-th system call that changes a file.

python -m tests.log.migration.killed DIRECTORY N
"""

import os
import signal
import sys
from pathlib import Path

from hedgehogd.log.archive.writer import Sizes
from hedgehogd.log.migration import merge
from hedgehogd.log.migration import migrate as migration

_CALLS = ("write", "fsync", "fdatasync", "rename", "replace", "unlink", "ftruncate")


def kill_in_call(number):
    """Replace the calls; the N-th is not made, a write half, then the process is killed."""
    left = number

    def replaced(name, call):
        def killing(*arguments, **options):
            nonlocal left
            left -= 1
            if not left:
                if name == "write":
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return killing

    for name in _CALLS:
        setattr(os, name, replaced(name, getattr(os, name)))


def main():
    merge._CHUNK_BYTES = 5_000
    migration.Sizes = lambda **_: Sizes(10_000, 1e9, 10_000, 1e9)
    kill_in_call(int(sys.argv[2]))
    migration.migrate(Path(sys.argv[1]), lambda part, records: None, print)


if __name__ == "__main__":
    main()
