"""The rise of a figure per hour, and whether it exceeds its bar. Pure.

The rise is the median of the slopes between all pairs of samples (Theil-Sen): one sample out
of four may be wrong by any amount before the median follows it, so a sample during a
snapshot, or with an arena that malloc kept, does not decide.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

HOUR_S = 3600.0
MIB = 1024 * 1024


class Sample(NamedTuple):
    """A daemon's resources at one instant.

    Attributes:
        at_s: since its start, in seconds.
        rss_bytes: resident memory.
        fds: open files.
        tasks: tasks of trio.
        messages: messages put on the tape since its start.
    """

    at_s: float
    rss_bytes: int
    fds: int
    tasks: int
    messages: int


class Bar(NamedTuple):
    """Largest permitted rise of one figure.

    Attributes:
        name: the field of ``Sample``.
        unit: unit in the report.
        scale: number of the field's own units in one ``unit``.
        per_hour_max: largest permitted rise, in ``unit`` an hour.
    """

    name: str
    unit: str
    scale: float
    per_hour_max: float


BARS = (
    Bar("rss_bytes", "MiB", MIB, 1.0),
    Bar("fds", "files", 1, 1.0),
    Bar("tasks", "tasks", 1, 1.0),
)


class Verdict(NamedTuple):
    """One figure beside its bar, both in the bar's unit.

    Attributes:
        bar: the permitted rise.
        first: the median of the first tenth of the samples.
        last: the median of the last tenth.
        per_hour: the rise in one hour.
    """

    bar: Bar
    first: float
    last: float
    per_hour: float

    @property
    def is_over(self) -> bool:
        """True when the figure rises faster than its bar allows."""
        return self.per_hour > self.bar.per_hour_max

    def __str__(self) -> str:
        """Return a line of the report."""
        bar = self.bar
        state = "OVER" if self.is_over else "ok"
        return (
            f"{bar.name:9} {self.first:9.2f} -> {self.last:9.2f} {bar.unit:5}"
            f"  {self.per_hour:+8.3f} an hour, bar {bar.per_hour_max:g}: {state}"
        )


def per_hour(points: Iterable[tuple[float, float]]) -> float:
    """Return the rise of ``(seconds, value)`` in one hour; 0 for fewer than two."""
    slopes = [
        (later - earlier) / (later_s - earlier_s)
        for (earlier_s, earlier), (later_s, later) in combinations(sorted(points), 2)
        if later_s > earlier_s
    ]
    return median(slopes) * HOUR_S if slopes else 0.0


def judge(samples: Sequence[Sample], warm_up_s: float) -> list[Verdict]:
    """Return a verdict for each bar, of the samples after the warm-up.

    Raises:
        ValueError: fewer than ten samples are left, which decide nothing.
    """
    counted = [sample for sample in samples if sample.at_s >= warm_up_s]
    if len(counted) < 10:
        raise ValueError(f"{len(counted)} samples after the warm-up; at least 10 are needed")
    tenth = len(counted) // 10
    verdicts = []
    for bar in BARS:
        values = [getattr(sample, bar.name) / bar.scale for sample in counted]
        rise = per_hour(zip((sample.at_s for sample in counted), values, strict=True))
        verdicts.append(Verdict(bar, median(values[:tenth]), median(values[-tenth:]), rise))
    return verdicts
