"""Which of two lines delivers first, by how much, and how many gaps each line filled.

A number of ``matches``, ``full`` or ``level3`` usually arrives on both lines. A number above the
highest one of its product and channel since the last reset is a *win* of the line that delivers it;
every other number is a repeat, or late, and is no win.

The *lead* is the time from a win until the other line delivers the same number. It is measured for
one number at a time, of all products together: the number is kept until the other line delivers
it. After a minute without that, the next win replaces it. So one number in memory is enough to
measure leads of any length up to a minute.
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
        wins: how many numbers each line delivered first while both lines were connected.
        saved: how many open gaps each line ended before they were declared, by delivering the
            last number of the gap. Lower numbers of the gap may have been reported missing with
            it. The line may be the one that revealed the gap. Counted by ``arbiter``.
    """

    def __init__(self) -> None:
        self.wins: Counter[int] = Counter()
        self.saved: Counter[int] = Counter()
        self._highest: dict[tuple[str, str], int] = {}
        self._probe: _Probe | None = None
        self._leads_s = [deque[float](maxlen=_LEADS_KEPT) for _ in range(LINES_MAX)]

    def observe(self, product_id: str, channel: str, number: int, line: int, now: float) -> None:
        """Record that a number arrived on ``line`` at ``now`` (the caller's clock, seconds).

        It may be a win, and the number whose lead is measured from now on; or it ends the
        measurement of the other line's lead. Otherwise it has no effect.
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

    def reset(self, product_id: str, channel: str, number: int) -> None:
        """Record that the exchange has reset the numbers of a channel to ``number``.

        The numbers above it are wins from now on. If a lead is being measured on the channel, the
        measurement ends without a result.
        """
        self._highest[product_id, channel] = number
        probe = self._probe
        if probe is not None and probe[:2] == (product_id, channel):
            self._probe = None

    def forget(self, product_id: str) -> None:
        """Forget the highest numbers of a product that is no longer held; keep wins and leads."""
        for key in [key for key in self._highest if key[0] == product_id]:
            del self._highest[key]

    def lead_s(self, line: int) -> float | None:
        """Return the median of the last leads of ``line``, in seconds; None before the first.

        The last ``_LEADS_KEPT`` leads count.
        """
        leads = self._leads_s[line]
        return median(leads) if leads else None
