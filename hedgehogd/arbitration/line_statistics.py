"""Which of two lines is first, by how much, and what that has saved.

Every number of a product comes on both lines. Which line brought it first is counted for
every one; by how much, for one at a time: a number is remembered until the other line
brings it too, then the next. So the sample does not depend on how far the lines are apart,
and costs one slot.
"""

from collections import Counter, deque
from statistics import median
from typing import NamedTuple

from hedgehogd.domain.limits import LINES_MAX

_LEADS_KEPT = 1_000
_PROBE_MAX_S = 60.0


class _Probe(NamedTuple):
    product_id: str
    channel: str
    number: int
    line: int
    at: float


class Race:
    """Wins and leads of each line.

    Attributes:
        wins: numbers that each line brought first.
        saved: holes that each line filled for the other.
    """

    def __init__(self) -> None:
        self.wins: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()
        self._highest: dict[tuple[str, str], int] = {}
        self._probe: _Probe | None = None
        self._leads_s = [deque[float](maxlen=_LEADS_KEPT) for _ in range(LINES_MAX)]

    def observe(self, product_id: str, channel: str, number: int, line: int, now: float) -> None:
        """A number has come on ``line``."""
        key = (product_id, channel)
        if number > self._highest.get(key, -1):
            self._highest[key] = number
            self.wins[line] += 1
            probe = self._probe
            if probe is None or now - probe.at > _PROBE_MAX_S:
                self._probe = _Probe(product_id, channel, number, line, now)
            return
        probe = self._probe
        if probe is not None and probe[:3] == (product_id, channel, number) and probe.line != line:
            self._leads_s[probe.line].append(now - probe.at)
            self._probe = None

    def forget(self, product_id: str) -> None:
        """The product is no longer held."""
        for key in [key for key in self._highest if key[0] == product_id]:
            del self._highest[key]

    def lead_s(self, line: int) -> float | None:
        """Return the median lead of ``line`` when it was first, in seconds; None for none."""
        leads = self._leads_s[line]
        return median(leads) if leads else None
