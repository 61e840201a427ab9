"""The clock of the event loop: it stops while the process does not run.

A process that was stopped (SIGSTOP, a debugger, a paused virtual machine) finds all its
deadlines in the past when it continues: the feed looks silent although its data waits in the
socket, and each subscriber with a backlog looks slow. No peer is to blame for the time in
which this process did not run, so that time does not count. Durations, ages and deadlines
are all read from ``trio.current_time()``, so one clock settles it for all of them.
"""

from collections.abc import Callable
from time import perf_counter

import trio

from hedgehogd.domain.limits import PAUSE_MIN_S


class AwakeClock(trio.abc.Clock):
    """A steady clock that skips the time in which nothing read it.

    Trio reads its clock in each turn of the loop, and says before it sleeps for how long. What
    passes between two readings beyond that sleep and ``PAUSE_MIN_S`` was a pause. Some task has to
    have a deadline always, as the keepalives do each second: a sleep without an end cannot be
    told from a pause.

    Args:
        read: a steady clock in seconds.

    Attributes:
        paused_s: the pauses so far, in seconds.
    """

    def __init__(self, read: Callable[[], float] = perf_counter) -> None:
        self.paused_s = 0.0
        self._read = read
        self._due = read() + PAUSE_MIN_S  # a later reading comes after a pause

    def start_clock(self) -> None:
        """Begin: the time before the run is no pause."""
        self._due = self._read() + PAUSE_MIN_S

    def current_time(self) -> float:
        """Return the time in which the process ran, in seconds; the beginning is arbitrary."""
        now = self._read()
        if now > self._due:
            self.paused_s += now - self._due
        self._due = now + PAUSE_MIN_S
        return now - self.paused_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long the loop may sleep, in seconds."""
        sleep_s = deadline - self.current_time()
        self._due += max(sleep_s, 0.0)
        return sleep_s
