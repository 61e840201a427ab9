"""The lease of the log: which instance is the log writer, and how another one succeeds it.

A writer holds the lease of its *term* by a lock (``flock``) on the term's page, and renews a
heartbeat in it. The lock ends with the process. A candidate takes the lease when

* no page exists, or
* the lock is free: the writer died or released it, or
* the heartbeat did not change for ``lease_s`` of the candidate's own running time, although the
  lock is held: the writer hangs, or
* the term is fenced, but has no successor: another candidate died, or hangs, in a takeover.

A takeover has three steps, and each may be the candidate's last:

1. Fence the term: one word in its page. From then on its writer publishes nothing more.
2. Measure the last whole entry: the *seal* of the term.
3. Publish the page of the next term, which contains the seal, by ``link(2)``. Of several
   candidates one succeeds; the rest discard their measurement. A candidate that hangs before
   this step and runs again later fails here, so it changes nothing.

So no lock is held during a takeover, and no process can block one. No process id is used.
"""

import ctypes
import fcntl
import os
import platform
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import trio

from hedgehogd.domain.limits import (
    LEASE_LOOK_S,
    LEASE_S,
    STORES_VISIBLE_S,
    TERMS_KEPT_MAX,
    WINDOW_READ_BYTES,
)
from hedgehogd.log.directory import Directory
from hedgehogd.log.errors import LostLease, UnusableWindow, reported
from hedgehogd.log.header import NO_SEAL, Fixed, Page, Place, Seal, pack_page
from hedgehogd.log.segment import HEAD_BYTES, Scan, scan

_NS = 1_000_000_000
_BASE32 = "abcdefghijklmnopqrstuvwxyz234567"
_DEPLOYMENT_CHARACTERS = 6
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MEMBARRIER = {"x86_64": 324, "aarch64": 283}  # numbers of the system call
_MEMBARRIER_GLOBAL = 1


class Predecessor(NamedTuple):
    """Where the log ended, as far as it is known without a page: the archive outlives the window.

    Attributes:
        deployment: the id of the deployment; None to draw one.
        term: the last known term; 0 for none.
        last_id: the last known id; 0 for none.
    """

    deployment: str | None = None
    term: int = 0
    last_id: int = 0


class Candidate:
    """An instance that would be the writer; it looks at the lease and takes it when it may.

    Args:
        directory: the window's directory.
        predecessor: the log that the window continues: the window must have its deployment, if
            that is known; a window that begins has larger ids and terms.
        writer: the number of the instance, for operators.
        lease_s: running time without a renewal after which ``look`` returns True, in s.
        monotonic_ns: the clock of heartbeats, in ns.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        predecessor: Predecessor = Predecessor(),  # noqa: B008  # a tuple
        writer: int = 0,
        lease_s: float = LEASE_S,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._directory = directory
        self._predecessor = predecessor
        self._writer = writer
        self._lease_ns = int(lease_s * _NS)
        self._monotonic_ns = monotonic_ns
        self._page: Page | None = None
        self._seen_term = 0
        self._heartbeat = -1
        self._silent_ns = 0
        self._looked_ns = 0

    def close(self) -> None:
        """Close the page that it looks at."""
        if self._page is not None:
            self._page.close()
            self._page = None

    @property
    def term(self) -> int:
        """The term of the page of the last look; 0 without a readable page."""
        return 0 if self._page is None else self._page.fixed.term

    @property
    def begins(self) -> bool:
        """True if the last look found no readable page: ``take`` begins the window."""
        return self._page is None

    @property
    def renewed_ns(self) -> int | None:
        """The last renewal of the term of the last look, on the clock of this process, in ns.

        None if there is no page, or if it is of another boot: the process began after that term.
        """
        page = self._page
        return page.heartbeat_ns if page is not None and page.fixed.boot == _boot() else None

    def follow(self, predecessor: Predecessor) -> None:
        """Continue another predecessor, which was read later; the next look opens the page."""
        self.close()
        self._predecessor = predecessor

    def look(self) -> bool:
        """Return True if ``take`` may be called now; call it every ``LEASE_LOOK_S``.

        Silence of a writer counts only while this process runs too: the time between two looks
        counts for at most a quarter of the lease. After a pause of the whole machine no
        candidate succeeds a writer that was paused as well.

        Raises:
            ReplacedWindow: the directory is no longer at its path.
            UnusableWindow: the window has another format or deployment.
            LogError: the file system refuses a look at the window.
        """
        self._directory.check()
        now_ns = self._monotonic_ns()
        passed_ns = min(now_ns - self._looked_ns, self._lease_ns // 4)
        self._looked_ns = now_ns
        page = self._page
        if page is None or self._directory.has_page(page.fixed.term + 1) or self._is_gone(page):
            page = self._open_newest()
            if page is None:  # no page, or a damaged one
                return True
            self._heartbeat, self._silent_ns, passed_ns = page.heartbeat_ns, 0, 0
        if page.heartbeat_ns != self._heartbeat:
            self._heartbeat, self._silent_ns = page.heartbeat_ns, 0
        else:
            self._silent_ns += passed_ns
        if page.is_fenced or self._silent_ns >= self._lease_ns:
            return True
        with reported(self._directory.path):
            return _is_unlocked(page.descriptor)

    def take(self) -> Page:
        """Take the lease; return the page of the new term, which its owner closes.

        Call it only after ``look`` returned True: the current writer, if any, is fenced.

        Raises:
            LostLease: another candidate took it first, or has begun another log in the directory.
            LogError: the file system refuses the new page. If the current term was fenced by
                then, it has no successor: the next ``look`` of any candidate returns True.
        """
        term = self._seen_term + 1
        with self._directory.new_page() as (descriptor, name):  # before the fence: it may fail
            with reported(self._directory.path):
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # no other process has the file
            fixed = self._end_term(self._page, term)
            self._directory.write_page(descriptor, name, pack_page(fixed, self._monotonic_ns()))
            if not self._directory.publish(name, term):
                raise LostLease(f"another candidate has term {term}")
            if max(self._directory.terms(), default=0) - term > TERMS_KEPT_MAX:
                # This process slept, and the page that the term once had was removed. With fewer
                # later terms, it is the first page of the term, which followers need.
                self._directory.remove_page(term)
                raise LostLease(f"term {term} is long over")
            with reported(self._directory.path):
                page = Page(descriptor, fixed)
        self.close()
        return page

    def _end_term(self, page: Page | None, term: int) -> Fixed:
        """End the current term, if there is one; return the fixed part of the next one's page."""
        if page is None:
            deployment = self._predecessor.deployment or new_deployment()
            seal = NO_SEAL._replace(last_id=self._predecessor.last_id)
            return Fixed(deployment, term, self._writer, _boot(), seal, seal.last_id + 1)
        page.fence()
        make_stores_visible()
        seal = measure(self._directory, page)
        if self._is_gone(page):
            raise LostLease(f"{self._directory.path} was emptied or has another log")
        # After a loss of power the archive may have records that the window has lost.
        first_id_min = max(page.last_id, seal.last_id, self._predecessor.last_id) + 1
        return Fixed(page.fixed.deployment, term, self._writer, _boot(), seal, first_id_min)

    def _is_gone(self, page: Page) -> bool:
        """Return True if the directory was emptied: the log begins again there."""
        return not self._directory.is_in_place(page)

    def _open_newest(self) -> Page | None:
        """Open the page of the newest term; None if there is none, or if it is damaged."""
        self.close()
        terms = self._directory.terms()
        self._seen_term = terms[-1] if terms else 0
        page = self._page = self._directory.page(self._seen_term) if terms else None
        if page is None:
            self._seen_term = max(self._seen_term, self._predecessor.term)
        deployment = self._predecessor.deployment
        if page is not None and deployment not in {None, page.fixed.deployment}:
            raise UnusableWindow(
                f"{self._directory.path} has the log of deployment {page.fixed.deployment}, the"
                f" archive that of {deployment}\n  Expected the archive of this window. If the"
                " archive was replaced, stop all instances and remove the window."
            )
        return page


