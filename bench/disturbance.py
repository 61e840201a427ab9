"""Whether the machine disturbed a run: CPU time of foreign processes, and stolen time.

A run is a process tree (this program and its children) on a machine of some cores. Time in which
a core was neither idle nor used by the tree was used by a foreign process, by an interrupt that
is charged to none, or by the hypervisor ("steal"). Shares are of one core, since the server has
one: 0.05 is a twentieth of a core. A run is ``disturbed`` when foreign and stolen time together
exceed ``SHARE_MAX``, or when the server was ready to run and waited for its core that long.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig import cpu_s, waited_s

SHARE_MAX = 0.05
DISTURBED = "disturbed"
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Time counters of all cores together since the machine's start, in seconds.

    Attributes:
        count: number of cores.
        idle_s: idle time, waits for disks included.
        steal_s: time that the hypervisor used for other machines.
    """

    count: int
    idle_s: float
    steal_s: float


def parse_stat(text: str, tick_s: float = _TICK_S) -> Cores:
    """Return the counters in the text of ``/proc/stat``."""
    rows = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    total = [int(value) for value in rows[0][1:]]  # user nice system idle iowait irq softirq steal
    return Cores(len(rows) - 1, (total[3] + total[4]) * tick_s, total[7] * tick_s)


def shares(before: Cores, after: Cores, wall_s: float, own_s: float) -> dict[str, float]:
    """Return foreign and stolen time as shares of one core.

    Args:
        before: counters at the begin of the run.
        after: counters at its end.
        wall_s: duration of the run in seconds.
        own_s: CPU time of the run's own processes in seconds.
    """
    steal_s = after.steal_s - before.steal_s
    idle_s = after.idle_s - before.idle_s
    foreign_s = max(0.0, after.count * wall_s - idle_s - steal_s - own_s)
    return {"foreign": foreign_s / wall_s, "steal": steal_s / wall_s}


def is_disturbed(found: dict[str, float]) -> bool:
    """Return whether the shares of a run, ``waited`` among them, exceed ``SHARE_MAX``."""
    return found["foreign"] + found["steal"] > SHARE_MAX or found["waited"] > SHARE_MAX


class Disturbance:
    """The disturbance of a run from the construction of this object, for a server's process."""

    def __init__(self, server: int) -> None:
        self.server = server
        self._begun = self._now()

    def _now(self) -> tuple[float, Cores, float, float]:
        cores = parse_stat(Path("/proc/stat").read_text())
        return time.monotonic(), cores, cpu_s(os.getpid()), waited_s(self.server)

    def figures(self) -> dict[str, Any]:
        """Return the shares since the begin: foreign, steal, waited; and ``disturbed``."""
        (begun, before, own, waited), now = self._begun, self._now()
        wall_s = now[0] - begun
        found = shares(before, now[1], wall_s, now[2] - own)
        found["waited"] = (now[3] - waited) / wall_s
        return {**found, DISTURBED: is_disturbed(found)}
