"""Numbers that rise by one, and the holes between them.

``GapDetector`` believes every number. ``Numbers`` doubts those that an exchange cannot mean.
"""

from typing import NamedTuple

from hedgehogd.domain.limits import ODD_NUMBERS_MAX, SET_BACK_AFTER_S


class Gap(NamedTuple):
    """Numbers known to be missing, both ends included."""

    first: int
    last: int


class GapDetector:
    """Tell new numbers from repeats, and name the holes between them.

    Sans-I/O: no clock, no socket, no logging. One instance watches one stream,
    for example the trade ids of BTC-USD on the ``matches`` channel.

    The caller passes numbers in arrival order. A number at or below the highest
    one seen is a repeat or a straggler and is not delivered again: hedgehogd
    keeps order and would rather report a gap than reorder a market.
    """

    __slots__ = ("_highest",)

    def __init__(self) -> None:
        self._highest: int | None = None

    @property
    def highest(self) -> int | None:
        """The highest number seen; None before the first."""
        return self._highest

    def observe(self, number: int) -> tuple[bool, Gap | None]:
        """Account for one number.

        Returns:
            ``(deliver, gap)``. ``deliver`` is False for a repeat or straggler.
            ``gap`` is the hole just before ``number``, or None. The first
            number ever seen opens the stream and cannot reveal a gap.
        """
        highest = self._highest
        if highest is not None and number <= highest:
            return False, None
        self._highest = number
        if highest is None or number == highest + 1:
            return True, None
        return True, Gap(highest + 1, number - 1)


class Verdict(NamedTuple):
    """What to do with one number.

    Attributes:
        deliver: False for a repeat or a straggler.
        gap: the hole just before it, or None.
        oddity: what deserves a line in the log, or an empty text.
    """

    deliver: bool
    gap: Gap | None = None
    oddity: str = ""


_DELIVER = Verdict(True)
_REPEAT = Verdict(False)


class _Run:
    """Numbers of one line that do not fit and rise: the first, the last, how many, since when."""

    __slots__ = ("count", "first", "last", "since")

    def __init__(self, first: int, now: float) -> None:
        self.first = self.last = first
        self.count = 1
        self.since = now


class Numbers:
    """Watch one product's trade ids or sequences, and survive those that are not true.

    A number too far above the mark is delivered and the mark stays: one absurd number must
    not turn all that follow into repeats. When far numbers rise often enough in a row on one
    line, by one where none may be left out, the exchange counts anew, and so do we: it set
    the numbers back, or the mark itself was wrong. Then those of the run that were taken for
    repeats are told as a gap.

    A little below the mark a rising run is usual, because a server, or the other of two
    lines, may be behind. It means a set-back only when it has lasted for
    ``SET_BACK_AFTER_S`` and nothing new has come meanwhile.

    A ``last_match`` far below the mark says so at once: it is the newest trade there is.

    Attributes:
        highest: the mark: the highest number believed; None before the first.
    """

    __slots__ = ("_far", "_is_dense", "_runs", "_step_max", "highest")

    def __init__(self, step_max: int, *, is_dense: bool = True) -> None:
        """Watch numbers in which a step of more than ``step_max`` cannot be true.

        Args:
            step_max: the longest step that can be.
            is_dense: whether a number that is left out is missing; a ticker leaves out many.
        """
        self.highest: int | None = None
        self._step_max = step_max
        self._is_dense = is_dense
        self._runs: dict[int, _Run] = {}  # by line
        self._far: list[int] = []  # above the mark and delivered: the other line brings them too

    def hole_before(self, number: int) -> Gap | None:
        """Return the hole that ``number`` would reveal; change nothing."""
        highest = self.highest
        if highest is None or number <= highest + 1 or number > highest + self._step_max:
            return None
        return Gap(highest + 1, number - 1)

    def observe(
        self, number: int, now: float, line: int = 0, *, is_newest: bool = False
    ) -> Verdict:
        """Account for one number.

        Args:
            number: what came.
            now: any clock that rises steadily, in seconds.
            line: of which line; each rises on its own.
            is_newest: True when the exchange says that nothing newer exists.
        """
        highest = self.highest
        if highest is None:
            self.highest = number
            return _DELIVER
        if number <= highest or number > highest + self._step_max:
            return self._doubt(number, highest, now, line, is_newest=is_newest)
        self.highest = number
        if self._runs:
            self._runs.clear()
        if number == highest + 1 or not self._is_dense:
            return _DELIVER
        return Verdict(True, Gap(highest + 1, number - 1))

    def skip_to(self, number: int) -> None:
        """What is missing up to ``number`` has been told."""
        if self.highest is None or number > self.highest:
            self.highest = number

    def _doubt(
        self, number: int, highest: int, now: float, line: int, *, is_newest: bool
    ) -> Verdict:
        """Judge a number that does not come next."""
        run = self._runs.get(line)
        if run is not None and number == run.last:
            return _REPEAT
        if run is None or not run.last < number <= (run.last + 1 if self._is_dense else number):
            run = self._runs[line] = _Run(number, now)
        else:
            run.last = number
            run.count += 1
        is_far = not highest - self._step_max <= number <= highest
        is_run = run.count >= ODD_NUMBERS_MAX and (is_far or now - run.since >= SET_BACK_AFTER_S)
        if is_run or (is_newest and number < highest - self._step_max):
            self.highest = number
            self._runs.clear()
            is_told = number in self._far
            self._far.clear()
            dropped = Gap(run.first, number - 1)
            is_gap = self._is_dense and number <= highest and run.first < number
            return Verdict(not is_told, dropped if is_gap else None, f"counts anew, from {number}")
        if number <= highest or number in self._far:
            return _REPEAT
        self._far = [*self._far[1 - ODD_NUMBERS_MAX :], number]
        return Verdict(True, None, f"has an odd number, {number} after {highest}")
