"""One isolated message on a quiet feed: its CPU without subscribers, its way to one subscriber.

*CPU*, which the budget limits: hedgehogd holds a product for which no subscriber is connected,
and a ticker arrives every 50 ms (and every ms, for comparison). Its CPU clock is read
over the time of the schedule; the same time without tickers, measured right before, is its cost
at rest (heartbeats, timers). The difference per message is the cost of one message, from the
socket to the tape; the sum per message, with the rest, is shown too.

*Latency*: from the write into the exchange's socket to the read of one subscriber that sleeps,
at the same rate, in both modes of acknowledgement, beside the C loop, which has one hop less. It
contains a wake-up of each process on an idle core.
"""

import time
from typing import Any

import latency
import servers
import workload
from disturbance import DISTURBED, Disturbance
from report import faults, judged, median, ratios, spread, table, write
from rig import ACK_MODES, BenchError, cpu_s, wait_idle
from workload import Workload

RATES_PER_S = (20, 1000)
QUIET_PER_S = 20  # the rate of the budget, and of the latency
BAR_US, MOONSHOT_US = 150.0, 100.0


def measure_cpu(load: Workload) -> dict[str, Any]:
    """Play a workload once without subscribers; return the raw figures."""
    count, seconds = len(load.messages), load.duration_s + 0.2  # the last message's own time too
    with servers.hedgehogd(load) as running:
        pid = running.server.pid
        before = running.metrics()
        wait_idle(pid, 10)
        begun_s = cpu_s(pid)
        time.sleep(seconds)
        rest_s = cpu_s(pid) - begun_s
        begun_s, disturbance = cpu_s(pid), Disturbance(pid)
        running.player.tell("go")
        time.sleep(seconds)
        used_s, disturbed = cpu_s(pid) - begun_s, disturbance.figures()
        done = running.player.expect("done")
        tape = servers.counted(before, running.metrics(), count)
    found = [] if tape else ["NOT VERIFIED by /metrics"]
    return {
        "messages": count,
        "us_per_message": (used_s - rest_s) / count * 1e6,
        "us_with_rest": used_s / count * 1e6,
        "rest_ms_per_s": rest_s / seconds * 1e3,
        "counter": tape,
        "faults": found + [DISTURBED] * disturbed[DISTURBED],
        "disturbance": disturbed,
        "feeder": servers.feeder_lateness(done),
    }


def run(*, quick: bool) -> None:
    """Measure CPU at each rate and latency in each mode, print the tables, write the JSON."""
    seconds, rounds = (2, 1) if quick else (5, 3)
    loads = {
        per_s: workload.steady(f"isolated-{per_s}", seconds=seconds, per_s=per_s)
        for per_s in ((QUIET_PER_S,) if quick else RATES_PER_S)
    }
    cpu: dict[int, list[dict[str, Any]]] = {per_s: [] for per_s in loads}
    ways: dict[tuple[str, str], list[dict[str, Any]]] = {
        (name, mode): [] for mode in ACK_MODES for name in latency.SERVERS
    }
    for _ in range(rounds):
        for per_s, load in loads.items():
            cpu[per_s].append(measure_cpu(load))
        for (name, mode), runs in ways.items():
            load = loads[QUIET_PER_S]
            try:
                figure = latency.measure(latency.SERVERS[name](load, stamp=True), load, 1, mode)
            except BenchError as error:
                figure = {"ms": {}, "faults": [str(error)]}
            runs.append(figure)
    show_cpu(cpu, f"{seconds} s; median (min–max) of {rounds}")
    show_latency(ways, f"{QUIET_PER_S} messages/s for {seconds} s; median (min–max) of {rounds}")
    raw = {"cpu": cpu, "latency": {f"{name}, {mode}": runs for (name, mode), runs in ways.items()}}
    write("isolated", quick=quick, result={"rounds": rounds, "raw": raw})


def show_cpu(figures: dict[int, list[dict[str, Any]]], title: str) -> None:
    """Print the table of the CPU per message, and the verdict."""

    def of(per_s: int, key: str) -> list[float | None]:
        return [run[key] for run in figures[per_s]]

    table(
        f"isolated, CPU without subscribers, socket to tape; {title}",
        ["messages/s", "µs/message", "with the rest", "rest, ms/s", ""],
        [
            [
                f"{per_s:,}",
                *(
                    spread(of(per_s, k))
                    for k in ("us_per_message", "us_with_rest", "rest_ms_per_s")
                ),
                faults(runs) or f"counted by {runs[0]['counter']}",
            ]
            for per_s, runs in figures.items()
        ],
    )
    us = median(of(QUIET_PER_S, "us_per_message"))
    runs = figures[QUIET_PER_S]
    print(f"  at {QUIET_PER_S}/s: {judged(us, BAR_US, MOONSHOT_US, runs, unit=' µs')}")


def show_latency(figures: dict[tuple[str, str], list[dict[str, Any]]], title: str) -> None:
    """Print the table of the latencies."""

    def us(name: str, mode: str, key: str) -> list[float | None]:
        found = (run["ms"].get(key) for run in figures[name, mode])
        return [None if ms is None else ms * 1000 for ms in found]

    table(
        f"isolated, latency to one subscriber, µs; {title}",
        ["server", "acknowledgement", "p50", "p50 ÷ C loop", "p99", ""],
        [
            [
                name,
                mode,
                spread(us(name, mode, "p50")),
                spread(ratios(us(name, mode, "p50"), us(latency.FLOOR, mode, "p50"))),
                spread(us(name, mode, "p99")),
                faults(runs) or "all delivered",
            ]
            for (name, mode), runs in figures.items()
        ],
    )
