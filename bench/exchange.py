"""The whole exchange: 400 products recorded in the log, and 200 subscribers of them.

A simulated market sends ticker, matches, level2 and heartbeat, 2,500 messages a second, for ten
minutes. 190 subscribers have 20 topics each (ticker and matches of ten products), 10 have the
ticker, matches and level2 of all products. Each must get every message of its topics and nothing
else; then the archive is compared with the schedule, topic by topic and byte for byte.

The window's and the archive's bytes are those of their files.
"""

import contextlib
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import servers
from peers.schedule import load
from report import table, verdict, write
from rig import BENCH, BUILD, PROJECT_PYTHON, BenchError, Receiver, cpu_s, rss_bytes
from workload import Workload, subscribe

BYTES_BAR, BYTES_MOONSHOT = 30.0, 20.0
OF_ALL, GROUPS, OF_GROUP = 10, 19, 10  # subscribers of all topics; groups of subscribers of twenty
GROUP_PRODUCTS = 10
GROUP_CHANNELS = ("ticker", "matches")
CHANNELS = ("ticker", "matches", "level2")
LIMIT_S = 900.0


def process(*arguments: str | Path) -> str:
    """Run the process of the project's venv; return its standard output."""
    command = [PROJECT_PYTHON, BENCH / "exchange_process.py", *arguments]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.CalledProcessError as error:
        raise BenchError(f"exchange_process.py: {error.stderr[-600:]}") from None
    return done.stdout


def market(seconds: int) -> Workload:
    """Return the workload of a simulated market."""
    schedule = BUILD / "workloads" / f"exchange-{seconds}.schedule"
    schedule.parent.mkdir(parents=True, exist_ok=True)
    process("make", schedule, str(seconds))
    messages = [(round(due_s * 1e6), payload) for due_s, payload in load(str(schedule))]
    state = schedule.with_suffix(".state").read_bytes().splitlines()
    return Workload(f"exchange-{seconds}", messages, state, CHANNELS)


def size(directory: Path) -> int:
    """Return the bytes of the files of a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def expected(flow: Workload, products: set[str], types: set[str]) -> int:
    """Return the number of scheduled messages of some products and types."""
    heads = (json.loads(payload) for _, payload in flow.messages)
    return sum(head["product_id"] in products and head["type"] in types for head in heads)


def receivers(
    stack: contextlib.ExitStack, running: servers.Running, flow: Workload
) -> list[tuple[Receiver, int]]:
    """Return the joined receivers, each with the messages that its subscribers must get."""
    plan = [(OF_ALL, flow.products, CHANNELS, {"ticker", "match", "l2update"})]
    for number in range(GROUPS):
        products = flow.products[number * GROUP_PRODUCTS : (number + 1) * GROUP_PRODUCTS]
        plan.append((OF_GROUP, products, GROUP_CHANNELS, {"ticker", "match"}))
    found = []
    for number, (count, products, channels, types) in enumerate(plan):
        receiver = stack.enter_context(
            Receiver(
                running.port, count, subscribe=subscribe(products, channels),
                name=f"receiver-{number}",
            )
        )  # fmt: skip
        receiver.join(len(products))
        found.append((receiver, expected(flow, set(products), types)))
    return found


def measure(flow: Workload, history: Path) -> dict[str, Any]:
    """Play the market once; return the figures."""
    runtime = history / "run"
    runtime.mkdir()
    flags = ("--history", str(history / "archive"), "--runtime-dir", str(runtime))
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(servers.hedgehogd(flow, flags=flags))
        groups = receivers(stack, running, flow)
        for receiver, _ in groups:
            receiver.ask("start")
        pid = running.server.pid
        used_s, begun_s, memory = cpu_s(pid), time.monotonic(), 0
        running.player.tell("go")
        line = None
        while line is None:
            line = running.player.line(5.0)
            memory = max(memory, rss_bytes(pid))
            if time.monotonic() > begun_s + flow.duration_s + 60:
                raise BenchError("the feeder did not end")
        late = servers.feeder_lateness(line)
        counts = [(count, receiver.ask(f"wait {count} 5000", 30)) for receiver, count in groups]
        used_s, wall_s = cpu_s(pid) - used_s, time.monotonic() - begun_s
        metrics = running.metrics()
        time.sleep(2)  # the archiver copies the rest
        window_bytes = size(runtime)
        running.server.end(30)
    unequal = [
        f"{got['min']}–{got['max']} of {count}"
        for count, got in counts
        if not got["min"] == got["max"] == count
    ]
    return {
        "wall_s": wall_s,
        "cpu_s": used_s,
        "rss_bytes_max": memory,
        "window_bytes": window_bytes,
        "archive_bytes": size(history / "archive"),
        "late": late,
        "unequal": unequal,
        "deliveries": sum(
            count * (OF_ALL if number == 0 else OF_GROUP)
            for number, (count, _) in enumerate(counts)
        ),
        "overruns": metrics.get("hedgehogd_history_overruns_total"),
    }


def run(*, quick: bool) -> None:
    """Play, compare, print the table, write the JSON."""
    seconds = 30 if quick else 600
    flow = market(seconds)
    with tempfile.TemporaryDirectory(prefix="bench-exchange-", dir=BUILD) as place:
        figures = measure(flow, Path(place))
        schedule = BUILD / "workloads" / f"{flow.name}.schedule"
        figures["archive"] = found = json.loads(
            process("compare", schedule, Path(place) / "archive")
        )
    per_message = figures["archive_bytes"] / max(found["messages"], 1)
    lost = found["missing"] + found["superfluous"] + found["gaps"] + found["damaged"]
    rate = found["scheduled"] / seconds + len(flow.products)  # and a heartbeat a second of each
    table(
        f"exchange: 400 products, {rate:,.0f} messages/s for {seconds} s, "
        f"{OF_ALL + GROUPS * OF_GROUP} subscribers",
        ["figure", "value", "expected"],
        [
            ["daemon's core", f"{figures['cpu_s'] / figures['wall_s']:.0%}", ""],
            ["daemon's memory, most, MB", figures["rss_bytes_max"] / 2**20, ""],
            ["deliveries", figures["deliveries"], ""],
            ["subscribers' groups with another number", len(figures["unequal"]), "0"],
            ["messages in the archive", found["messages"], ""],
            ["of them heartbeats", found["heartbeats"], ""],
            ["scheduled messages", found["scheduled"], ""],
            ["missing in the archive", found["missing"], "0"],
            ["superfluous, gaps, damaged", lost - found["missing"], "0"],
            ["archive, bytes per message", per_message, f"≤ {BYTES_BAR:g}"],
            ["window, MB", figures["window_bytes"] / 2**20, "≤ 256"],
            ["feeder late, p99 µs", figures["late"].get("late_us_p99"), ""],
        ],
    )
    print(f"  bytes per message: {verdict(per_message, BYTES_BAR, BYTES_MOONSHOT)}")
    is_whole = not figures["unequal"] and lost == 0
    print(f"  nothing lost: {'yes' if is_whole else 'NO'}\n")
    write("exchange", quick=quick, result=figures)
    if not is_whole:
        raise BenchError(f"messages were lost: {figures['unequal']} {found}")
