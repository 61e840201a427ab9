"""The log's window: commit, CPU of writer and follower, and the wake-up beside a bare datagram.

Five rounds; in each, batches of 1, 8 and 64 real messages, made right before the append. Paced:
the writer appends at 300 batches/s, three followers on the other core wait in trio and read. Its
peer sends the same packed batch as one datagram to each of three processes that wait in the same
way and unpack it. A
*commit* ends when the batch is published, an append *call* when the followers are woken too. A
*wake-up* is the time from the first send to the unpacked records in a follower; *whole* begins
before the batch is packed. *Packing* is the part of a commit that the peer has too: far above its
CPU, it shows that other processes use the caches. CPU: appends without pauses, and a reader of one
batch at a time, in one process. Ratios are computed within a round; figures are medians over the
rounds.

At last the system calls of 2,000 appends are counted (``strace``): none may sync.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from report import median, ratio, table, verdict, write
from rig import BENCH, BUILD, LOAD_CORE, PROJECT_PYTHON, ROOT, SERVER_CORE, BenchError, Child
from workload import RECORDINGS

LIMIT_S = 300.0
SIZES = ("1", "8", "64")
COMMIT_P50_US_BAR, COMMIT_P99_US_BAR = 40.0, 150.0
WRITER_US_BAR = {"8": 4.0, "64": 1.0}
READER_US_BAR = {"8": 2.5, "64": 1.0}
WAKEUP_BAR = 1.25
TRACED_APPENDS = 2_000
SYNCING = re.compile(r"sync|fdatasync|flock|fcntl")


def measure(recording: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Return the rounds' figures, from a process of the project's Python."""
    rounds = 2 if quick else 5
    command = [PROJECT_PYTHON, BENCH / "log_process.py", recording, "--rounds", str(rounds),
        "--count", "200" if quick else "900", "--follower-core", str(LOAD_CORE)]  # fmt: skip
    with Child("log", command, core=SERVER_CORE) as child:
        return [json.loads(child.expect("{", LIMIT_S)) for _ in range(rounds)]


def figure(rounds: list[dict[str, Any]], part: str, size: str, name: str) -> float | None:
    """Return the median of one figure over the rounds."""
    return median([one[part][size][name] for one in rounds])


def commit_table(rounds: list[dict[str, Any]]) -> None:
    """Print commits and CPU."""
    rows = []
    for size in SIZES:
        p50, p99 = (figure(rounds, "log", size, f"commit_{name}") for name in ("p50", "p99"))
        writer = figure(rounds, "cpu", size, "writer_us")
        reader = figure(rounds, "cpu", size, "reader_us")
        call = figure(rounds, "log", size, "call_p50")
        packed = figure(rounds, "datagram", size, "commit_p50")
        live = figure(rounds, "log", size, "read_us")
        verdicts = [
            "p50 " + verdict(p50, COMMIT_P50_US_BAR),
            "p99 " + verdict(p99, COMMIT_P99_US_BAR),
        ]
        if size in WRITER_US_BAR:
            verdicts.append("writer " + verdict(writer, WRITER_US_BAR[size]))
            verdicts.append("reader " + verdict(reader, READER_US_BAR[size]))
        rows.append([int(size), p50, p99, packed, call, writer, reader, live, "\n".join(verdicts)])
    table(
        f"log: commit in µs, CPU in µs a message; median of {len(rounds)}",
        [
            "batch",
            "commit p50",
            "p99",
            "packing p50",
            "call p50",
            "writer",
            "reader",
            "reader, paced",
            "bar",
        ],
        rows,
    )


def wakeup_table(rounds: list[dict[str, Any]]) -> None:
    """Print wake-ups beside the datagram's."""
    rows = []
    for size in SIZES:
        for name, text in (("wakeup_p50", "wake-up p50"), ("wakeup_p99", "wake-up p99"),
                ("whole_p50", "whole p50")):  # fmt: skip
            ours = figure(rounds, "log", size, name)
            peer = figure(rounds, "datagram", size, name)
            times = [ratio(one["log"][size][name], one["datagram"][size][name]) for one in rounds]
            found = median(times)
            bar = verdict(found, WAKEUP_BAR) if name == "wakeup_p50" else ""
            rows.append([f"{text}, batch {size}", ours, peer, found, bar])
    table("log: µs to a follower", ["", "log", "datagram", "÷", "bar"], rows)


def trace(recording: Path) -> dict[str, int] | None:
    """Return the system calls of appends, by name; None without strace."""
    if shutil.which("strace") is None:
        return None
    path = BUILD / "logs" / "log.strace"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = ["strace", "-f", "-o", path, PROJECT_PYTHON, BENCH / "log_process.py", recording,
        "--append", str(TRACED_APPENDS)]  # fmt: skip
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    text = path.read_text(errors="replace")
    begin, end = text.find('"appending\\n"'), text.find('"appended\\n"')
    if not 0 <= begin < end:
        raise BenchError("the trace does not show the appends")
    counts: dict[str, int] = {}
    for name in re.findall(r"^\d+ +(\w+)\(", text[begin:end], re.MULTILINE):
        counts[name] = counts.get(name, 0) + 1
    counts["write"] = counts.get("write", 1) - 1  # the second mark
    return {name: count for name, count in counts.items() if count}


def trace_table(calls: dict[str, int] | None) -> None:
    """Print the system calls of an append."""
    if calls is None:
        print("  strace is not installed: the system calls are not counted\n")
        return
    rows = [
        [name, count, count / TRACED_APPENDS, "FAILS: it syncs" if SYNCING.search(name) else ""]
        for name, count in sorted(calls.items(), key=lambda item: -item[1])
    ]
    table(
        f"log: system calls of {TRACED_APPENDS:,} appends of 8", ["call", "", "each", "bar"], rows
    )


def run(*, quick: bool) -> None:
    """Measure, print the tables, write the JSON."""
    folders = sorted(RECORDINGS.glob("cryptofeed-2021-*"))
    if not folders:
        raise BenchError(f"the recording is missing: {RECORDINGS}/cryptofeed-2021-*")
    recording = folders[0] / "feed.jsonl"
    rounds = measure(recording, quick=quick)
    commit_table(rounds)
    wakeup_table(rounds)
    calls = trace(recording)
    trace_table(calls)
    write("log", quick=quick, result={"rounds": len(rounds), "raw": rounds, "system_calls": calls})
