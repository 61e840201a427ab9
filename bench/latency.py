"""Latency from the feed to 1,000 subscribers at 100 messages a second, beside the C loop.

The feeder writes the time into each message when it sends it to hedgehogd; the C loop writes it
just before the first of its thousand sends. The receiver reads the clock once per read of a
socket. So hedgehogd's figure has one hop more, and both contain the thousand sends: 500 sends
precede that of the median subscriber.

The clients of both are equal, and both are measured in both modes of acknowledgement, as in
`fanout`. The receiver sleeps between reads here, as a subscriber does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import servers
import workload
from disturbance import DISTURBED, Disturbance
from report import faults, judged, median, ratios, spread, table, write
from rig import ACK_MODES, BenchError, Receiver, ack_fault, ack_figures, cpu_s, timer_acks
from servers import Running
from workload import STAMP_KEY, Workload

SUBSCRIBERS = 1000
PER_S = 100
FLOOR, OURS = "C send loop", "hedgehogd"
SERVERS: dict[str, Callable[..., AbstractContextManager[Running]]] = {
    FLOOR: servers.c_send_loop,
    OURS: servers.hedgehogd,
}
BAR, MOONSHOT = 1.2, 1.1  # of p99 ÷ the C loop's


def measure(
    starting: AbstractContextManager[Running], load: Workload, subscribers: int, mode: str
) -> dict[str, Any]:
    """Play the workload once to subscribers with ``mode`` sockets; return the raw figures."""
    with (
        starting as running,
        Receiver(
            running.port, subscribers, subscribe=load.subscribe, stamp=STAMP_KEY, ack=mode
        ) as receiver,
    ):
        receiver.join(running.state_messages)
        receiver.ask("start")
        before, by_timer = cpu_s(running.server.pid), timer_acks()
        disturbance = Disturbance(running.server.pid)
        running.player.tell("go")
        counts = receiver.ask(f"wait {len(load.messages)} 5000", load.duration_s * 2 + 30)
        used_s, disturbed = cpu_s(running.server.pid) - before, disturbance.figures()
        by_timer = timer_acks() - by_timer
    expected = len(load.messages)
    found = []
    if (counts["min"], counts["max"]) != (expected, expected):
        found.append(f"got {counts['min']}–{counts['max']} of {expected}")
    if disturbed[DISTURBED]:
        found.append(DISTURBED)
    acks = ack_figures(counts, by_timer)
    return {
        "ms": {key: us / 1000 for key, us in counts.get("latency_us", {}).items()},
        "server_busy": used_s / counts["last_s"] if counts["last_s"] else 0.0,
        "receiver_busy": counts["cpu_s"] / counts["last_s"] if counts["last_s"] else 0.0,
        "faults": found + ack_fault(mode, acks),
        "disturbance": disturbed,
        "receiver": counts,
        **acks,
    }


def run(*, quick: bool) -> None:
    """Measure both in turn in both modes, print the tables, write the JSON."""
    seconds, rounds = (2, 1) if quick else (8, 3)
    load = workload.steady("latency", seconds=seconds, per_s=PER_S)
    figures: dict[str, dict[str, list[dict[str, Any]]]] = {
        mode: {name: [] for name in SERVERS} for mode in ACK_MODES
    }
    for number in range(rounds):
        for name, start in SERVERS.items():
            for mode in reversed(ACK_MODES) if number % 2 else ACK_MODES:
                try:
                    figure = measure(start(load, stamp=True), load, SUBSCRIBERS, mode)
                except BenchError as error:
                    figure = {"ms": {}, "faults": [str(error)]}
                figures[mode][name].append(figure)
    for mode, found in figures.items():
        show(mode, found, f"{PER_S} messages/s for {seconds} s; median (min–max) of {rounds}")
    write("latency", quick=quick, result={"rounds": rounds, "raw": figures})


def show(mode: str, figures: dict[str, list[dict[str, Any]]], title: str) -> None:
    """Print the table of a mode, and hedgehogd's verdict."""

    def ms(name: str, key: str) -> list[float | None]:
        return [run["ms"].get(key) for run in figures[name]]

    def share(name: str, key: str) -> str | None:
        value = median([run.get(key) for run in figures[name]])
        return None if value is None else f"{value:.0%}"

    to_floor = {name: ratios(ms(name, "p99"), ms(FLOOR, "p99")) for name in SERVERS}
    table(
        f"latency, ms, {mode} acknowledgement: {SUBSCRIBERS:,} subscribers, {title}",
        ["server", "p50", "p99", "p99 ÷ C loop", "p99.9", "prompt ACKs", "core", "receiver", ""],
        [
            [
                name,
                spread(ms(name, "p50")),
                spread(ms(name, "p99")),
                spread(to_floor[name]),
                spread(ms(name, "p999")),
                median([run.get("prompt_acks") for run in figures[name]]),
                *(share(name, key) for key in ("server_busy", "receiver_busy")),
                faults(figures[name]) or "all delivered",
            ]
            for name in SERVERS
        ],
    )
    print(f"  p99 ÷ {FLOOR}: {judged(median(to_floor[OURS]), BAR, MOONSHOT, *figures.values())}")
