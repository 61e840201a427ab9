"""Ingest: CPU per upstream message, from the socket to the tape, with no subscriber.

The pairs are held without subscribers, and the feeder sends as fast as the socket accepts, in
writes of 256 KiB, so that each read finds far more than 32 messages. Three mixes: tickers of
350 bytes, l2updates of 125 bytes (levels of a book of 1,000 that was sent before), and nine
l2updates to a ticker, as in the recording. The figure is all CPU of the daemon from the command
until it is idle again; a counter in its /metrics verifies that it received every message.
"""

from typing import Any

import servers
import workload
from report import median, table, verdict, write
from rig import BenchError, cpu_s, wait_idle
from workload import Workload

MIXES = {"ticker": ("ticker",), "l2update": ("level2_batch",), "mixed": ("ticker", "level2_batch")}
LIMIT_S = 120.0


def load(mix: str, count: int) -> Workload:
    """Return ``count`` messages of a mix, all due at once."""
    state = [workload.ticker(0), workload.snapshot()]
    messages = []
    for i in range(1, count + 1):
        is_ticker = mix == "ticker" or (mix == "mixed" and i % 10 == 0)
        messages.append((0, workload.ticker(i) if is_ticker else workload.l2update(i)))
    return Workload(f"ingest-{mix}", messages, state, MIXES[mix])


def measure(messages: Workload) -> dict[str, Any]:
    """Send one mix once; return the raw figures."""
    count = len(messages.messages)
    with servers.hedgehogd(messages, saturate=True) as running:
        pid = running.server.pid
        before = running.metrics()
        wait_idle(pid, 10)
        cpu = cpu_s(pid)
        running.player.tell("go")
        running.player.expect("done", LIMIT_S)
        wait_idle(pid, LIMIT_S)
        used_s = cpu_s(pid) - cpu
        name = servers.counted(before, running.metrics(), count)
    return {
        "messages": count,
        "us_per_message": used_s / count * 1e6,
        "cpu_s": used_s,
        "counter": name,
    }


def run(*, quick: bool) -> None:
    """Measure every mix, print the table, write the JSON."""
    count, rounds = (50_000, 1) if quick else (250_000, 3)
    loads = {mix: load(mix, count) for mix in MIXES}
    figures: dict[str, list[dict[str, Any]]] = {mix: [] for mix in MIXES}
    for _ in range(rounds):
        for mix, messages in loads.items():
            figures[mix].append(measure(messages))
    rows = []
    for mix, runs in figures.items():
        us = median([run["us_per_message"] for run in runs])
        seen = all(run["counter"] for run in runs)
        rows.append(
            [
                mix,
                loads[mix].payload_bytes // count,
                us,
                round(1e6 / us) if us else None,
                verdict(us, 6.0, 3.0),
                f"counted by {runs[0]['counter']}" if seen else "NOT VERIFIED by /metrics",
            ]
        )
    table(
        f"ingest: {count:,} messages at saturation, no subscribers; median of {rounds}",
        ["mix", "bytes", "µs/message", "a core's messages/s", "bar", "remarks"],
        rows,
    )
    write("ingest", quick=quick, result={"rounds": rounds, "raw": figures})
    if not all(run["counter"] for runs in figures.values() for run in runs):
        raise BenchError("no metric shows that every message arrived")
