"""Server CPU per delivered message, hedgehogd and its peers side by side.

Three workloads: *steady*, tickers of 350 bytes at 200 a second, each alone; *recording*, a part
of a real half minute of Coinbase's feed at its own times, bursts included; both for 500
subscribers that want all of it; and *many*, 10,000 subscribers of 10 tickers a second. The server
has core 0, load and feeder core 1.

The clients of all servers are equal: each sends the same subscribe message after the handshake.
Each server is measured with clients in both modes of acknowledgement (receiver_acks.c), since
each mode favours another server: ``quick``, the client's read acknowledges, at the client's cost;
``delayed``, the server's next send or a timer triggers it. The table shows, by the kernel's
counts, the acknowledgements per data segment; those without a timer's, which are about 1 in quick
mode and 0.5 or fewer in delayed; and those that a read sent itself, per read.

hedgehogd is measured whole: an upstream WebSocket, its ingest, its hub, its sockets. Nchan and
uWebSockets receive each message over a WebSocket, because they join messages that arrive
together; the other peers hold the workload in memory, which favours them.

Deliveries are verified: a server is marked if a subscriber did not get every byte, or if it
ended more than 100 ms after the schedule, since lateness joins messages. The number of messages
that a subscriber found per read shows it too: 1.00 is unbatched. The receiver does not sleep
while it counts: waking it would cost the server CPU that a remote receiver does not cost. The
obvious Quart-trio server cannot serve 500 subscribers at these rates; it gets as many as it can
hold, and its cost too is per delivery.

In a round the servers are measured in turn, each in both modes; the slower ones only in the first
round. Ratios are computed within a round. Shown are medians of the rounds with their least and
greatest value. ``disturbed`` marks a run during which the machine did other work
(disturbance.py).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import servers
import workload
from disturbance import DISTURBED, Disturbance
from report import faults, judged, median, ratios, spread, table, write
from rig import ACK_MODES, BenchError, Receiver, ack_fault, ack_figures, cpu_s, timer_acks
from servers import Running
from workload import Workload

SUBSCRIBERS = 500
MANY = 10_000  # one receiver's limit; its open files are below 20,000
LATE_S = 0.1
FLOOR = "C send loop"
OURS = "hedgehogd"
UWEBSOCKETS = "uWebSockets (socketify)"

Start = Callable[[Workload], AbstractContextManager[Running]]
SERVERS: dict[str, Start] = {
    FLOOR: servers.c_send_loop,
    OURS: servers.hedgehogd,
    UWEBSOCKETS: servers.uwebsockets,
    "picows": partial(servers.script, "picows"),
    "Nchan": servers.nchan,
    "ws (Node)": partial(servers.script, "ws"),
    "websockets.broadcast": partial(servers.script, "websockets"),
    "Quart-trio": partial(servers.script, "quart"),
}
CLOSE = (FLOOR, OURS, UWEBSOCKETS, "picows")  # measured in each round, the other servers once
QUICK = (FLOOR, OURS, UWEBSOCKETS)  # the servers of quick runs
FEWER = {"Quart-trio": {"steady": 40, "recording": 16}}
# Bar and moonshot of hedgehogd's cost, by workload and mode: ÷ C loop; recording: ÷ uWebSockets.
BARS = {
    ("steady", "quick"): (1.15, 1.0),
    ("steady", "delayed"): (1.0, 0.9),
    ("recording", "quick"): (0.85, 0.5),
    ("recording", "delayed"): (0.85, 0.5),
    ("many", "quick"): (1.1, 1.0),
    ("many", "delayed"): (1.1, 1.0),
}
WORKLOADS = ("steady", "recording", "many")
Figures = dict[str, dict[str, list[dict[str, Any]]]]  # mode -> server -> runs, one a round


@dataclass(frozen=True)
class Plan:
    """A workload with its rounds, subscribers and servers.

    Attributes:
        load: the messages.
        rounds: number of runs of each server in each mode.
        subscribers: number of subscribers, if not FEWER.
        names: the servers that are measured if none is named.
    """

    load: Workload
    rounds: int
    subscribers: int
    names: tuple[str, ...]


def plan(name: str, *, quick: bool) -> Plan:
    """Return the workload of this name."""
    names = QUICK if quick else tuple(SERVERS)
    if name == "steady":
        load = workload.steady(name, seconds=2 if quick else 5, per_s=200)
        return Plan(load, 1 if quick else 5, SUBSCRIBERS, names)
    if name == "recording":
        load = workload.recording(2 if quick else 10)
        return Plan(load, 1 if quick else 3, SUBSCRIBERS, names)
    load = workload.steady(name, seconds=2 if quick else 6, per_s=10)
    return Plan(load, 1 if quick else 3, MANY, (FLOOR, OURS))


def measure(start: Start, load: Workload, subscribers: int, mode: str) -> dict[str, Any]:
    """Play a workload once; return the raw figures of this server."""
    with (
        start(load) as running,
        Receiver(
            running.port, subscribers, subscribe=load.subscribe, spin=True, ack=mode
        ) as receiver,
    ):
        receiver.join(running.state_messages)
        receiver.ask("start")
        before, by_timer = cpu_s(running.server.pid), timer_acks()
        disturbance = Disturbance(running.server.pid)
        running.player.tell("go")
        expected = len(load.messages)
        limit_s = 3 * load.duration_s + 20
        counts = receiver.ask(f"wait {expected} 5000", limit_s)
        used_s, disturbed = cpu_s(running.server.pid) - before, disturbance.figures()
        by_timer = timer_acks() - by_timer
        done = running.player.expect("done")
    deliveries = counts["messages"]
    found = []
    if (counts["min"], counts["max"]) != (expected, expected):
        found.append(f"got {counts['min']}–{counts['max']} of {expected}")
    elif counts["bytes"] != load.payload_bytes * subscribers:
        found.append("bytes differ from those sent")
    if counts["closes"] or counts["cut"]:
        found.append(f"closed {sum(counts['closes'].values()) + counts['cut']}")
    late_s = counts["last_s"] - load.duration_s
    if late_s > LATE_S:
        found.append("late")
    if disturbed[DISTURBED]:
        found.append(DISTURBED)
    acks = ack_figures(counts, by_timer)
    return {
        "subscribers": subscribers,
        "us_per_delivery": used_s / deliveries * 1e6 if deliveries else None,
        "server_cpu_s": used_s,
        "server_busy": used_s / max(counts["last_s"], 1e-9),
        "late_s": late_s,
        "faults": found + ack_fault(mode, acks),
        "disturbance": disturbed,
        "receiver": counts,
        "messages_per_read": counts["messages"] / max(counts["reads"], 1),
        **acks,
        "feeder": servers.feeder_lateness(done),
    }


def run_all(plan: Plan, only: list[str]) -> Figures:
    """Measure all servers in turn, in both modes; return the raw figures."""
    load = plan.load
    names = [
        name
        for name in (SERVERS if only else plan.names)
        if not only or any(part.lower() in name.lower() for part in only)
    ]
    figures: Figures = {mode: {name: [] for name in names} for mode in ACK_MODES}
    for number in range(1, plan.rounds + 1):
        for name in names:
            if number > 1 and name not in CLOSE:
                continue
            subscribers = FEWER.get(name, {}).get(load.name, plan.subscribers)
            # The first mode alternates: no mode has the calmer half of a server's time.
            for mode in ACK_MODES if number % 2 else reversed(ACK_MODES):
                try:
                    figure = measure(SERVERS[name], load, subscribers, mode)
                except BenchError as error:
                    figure = {"us_per_delivery": None, "faults": [str(error)]}
                figures[mode][name].append(figure)
                us = figure["us_per_delivery"]
                said = "–" if us is None else f"{us:.2f} µs"
                remarks = "; ".join(figure["faults"])
                print(
                    f"  {load.name} {number}/{plan.rounds} {name}, {mode}: {said} {remarks}",
                    flush=True,
                )
    return figures


def values(runs: list[dict[str, Any]], key: str) -> list[float | None]:
    """Return one figure of each round."""
    return [run.get(key) for run in runs]


def summarise(servers_runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return each server's cost and ratios, a value for each round."""
    costs = {name: values(runs, "us_per_delivery") for name, runs in servers_runs.items()}
    return {
        name: {
            "us_per_delivery": costs[name],
            "to_c_loop": ratios(costs[name], costs.get(FLOOR, [])),
            "hedgehogd_to_it": ratios(costs.get(OURS, []), costs[name]),
            "messages_per_read": median(values(runs, "messages_per_read")),
            "acks_per_segment": median(values(runs, "acks_per_segment")),
            "prompt_acks": median(values(runs, "prompt_acks")),
            "acks_per_read": median(values(runs, "acks_per_read")),
            "busy": median(values(runs, "server_busy")),
            "subscribers": runs[0].get("subscribers"),
            "faults": faults(runs),
        }
        for name, runs in servers_runs.items()
    }


