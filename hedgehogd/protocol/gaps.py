"""Numbers that rise by one, and the holes between them."""

from typing import NamedTuple


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
