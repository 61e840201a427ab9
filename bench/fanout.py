"""Server CPU per delivered message, hedgehogd and its peers side by side.

Two workloads: *steady*, tickers of 350 bytes at 200 a second, each alone; and *recording*, a
real half minute of Coinbase's feed at its own times, bursts included. 500 subscribers want all
of it. The server has core 0, load and feeder core 1.

hedgehogd is measured whole: an upstream WebSocket, its ingest, its hub, its sockets. Nchan and
uWebSockets receive each message over a WebSocket, because they join messages that arrive
together; the other peers hold the workload in memory, which favours them.

Deliveries are verified: a server is marked if a subscriber did not get every byte, or if it
ended more than 100 ms after the schedule, since lateness joins messages. The number of messages
that a subscriber found per read shows it too: 1.00 is unbatched. The receiver does not sleep
while it counts: waking it would cost the server CPU that a remote receiver does not cost. The
obvious Quart-trio server cannot serve 500 subscribers at these rates; it gets as many as it can
hold, and its cost too is per delivery.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import servers
import workload
from report import median, ratio, table, verdict, write
from rig import BenchError, Receiver, cpu_s, waited_s
from servers import Running
from workload import Workload

SUBSCRIBERS = 500
LATE_S = 0.1
DISTURBED = 0.05  # share of the time in which the server was ready to run and had no core
FLOOR = "C send loop"
OURS = "hedgehogd"
DISTURBED_TEXT = "disturbed"

Start = Callable[[Workload], AbstractContextManager[Running]]
SERVERS: dict[str, Start] = {
    FLOOR: servers.c_send_loop,
    OURS: servers.hedgehogd,
    "uWebSockets (socketify)": servers.uwebsockets,
    "picows": partial(servers.script, "picows"),
    "Nchan": servers.nchan,
    "ws (Node)": partial(servers.script, "ws"),
    "websockets.broadcast": partial(servers.script, "websockets"),
    "Quart-trio": partial(servers.script, "quart"),
}
FEWER = {"Quart-trio": {"steady": 40, "recording": 16}}


def measure(start: Start, load: Workload, subscribers: int) -> dict[str, Any]:
    """Play a workload once; return the raw figures of this server."""
    with (
        start(load) as running,
        Receiver(running.port, subscribers, subscribe=running.subscribe, spin=True) as receiver,
    ):
        receiver.join(running.state_messages)
        receiver.ask("start")
        before, waited = cpu_s(running.server.pid), waited_s(running.server.pid)
        running.player.tell("go")
        expected = len(load.messages)
        limit_s = 3 * load.duration_s + 20
        counts = receiver.ask(f"wait {expected} 5000", limit_s)
        used_s = cpu_s(running.server.pid) - before
        waited = waited_s(running.server.pid) - waited
        done = running.player.expect("done")
    deliveries = counts["messages"]
    faults = []
    if (counts["min"], counts["max"]) != (expected, expected):
        faults.append(f"got {counts['min']}–{counts['max']} of {expected}")
    elif counts["bytes"] != load.payload_bytes * subscribers:
        faults.append("bytes differ from those sent")
    if counts["closes"] or counts["cut"]:
        faults.append(f"closed {sum(counts['closes'].values()) + counts['cut']}")
    late_s = counts["last_s"] - load.duration_s
    if late_s > LATE_S:
        faults.append(f"late by {late_s:.1f} s")
    if waited > DISTURBED * counts["last_s"]:
        faults.append(DISTURBED_TEXT)
    return {
        "subscribers": subscribers,
        "us_per_delivery": used_s / deliveries * 1e6 if deliveries else None,
        "server_cpu_s": used_s,
        "server_waited_s": waited,
        "server_busy": used_s / max(counts["last_s"], 1e-9),
        "late_s": late_s,
        "faults": faults,
        "receiver": counts,
        "messages_per_read": counts["messages"] / max(counts["reads"], 1),
        "feeder": servers.feeder_lateness(done),
    }


def run_workload(load: Workload, rounds: int, only: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Measure all servers in turn, ``rounds`` times; return the raw figures of each."""
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
    for number in range(1, rounds + 1):
        for name, start in SERVERS.items():
            if only and not any(part.lower() in name.lower() for part in only):
                continue
            subscribers = FEWER.get(name, {}).get(load.name, SUBSCRIBERS)
            try:
                figure = measure(start, load, subscribers)
                if DISTURBED_TEXT in figure["faults"]:  # keep the better of two
                    again = measure(start, load, subscribers)
                    figure = min(figure, again, key=lambda run: run["server_waited_s"])
            except BenchError as error:
                figure = {"us_per_delivery": None, "faults": [str(error)]}
            figures[name].append(figure)
            us = figure["us_per_delivery"]
            said = "–" if us is None else f"{us:.2f} µs"
            print(f"  {load.name} {number}/{rounds} {name}: {said} {'; '.join(figure['faults'])}")
    return {name: runs for name, runs in figures.items() if runs}


