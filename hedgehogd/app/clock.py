"""The clock of the event loop: it stops while the process does not run.

When a stopped process (SIGSTOP, a debugger, a paused virtual machine) continues, all its
deadlines are in the past: the feed looks silent although its data waits in the socket, and each
subscriber with a backlog looks slow. No peer caused the pause, so the clock leaves it out. All
durations, ages and deadlines are read from ``trio.current_time()``, so one clock is enough.
"""

from collections.abc import Callable
from time import perf_counter

import trio

from hedgehogd.domain.limits import PAUSE_MIN_S


class AwakeClock(trio.abc.Clock):
    """A steady clock that leaves out pauses of the process.

    Trio reads its clock in each turn of the loop, and passes it the length of each sleep before
    the sleep. If the time between two readings exceeds that sleep by more than ``PAUSE_MIN_S``,
    all time above these two was a pause. Some task must always have a deadline, as the keepalives
    have each second: a pause cannot be distinguished from a sleep without a deadline.

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
        """Start the clock; the time before the run is not a pause."""
        self._due = self._read() + PAUSE_MIN_S

    def current_time(self) -> float:
        """Return the time without pauses of the process, in seconds, from an arbitrary origin.

        A pause of up to ``PAUSE_MIN_S`` is not left out.
        """
        now = self._read()
        if now > self._due:
            self.paused_s += now - self._due
        self._due = now + PAUSE_MIN_S
        return now - self.paused_s

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return how long the loop may sleep, in seconds; negative after the deadline.

        A sleep of this length before the next reading does not count as a pause.
        """
        sleep_s = deadline - self.current_time()
        self._due += max(sleep_s, 0.0)
        return sleep_s