def percent(share: float | None) -> str | None:
    """Return a share as text."""
    return None if share is None else f"{share:.0%}"


def show(plan: Plan, mode: str, figures: dict[str, list[dict[str, Any]]]) -> None:
    """Print the table of a workload in one mode, and hedgehogd's verdict."""
    load, summary = plan.load, summarise(figures)
    table(
        f"fanout, {load.name}, {mode} acknowledgement: {len(load.messages)} messages in "
        f"{load.duration_s:.1f} s, {load.payload_bytes // len(load.messages)} bytes each; "
        f"median (min–max) of {plan.rounds}",
        [
            "server",
            "µs/delivery",
            "÷ C loop",
            "hedgehogd ÷",
            "msgs/read",
            "ACKs/segment",
            "prompt",
            "by a read",
            "core",
            "subs",
            "",
        ],
        [
            [
                name,
                spread(row["us_per_delivery"]),
                spread(row["to_c_loop"]),
                spread(row["hedgehogd_to_it"]),
                row["messages_per_read"],
                row["acks_per_segment"],
                row["prompt_acks"],
                row["acks_per_read"],
                percent(row["busy"]),
                row["subscribers"],
                row["faults"] or "all delivered",
            ]
            for name, row in summary.items()
        ],
    )
    if OURS not in summary:
        return
    peer = UWEBSOCKETS if load.name == "recording" else FLOOR
    found = median(summary[peer]["hedgehogd_to_it"]) if peer in summary else None
    runs = figures[OURS], figures.get(peer, [])
    print(f"  ÷ {peer}: {judged(found, *BARS[load.name, mode], *runs)}")


def run(*, quick: bool, only: list[str] | None = None, workloads: list[str] | None = None) -> None:
    """Measure the workloads, print their tables, write the JSON."""
    result: dict[str, Any] = {"workloads": {}}
    for name in workloads or WORKLOADS:
        planned = plan(name, quick=quick)
        load = planned.load
        figures = run_all(planned, only or [])
        for mode, runs in figures.items():
            show(planned, mode, runs)
        result["workloads"][name] = {
            "rounds": planned.rounds,
            "messages": len(load.messages),
            "seconds": load.duration_s,
            "payload_bytes": load.payload_bytes,
            "summary": {mode: summarise(runs) for mode, runs in figures.items()},
            "raw": figures,
        }
    write("fanout", quick=quick, result=result)