def remarks(runs: list[dict[str, Any]]) -> list[str]:
    """Return the faults, each with its number of runs if not all."""
    faults = Counter(fault for run in runs for fault in run["faults"])
    return [
        fault if times == len(runs) else f"{fault} ({times}/{len(runs)})"
        for fault, times in sorted(faults.items())
    ]


def summarise(figures: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return medians, and ratios within each round (the same minute of the machine)."""

    def per_round(name: str) -> list[float | None]:
        return [run["us_per_delivery"] for run in figures.get(name, [])]

    def against(mine: str, other: str) -> float | None:
        pairs = zip(per_round(mine), per_round(other), strict=False)
        return median([ratio(a, b) for a, b in pairs])

    return {
        name: {
            "us_per_delivery": median(per_round(name)),
            "to_c_loop": against(name, FLOOR),
            "hedgehogd_to_it": against(OURS, name),
            "messages_per_read": median([run.get("messages_per_read") for run in runs]),
            "busy": median([run.get("server_busy") for run in runs]),
            "subscribers": runs[0].get("subscribers"),
            "faults": remarks(runs),
        }
        for name, runs in figures.items()
    }


def run(*, quick: bool, only: list[str] | None = None) -> None:
    """Measure both workloads, print their tables, write the JSON."""
    loads = [
        (2 if quick else 3, workload.steady("steady", seconds=3 if quick else 10, per_s=200)),
        (2, workload.recording(6 if quick else None)),
    ]
    result: dict[str, Any] = {"workloads": {}}
    for rounds, load in loads:
        figures = run_workload(load, rounds, only or [])
        summary = summarise(figures)
        table(
            f"fanout, {load.name}: {len(load.messages)} messages in {load.duration_s:.1f} s, "
            f"{load.payload_bytes // len(load.messages)} bytes each; median of {rounds}",
            ["server", "µs/delivery", "÷ C loop", "hedgehogd ÷", "msgs/read", "core", "subs", ""],
            [
                [
                    name,
                    row["us_per_delivery"],
                    row["to_c_loop"],
                    row["hedgehogd_to_it"],
                    row["messages_per_read"],
                    f"{row['busy']:.0%}" if row["busy"] is not None else None,
                    row["subscribers"],
                    "; ".join(row["faults"]) or "all delivered",
                ]
                for name, row in summary.items()
            ],
        )
        result["workloads"][load.name] = {
            "rounds": rounds,
            "messages": len(load.messages),
            "seconds": load.duration_s,
            "payload_bytes": load.payload_bytes,
            "summary": summary,
            "raw": figures,
        }
        if OURS in summary:
            judge(load.name, summary)
    write("fanout", quick=quick, result=result)


def judge(name: str, summary: dict[str, dict[str, Any]]) -> None:
    """Print hedgehogd's ratios and whether they reach their bars."""
    if name == "steady":
        print(f"  ÷ C loop: {verdict(summary[OURS]['to_c_loop'], 1.5, 1.2)}")
        return
    ratios = {
        peer: row["hedgehogd_to_it"]
        for peer, row in summary.items()
        if peer not in (OURS, FLOOR, "Quart-trio") and row["hedgehogd_to_it"] is not None
    }
    if ratios:
        best = max(ratios, key=lambda peer: ratios[peer])
        print(f"  ÷ the best peer ({best}): {verdict(ratios[best], 1.0, 0.5)}")
    else:
        print("  ÷ the best peer: not measured")