def new_deployment() -> str:
    """Draw the id of a deployment: 6 characters of base32."""
    return "".join(secrets.choice(_BASE32) for _ in range(_DEPLOYMENT_CHARACTERS))


async def wait_lease(candidate: Candidate) -> Page:
    """Wait until the candidate has the lease; return the page of its term.

    Raises:
        UnusableWindow: the window has another format or deployment.
        LogError: the file system refuses the new page, or the directory was replaced.
    """
    while True:
        if candidate.look():
            with suppress(LostLease):
                return candidate.take()
        await trio.sleep(LEASE_LOOK_S)


def measure(directory: Directory, page: Page) -> Seal:
    """Return the place after the last whole entry of a fenced term, and the id there.

    It starts at the published end: only the last append can lie after it. After another boot the
    published end proves nothing, because bytes may be lost, so it starts at the first segment.
    It ends at the first bytes that are no whole entry; only an end mark leads to the next segment.
    """
    term = page.fixed.term
    seal = Seal(Place(0, 0), page.fixed.seal.last_id)
    if page.fixed.boot == _boot() and page.end.segment:
        seal = Seal(page.end, page.last_id)
    number = max(seal.place.segment, 1)
    if seal.place.segment == 0:
        number = min((n for each, n in directory.segments() if each == term), default=number)
    while directory.head(term, number) is not None:
        offset = seal.place.offset if number == seal.place.segment else HEAD_BYTES
        end, last_id, is_ended = _last_whole(directory, term, number, offset)
        if last_id:
            seal = Seal(Place(number, end), last_id)
        if not is_ended:
            break
        number += 1
    return seal


def _last_whole(directory: Directory, term: int, number: int, offset: int) -> tuple[int, int, bool]:
    """Return the place after the last whole entry from ``offset``, its id, and if a mark follows.

    The id is 0 if no whole entry follows ``offset``.
    """
    descriptor = directory.segment(term, number)
    last_id = 0
    if descriptor is None:
        return offset, last_id, False
    try:
        with reported(directory.path):
            while (found := _scan_at(descriptor, offset)).entries:
                offset += found.end
                *_, last_id = found.entries[-1]
    finally:
        os.close(descriptor)
    return offset, last_id, found.is_ended


def _scan_at(descriptor: int, offset: int) -> Scan:
    found = scan(os.pread(descriptor, WINDOW_READ_BYTES, offset))
    if not found.entries and found.needed:
        found = scan(os.pread(descriptor, found.needed, offset))
    return found


def make_stores_visible() -> None:
    """Return when the fence is visible to all cores, and their earlier appends to this one.

    ``membarrier(2)`` makes every running thread of the machine execute a full barrier, so the
    writer's append needs none (docs/STORE.md). Without that call it waits ``STORES_VISIBLE_S``.
    """
    number = _MEMBARRIER.get(platform.machine())
    if number is None or _syscall()(number, _MEMBARRIER_GLOBAL, 0, 0) != 0:
        time.sleep(STORES_VISIBLE_S)


@cache
def _syscall() -> Callable[..., int]:
    call: Callable[..., int] = ctypes.CDLL(None, use_errno=True).syscall
    return call


@cache
def _boot() -> int:
    """Return the machine's boot as a number below 2^64; 0 if the kernel does not tell it."""
    try:
        return int(_BOOT.read_text().strip().replace("-", "")[:16], 16)
    except (OSError, ValueError):
        return 0


def _is_unlocked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True
