"""Gaps, repeats and resets in the trade ids or sequences of one channel of a product.

The numbers rise from message to message: by one if they are *dense*, as trade ids and the sequences
of ``full`` and ``level3`` are, or by more, as the sequences of ``ticker`` do.

The *mark* is the highest number accepted since the last reset. A number above it is delivered and
becomes the mark; dense numbers between the two are a gap. A number at or below the mark is a repeat
and dropped. A number too far above the mark is delivered once and logged, and the mark stays: one
implausible number must not turn all later numbers into repeats.

The numbers of one line that are not above the mark, or too far above it, are a *run* while they
rise (by one, if dense). A number that becomes the mark ends all runs. The mark moves to the last
number of a run, up or down, when the run proves a *reset*: the exchange has restarted its numbers,
or the mark itself was wrong.

* A run too far above or below the mark proves it when it has ``ODD_NUMBERS_MAX`` numbers.
* A run a little below the mark is usual, because a server, or the other of two lines, may lag. The
  exchange's own times distinguish a lagging server from a reset: a lagging server sends messages
  that are older than the message at the mark. A run that did not begin with an older message proves
  a reset when it has lasted for ``SET_BACK_AFTER_S``.
* On a small market a run may be one number. A heartbeat proves the reset when it states a number
  below the mark and not below the run, and the run has lasted for as long.
* A ``last_match`` is the newest trade there is. One too far below the mark proves a reset at once,
  and so does one below the mark that is newer than the message at the mark.

Dense numbers of the run that were dropped as repeats before are reported as a gap then.
"""

from typing import NamedTuple

from hedgehogd.domain.gap import Gap
from hedgehogd.domain.instant import time_of
from hedgehogd.domain.limits import ODD_NUMBERS_MAX, SET_BACK_AFTER_S


class Verdict(NamedTuple):
    """The decision about one number.

    Attributes:
        deliver: False for a number delivered before, for one at or below the mark without a reset,
            and for a heartbeat's number.
        gap: the gap to report before the message, or None.
        oddity: a text for the log about an unexpected number; empty for none.
        restart: the number at which delivery continues after a reset; None for no reset.
    """

    deliver: bool
    gap: Gap | None = None
    oddity: str = ""
    restart: int | None = None


_DELIVER = Verdict(True)
_REPEAT = Verdict(False)


class _Run:
    """A run: rising numbers of one line that are not above the mark, or too far above it.

    Attributes:
        first: the first number of the run.
        last: the last number.
        count: how many numbers the run has.
        since: the time from which it is measured how long the run has lasted: its beginning, or
            later (``_has_lasted``). On the caller's clock, seconds.
        begun: the last message of the run at ``since``.
        payload: the message that has the last number.
    """

    __slots__ = ("begun", "count", "first", "last", "payload", "since")

    def __init__(self, first: int, payload: bytes, now: float) -> None:
        self.first = self.last = first
        self.count = 1
        self.since = now
        self.begun = self.payload = payload


class Numbers:
    """The numbers of one channel of a product, on all lines: see the module.

    Attributes:
        highest: the mark; None before the first number.
    """

    __slots__ = ("_far", "_is_dense", "_mark", "_runs", "_step_max", "highest")

    def __init__(self, step_max: int, *, is_dense: bool = True) -> None:
        """Watch numbers in which a step of more than ``step_max`` is implausible.

        Args:
            step_max: the largest plausible step; a number further from the mark is too far.
            is_dense: True when a number left out is missing; a ticker leaves out many.
        """
        self.highest: int | None = None
        self._mark = b""  # the message at the mark; empty if the mark was reported missing
        self._step_max = step_max
        self._is_dense = is_dense
        self._runs: dict[int, _Run] = {}  # by line
        self._far: list[int] = []  # too far above the mark, delivered; the other line repeats them

    def gap_before(self, number: int) -> Gap | None:
        """Return the gap that ``number`` would reveal; change nothing.

        None if ``number`` leaves out no number above the mark, if it is too far above the mark, and
        before the first number.
        """
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
        """Record the number of one message; return the decision about the message.

        Args:
            number: the number of a message.
            now: any clock that rises steadily, in seconds.
            line: the line of the message; each line has a run of its own.
            payload: the message, for the exchange's time in it; may be empty.
            is_newest: True for a ``last_match``: no newer number exists.
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
        """Raise the mark to ``number``: the numbers up to it have been reported missing.

        Without a mark, set it. Do nothing if ``number`` is not above the mark.
        """
        if self.highest is None or number > self.highest:
            self.highest, self._mark = number, b""

    def confirm(self, number: int, now: float, line: int = 0) -> Verdict:
        """Return the decision about a heartbeat that states ``number`` as the newest.

        It is a reset if ``number`` is below the mark and not below the last number of a run of the
        same line, and this run has lasted: the mark moves down to that last number. A heartbeat
        alone proves no reset: a lagging server states old numbers too. ``deliver`` is False.
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
        """Say whether a run has lasted for ``SET_BACK_AFTER_S``, and is not of a lagging server.

        If it has lasted, but began with a message older than the message at the mark, the result is
        False, and the run is timed again from its last message: the server may have caught up.
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
        """Record a number that is not above the mark, or too far above it; return the decision."""
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
