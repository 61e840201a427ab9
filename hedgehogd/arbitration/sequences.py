"""Gaps, repeats and restarts in trade ids and sequences, which rise from message to message."""

from typing import NamedTuple

from hedgehogd.domain.gap import Gap
from hedgehogd.domain.instant import time_of
from hedgehogd.domain.limits import ODD_NUMBERS_MAX, SET_BACK_AFTER_S


class Verdict(NamedTuple):
    """The decision about one number.

    Attributes:
        deliver: False for a repeat, for a heartbeat's number, and for a number below the mark
            without a restart.
        gap: the gap just before the number, or None.
        oddity: a text for the log about an unexpected number; empty for none.
        restart: the number at which delivery continues because the exchange restarted its count;
            None for no restart.
    """

    deliver: bool
    gap: Gap | None = None
    oddity: str = ""
    restart: int | None = None


_DELIVER = Verdict(True)
_REPEAT = Verdict(False)


class _Run:
    """A run: rising numbers of one line that do not follow the highest number.

    Attributes:
        first: the first number of the run.
        last: the last number.
        count: how many numbers the run has.
        since: when the run began or was last restarted, on the caller's clock, seconds.
        begun: the message that arrived at ``since``.
        payload: the message that has the last number.
    """

    __slots__ = ("begun", "count", "first", "last", "payload", "since")

    def __init__(self, first: int, payload: bytes, now: float) -> None:
        self.first = self.last = first
        self.count = 1
        self.since = now
        self.begun = self.payload = payload


class Numbers:
    """Watch one product's trade ids or sequences, and tolerate numbers that cannot be right.

    The *mark* is the highest number accepted since the last restart of the count. A number too far
    above the mark is delivered and the mark stays: one implausible number must not turn all later
    numbers into repeats. When enough far numbers rise in a row on one line (by one where no number
    may be left out), the exchange has restarted its count, or the mark itself was wrong, and the
    mark moves to them. Numbers of that run that were dropped as repeats are then reported as a gap.

    A rising run a little below the mark is usual, because a server, or the other of two
    lines, may lag. The exchange's own times distinguish a lagging server from a set-back: a lagging
    server sends messages that are older than the message at the mark. A run that is not older
    is a set-back when it has lasted for ``SET_BACK_AFTER_S`` without a new number above the mark.
    On a small market one number is a run when the heartbeats confirm it.

    A ``last_match`` is the newest trade there is. One far below the mark is a set-back at once, and
    so is one below the mark that is newer than the message at the mark.

    Attributes:
        highest: the mark; None before the first number.
    """

    __slots__ = ("_far", "_is_dense", "_mark", "_runs", "_step_max", "highest")

    def __init__(self, step_max: int, *, is_dense: bool = True) -> None:
        """Watch numbers in which a step of more than ``step_max`` is implausible.

        Args:
            step_max: the largest plausible step.
            is_dense: True when a number left out is missing; a ticker leaves out many.
        """
        self.highest: int | None = None
        self._mark = b""  # the message at the mark
        self._step_max = step_max
        self._is_dense = is_dense
        self._runs: dict[int, _Run] = {}  # by line
        self._far: list[int] = []  # far above the mark, delivered; the other line repeats them

    def gap_before(self, number: int) -> Gap | None:
        """Return the gap that ``number`` would reveal, or None; change nothing."""
        highest = self.highest
        if highest is None or number <= highest + 1 or number > highest + self._step_max:
            return None
        return Gap(highest + 1, number - 1)

    def observe(
        self,
        number: int,
        now: float,
        line: int = 0,
        payload: bytes = b"",
        *,
        is_newest: bool = False,
    ) -> Verdict:
        """Account for the number of one message; return the decision about the message.

        Args:
            number: the number of a message.
            now: any clock that rises steadily, in seconds.
            line: the line of the message; runs are per line.
            payload: the message, for the exchange's time in it; may be empty.
            is_newest: True when the exchange states that no newer number exists.
        """
        highest = self.highest
        if highest is None:
            self.highest, self._mark = number, payload
            return _DELIVER
        if number <= highest or number > highest + self._step_max:
            return self._observe_outlier(number, highest, now, line, payload, is_newest=is_newest)
        self.highest, self._mark = number, payload
        if self._runs:
            self._runs.clear()
        if number == highest + 1 or not self._is_dense:
            return _DELIVER
        return Verdict(True, Gap(highest + 1, number - 1))

    def skip_to(self, number: int) -> None:
        """Move the mark up to ``number``, never down: the gap up to it has been reported."""
        if self.highest is None or number > self.highest:
            self.highest, self._mark = number, b""

    def confirm(self, number: int, now: float, line: int = 0) -> Verdict:
        """Account for a heartbeat that states ``number`` as the newest; it delivers nothing.

        The decision is a restart if the heartbeat confirms a run on its line that has lasted, and
        moves the mark down to the run. A heartbeat alone proves no set-back: a lagging server
        states old numbers too.
        """
        run, highest = self._runs.get(line), self.highest
        if run is None or highest is None or not run.last <= number < highest:
            return _REPEAT
        if not self._has_lasted(run, now):
            return _REPEAT
        self.highest, self._mark = run.last, run.payload
        self._runs.clear()
        self._far.clear()
        dropped = Gap(run.first, run.last) if self._is_dense else None
        return Verdict(False, dropped, f"restarts at {run.last + 1}", run.last + 1)

    def _has_lasted(self, run: _Run, now: float) -> bool:
        """Say whether a run has lasted long enough, and did not begin before the mark's message.

        A run that began with an older message than the mark's is restarted at its last message: a
        lagging server catches up.
        """
        if now - run.since < SET_BACK_AFTER_S:
            return False
        if self._ages(run.begun) >= 0:
            return True
        run.since, run.begun = now, run.payload
        return False

    def _ages(self, payload: bytes) -> int:
        """Return 1 when a message is newer than the one at the mark, -1 when older, else 0.

        The result is 0 too when one of the two has no readable time.
        """
        time, mark = time_of(payload), time_of(self._mark)
        return 0 if time is None or mark is None else (time > mark) - (time < mark)

    def _observe_outlier(
        self,
        number: int,
        highest: int,
        now: float,
        line: int,
        payload: bytes,
        *,
        is_newest: bool,
    ) -> Verdict:
        """Account for a number that is not above the mark, or too far above it."""
        if number == highest and payload and payload == self._mark:
            self._runs.pop(line, None)  # a lagging server has reached the mark
            return _REPEAT
        run = self._runs.get(line)
        if run is not None and number == run.last:
            return _REPEAT
        if run is None or not run.last < number <= (run.last + 1 if self._is_dense else number):
            run = self._runs[line] = _Run(number, payload, now)
        else:
            run.last, run.payload = number, payload
            run.count += 1
        is_far = not highest - self._step_max <= number <= highest
        if is_far:
            is_set_back = run.count >= ODD_NUMBERS_MAX or (is_newest and number < highest)
        elif is_newest and number < highest:
            is_set_back = self._ages(payload) > 0
        else:
            is_set_back = self._has_lasted(run, now)
        if is_set_back:
            self.highest, self._mark = number, payload
            self._runs.clear()
            is_delivered = number in self._far
            self._far.clear()
            dropped = Gap(run.first, number - 1)
            is_gap = self._is_dense and number <= highest and run.first < number
            return Verdict(
                not is_delivered, dropped if is_gap else None, f"restarts at {number}", number
            )
        if number <= highest or number in self._far:
            return _REPEAT
        self._far = [*self._far[1 - ODD_NUMBERS_MAX :], number]
        return Verdict(True, None, f"has an implausible number, {number} after {highest}")
