"""Numbers that rise by one, and the holes between them.

``GapDetector`` believes every number. ``TradeIds`` doubts those that an exchange cannot mean.
"""

from typing import NamedTuple

from hedgehogd.domain.limits import ODD_TRADE_IDS_MAX, TRADE_ID_STEP_MAX


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


class TradeIds:
    """Watch one product's trade ids, and survive those that are not true.

    A number too far above the mark is delivered and the mark stays: one absurd id must not
    turn all that follow into repeats. When numbers that do not fit (too far above, or at or
    below the mark) rise by one often enough in a row, the exchange counts anew, and so do
    we: it set the ids back, or the mark itself was wrong. Nothing is claimed to be missing
    then. A ``last_match`` far below the mark says so at once, because it is the newest trade
    there is; a little below, it comes from a server that is a few trades behind.
    """

    __slots__ = ("_detector", "_odd", "_odd_in_a_row")

    def __init__(self) -> None:
        self._detector = GapDetector()
        self._odd = -1  # the last number that did not fit
        self._odd_in_a_row = 0

    def observe(self, number: int, *, is_newest: bool) -> tuple[bool, Gap | None, str]:
        """Account for one trade id; ``is_newest`` when it came as ``last_match``.

        Returns:
            ``(deliver, gap, oddity)``: as ``GapDetector.observe``, and what deserves a line
            in the log, or an empty text.
        """
        highest = self._detector.highest
        if highest is None or highest < number <= highest + TRADE_ID_STEP_MAX:
            self._odd_in_a_row = 0
            return *self._detector.observe(number), ""
        self._odd_in_a_row = self._odd_in_a_row + 1 if number == self._odd + 1 else 1
        self._odd = number
        is_set_back = is_newest and number < highest - TRADE_ID_STEP_MAX
        if is_set_back or self._odd_in_a_row >= ODD_TRADE_IDS_MAX:
            self._detector = GapDetector()
            self._odd_in_a_row = 0
            return *self._detector.observe(number), f"counts trades anew, from {number}"
        if number > highest:
            return True, None, f"has an odd trade id, {number} after {highest}"
        return False, None, ""
