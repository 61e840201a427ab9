"""Latency from the feed to 1,000 subscribers at 100 messages a second, beside the C loop.

The feeder writes the time into each message when it sends it to hedgehogd; the C loop writes it
just before the first of its thousand sends. The receiver reads the clock once per read of a
socket. So hedgehogd's figure has one hop more, and both contain the thousand sends: 500 sends
precede that of the median subscriber.
"""

from contextlib import AbstractContextManager
from typing import Any

import servers
import workload
from report import median, table, verdict, write
from rig import BenchError, Receiver, cpu_s
from servers import Running
from workload import STAMP_KEY, Workload

SUBSCRIBERS = 1000
PER_S = 100
ALLOWED_MS = 15.0
FLOOR, OURS = "C send loop", "hedgehogd"
SERVERS = {FLOOR: servers.c_send_loop, OURS: servers.hedgehogd}


def measure(starting: AbstractContextManager[Running], load: Workload) -> dict[str, Any]:
    """Play the workload once; return the raw figures."""
    with (
        starting as running,
        Receiver(
            running.port, SUBSCRIBERS, subscribe=running.subscribe, stamp=STAMP_KEY
        ) as receiver,
    ):
        receiver.join(running.state_messages)
        receiver.ask("start")
        before = cpu_s(running.server.pid)
        running.player.tell("go")
        counts = receiver.ask(f"wait {len(load.messages)} 5000", load.duration_s * 2 + 30)
        used_s = cpu_s(running.server.pid) - before
    expected = len(load.messages)
    whole = (counts["min"], counts["max"]) == (expected, expected)
    return {
        "receiver": counts,
        "server_busy": used_s / counts["last_s"] if counts["last_s"] else 0.0,
        "receiver_busy": counts["cpu_s"] / counts["last_s"] if counts["last_s"] else 0.0,
        "fault": "" if whole else f"got {counts['min']}–{counts['max']} of {expected}",
    }


def run(*, quick: bool) -> None:
    """Measure both in turn, print the table, write the JSON."""
    seconds, rounds = (4, 1) if quick else (20, 3)
    load = workload.steady("latency", seconds=seconds, per_s=PER_S)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
    faults: dict[str, str] = {}
    for _ in range(rounds):
        for name, start in SERVERS.items():
            try:
                figures[name].append(measure(start(load, stamp=True), load))
                faults[name] = figures[name][-1]["fault"] or faults.get(name, "")
            except BenchError as error:
                faults[name] = str(error)

    def ms(name: str, key: str) -> float | None:
        found = (figure["receiver"].get("latency_us", {}).get(key) for figure in figures[name])
        value = median(list(found))
        return None if value is None else value / 1000

    def busy(name: str, key: str) -> str | None:
        value = median([figure[key] for figure in figures[name]])
        return None if value is None else f"{value:.0%}"

    table(
        f"latency, ms: {SUBSCRIBERS:,} subscribers, {PER_S} messages/s for {seconds} s; "
        f"median of {rounds}",
        ["server", "p50", "p90", "p99", "p99.9", "max", "core", "receiver", "remarks"],
        [
            [
                name,
                *(ms(name, key) for key in ("p50", "p90", "p99", "p999", "max")),
                busy(name, "server_busy"),
                busy(name, "receiver_busy"),
                faults.get(name) or "all delivered",
            ]
            for name in SERVERS
        ],
    )
    floor = ms(FLOOR, "p99")
    if floor is not None:
        judged = verdict(ms(OURS, "p99"), floor + ALLOWED_MS, floor * 1.2, " ms")
        print(f"  p99: {judged}; the bar is the C loop's + {ALLOWED_MS:g} ms")
    write("latency", quick=quick, result={"rounds": rounds, "raw": figures, "faults": faults})
