"""PID namespaces for the crash harness, by the system calls (root)."""

import ctypes
import os
import signal

_CLONE_NEWNS, _CLONE_NEWPID = 0x00020000, 0x20000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def enter() -> None:
    """The next child of this process is process 1 of a new PID namespace."""
    _check(_libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS))


def mount_proc() -> None:
    """Mount ``/proc`` of the new namespace; for process 1."""
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None))
    _check(_libc.mount(b"proc", b"/proc", b"proc", 0, None))


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
