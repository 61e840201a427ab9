"""Which of two lines delivers first, by how much, and how many gaps the other line filled.

Every number of a product arrives on both lines. The line that delivers it first is counted for
every number. The lead is measured for one number at a time: the number is kept until the other
line delivers it too, or for a minute; then the next number is chosen. So the sample does not depend
on the distance between the lines, and needs one slot.
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
        wins: numbers that each line delivered first while both lines were connected.
        saved: gaps that each line filled before they were declared; while a product moves, also
            gaps between two connections of one line. Counted by ``arbiter``.
    """

    def __init__(self) -> None:
        self.wins: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()
        self._highest: dict[tuple[str, str], int] = {}
        self._probe: _Probe | None = None
        self._leads_s = [deque[float](maxlen=_LEADS_KEPT) for _ in range(LINES_MAX)]

    def observe(self, product_id: str, channel: str, number: int, line: int, now: float) -> None:
        """Count a number that arrived on ``line`` at ``now`` (the caller's clock, seconds).

        The first line with a number wins it; the other line's arrival may end a measured lead.
        """
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
        """Forget the numbers of a product that is no longer held; wins and leads are kept."""
        for key in [key for key in self._highest if key[0] == product_id]:
            del self._highest[key]

    def lead_s(self, line: int) -> float | None:
        """Return the median lead of ``line`` in seconds; None before its first measured lead."""
        leads = self._leads_s[line]
        return median(leads) if leads else None
