"""5,000 subscribers on one instance for a minute, none dropped; then SIGTERM under load.

Ten messages a second for a minute; each subscriber must get every one. The counts are read in a
pause of some seconds; then the load continues, and two seconds later the daemon gets SIGTERM. It
must close every subscriber with 1012 ("service restart") and exit with 0 within its drain time.
"""

import signal
import subprocess
import time
from typing import Any

import servers
import workload
from report import table, write
from rig import BenchError, Receiver, cpu_s, rss_bytes
from workload import STAMP_KEY, Workload

PER_S = 10
PAUSE_S = 5.0
AFTER_S = 40.0  # load after the pause: longer than any drain
DRAIN_S = 20.0  # the default of drain.timeout_s


def load(seconds: float) -> Workload:
    """Return the counted part, a pause, and the part during which the daemon ends."""
    whole = workload.steady("", seconds=seconds + AFTER_S, per_s=PER_S)
    counted = round(seconds * PER_S)
    messages = [
        (due_us + (0 if i < counted else round(PAUSE_S * 1e6)), payload)
        for i, (due_us, payload) in enumerate(whole.messages)
    ]
    return Workload("subscribers", messages, whole.state, whole.channels)


def drain(running: servers.Running, receiver: Receiver) -> dict[str, Any]:
    """Send SIGTERM during the load; return the figures of the end."""
    receiver.ask("start")
    deadline = time.monotonic() + 2 * PAUSE_S
    while receiver.ask("report")["messages"] == 0:
        if time.monotonic() > deadline:
            raise BenchError("the load did not continue after the pause")
        time.sleep(0.1)
    time.sleep(2)
    begun = time.monotonic()
    running.server.process.send_signal(signal.SIGTERM)
    counts = receiver.ask(f"closed {round(1000 * (DRAIN_S + 10))}", DRAIN_S + 15)
    told_s = time.monotonic() - begun
    try:
        status: int | None = running.server.process.wait(DRAIN_S + 10)
    except subprocess.TimeoutExpired:
        raise BenchError(f"it had not exited {DRAIN_S + 10:g} s after SIGTERM") from None
    return {
        "exit_status": status,
        "seconds": time.monotonic() - begun,
        "all_closed_s": told_s,
        "messages_meanwhile": counts["messages"],
        "closes": counts["closes"],
        "cut": counts["cut"],
        "still_open": counts["open"],
    }


def run(*, quick: bool) -> None:
    """Run the demonstration once, print its table, write the JSON."""
    subscribers, seconds = (1000, 10) if quick else (5000, 60)
    flow = load(seconds)
    expected = seconds * PER_S
    with (
        servers.hedgehogd(flow, stamp=True) as running,
        Receiver(
            running.port, subscribers, subscribe=running.subscribe, stamp=STAMP_KEY
        ) as receiver,
    ):
        pid = running.server.pid
        joined = receiver.join(running.state_messages)
        receiver.ask("start")
        before = cpu_s(pid)
        running.player.tell("go")
        counts = receiver.ask(f"wait {expected} {round(PAUSE_S * 800)}", seconds * 2 + 30)
        used_s, memory = cpu_s(pid) - before, rss_bytes(pid)
        end = drain(running, receiver)
    closed = end["closes"].get("1012", 0)
    kept = (counts["min"], counts["max"], counts["open"]) == (expected, expected, subscribers)
    orderly = end["exit_status"] == 0 and closed == subscribers and end["seconds"] <= DRAIN_S
    latency = counts.get("latency_us", {})
    table(
        f"subscribers: {subscribers:,} on one instance, {PER_S} messages/s for {seconds} s, "
        "then SIGTERM",
        ["figure", "value", "expected"],
        [
            ["connected and subscribed in, s", joined["seconds"], ""],
            ["messages per subscriber, least", counts["min"], f"{expected}"],
            ["messages per subscriber, most", counts["max"], f"{expected}"],
            ["still connected after it", counts["open"], f"{subscribers:,}"],
            ["p99 latency, ms", latency.get("p99", 0) / 1000, ""],
            ["daemon's core", f"{used_s / max(counts['last_s'], 1e-9):.0%}", ""],
            ["daemon's memory, MB", memory / 2**20, ""],
            ["closed with 1012", closed, f"{subscribers:,}"],
            [
                "other closes",
                str({**end["closes"], "none": end["cut"]}),
                f"only {{'1012': {subscribers}}}",
            ],
            ["exit status", end["exit_status"], "0"],
            ["from SIGTERM to exit, s", end["seconds"], f"≤ {DRAIN_S:g}"],
        ],
    )
    result = {"subscribers": subscribers, "counted": counts, "end": end, "joined": joined}
    write("subscribers", quick=quick, result={**result, "cpu_s": used_s, "rss_bytes": memory})
    print(f"  none dropped: {'yes' if kept else 'NO'}; orderly end: {'yes' if orderly else 'NO'}\n")
    if not (kept and orderly):
        raise BenchError("subscribers were lost, or the end was not orderly")
