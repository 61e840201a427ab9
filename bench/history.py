"""History: the cost of writing, reading and resuming, and the size of the store.

The store is written as the recorder does it, a quarter of a second of messages at a time: the
shared recording repeatedly, with rising numbers and times. Then a reader with an empty cache
reads one topic of each channel from its beginning (the file is in the system's cache). The peer
is the plainest store: SQLite, a row for each message, an index, the same transactions. It is
read twice: rows alone, and rows made into messages ready to send, as hedgehogd's reader makes
them. Wall time on one core; memory is the highest growth of the process.

Blocks are those of the recording once, in its own rhythm. The peers compress the same content,
payloads and receive times: zlib a block at a time without hedgehogd's dictionary, and one gzip
of all.

Then hundreds of subscribers resume at once; ``history_resume`` describes it.
"""

import json
from typing import Any

import history_resume
import prepare
from history_resume import MESSAGES, TRADES_PER_S, WHERE, Plan
from report import median, ratio, table, verdict, write
from rig import BENCH, LOAD_CORE, PROJECT_PYTHON, BenchError, Child
from workload import RECORDINGS

LIMIT_S = 120.0
WRITE_BAR, READ_BAR = 50_000.0, 200_000.0  # messages a second
MEMORY_MB_BAR = 64.0  # unpacked messages in the reader's cache (limits.HISTORY_CACHE_BYTES_MAX)
SHRINK_BARS = {"matches": 3.5, "ticker": 3.5, "level2": 8.0}
RESUME_S_BAR, P99_MS_BAR = 10.0, 100.0
DISTURBED = 0.05


def at_least(value: float | None, bar: float) -> str:
    """Return whether a figure reaches its bar, where more is better."""
    if value is None:
        return "not measured"
    return f"{'passes (≥' if value >= bar else 'FAILS (<'} {bar:,.10g})"


def store_rounds(copies: int, rounds: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the figures of compression and of the rounds, from the project's Python."""
    folders = sorted(RECORDINGS.glob("cryptofeed-2021-*"))
    if not folders:
        raise BenchError(f"the recording is missing: {RECORDINGS}/cryptofeed-2021-*")
    command = [PROJECT_PYTHON, BENCH / "history_process.py", folders[0]]
    command += ["--rounds", str(rounds), "--copies", str(copies)]
    with Child("history", command, core=LOAD_CORE) as child:
        lines = [json.loads(child.expect("{", LIMIT_S)) for _ in range(rounds + 1)]
    return lines[0], lines[1:]


def per_s(run: dict[str, float]) -> float:
    """Return messages a second of wall time."""
    return run["messages"] / run["wall_s"]


def store_table(rounds: list[dict[str, Any]]) -> None:
    """Print speed, memory and size of the store beside the peer's."""

    def line(name: str, pick: list[dict[str, float]], ours: list[dict[str, float]],
             disk: str, bar: float | None) -> list[object]:  # fmt: skip
        speed = median([per_s(run) for run in pick])
        grown = max(run["rss_grown"] for run in pick) / 2**20
        remark = ""
        if bar is not None:
            remark = at_least(speed, bar)
        if pick is ours and bar is not None:
            remark += f"; memory {verdict(grown, MEMORY_MB_BAR, unit=' MB')}"
        return [
            name,
            round(pick[0]["messages"]),
            speed,
            median([run["cpu_s"] / run["messages"] * 1e6 for run in pick]),
            None if pick is ours else median(
                [ratio(per_s(a), per_s(b)) for a, b in zip(pick, ours, strict=True)]
            ),
            grown if pick is ours else None,
            median([run[disk] / 1e6 for run in rounds]) if disk else None,
            remark,
        ]  # fmt: skip

    written = [one["write"] for one in rounds]
    rows = [
        line("write", written, written, "disk", WRITE_BAR),
        line("  SQLite, one row each", [one["write_peer"] for one in rounds], written,
             "disk_peer", None),
    ]  # fmt: skip
    for channel, found in sorted(rounds[0]["read"].items()):
        runs = {key: [one["read"][channel][key] for one in rounds]
                for key in ("ours", "rows", "messages")}  # fmt: skip
        bar = READ_BAR if channel == "level2" else None  # the rest is quiet in the recording
        rows += [
            line(f"read {found['topic']}", runs["ours"], runs["ours"], "", bar),
            line("  SQLite, rows alone", runs["rows"], runs["ours"], "", None),
            line("  SQLite, made messages", runs["messages"], runs["ours"], "", None),
        ]
    table(
        f"history: the store, {rounds[0]['raw'] / 1e6:.1f} MB of payloads in "
        f"{rounds[0]['transactions']:,} transactions; median of {len(rounds)}",
        ["step", "messages", "per s", "CPU µs", "× ours", "RSS + MB", "disk MB", "bar"],
        rows,
    )


def shrink_table(found: dict[str, dict[str, float]]) -> None:
    """Print the compression ratios."""
    rows = []
    for channel, row in sorted(found.items()):
        times = row["raw"] / row["ours"]
        bar = SHRINK_BARS.get(channel)
        rows.append([
            channel, round(row["messages"]), round(row["blocks"]), row["raw"] / 1000, times,
            row["raw"] / row["zlib"], row["raw"] / row["gzip"],
            row["pack_s"] / row["messages"] * 1e6, row["unpack_s"] / row["messages"] * 1e6,
            "" if bar is None else at_least(times, bar),
        ])  # fmt: skip
    table(
        "history: blocks of the recording, times smaller than its payloads",
        ["channel", "messages", "blocks", "KB", "ours", "zlib", "one gzip", "pack µs", "unpack µs",
         "bar"],
        rows,
    )  # fmt: skip


def resume_row(name: str, runs: list[dict[str, Any]], key: str, fault: str) -> list[object]:
    """Return one line of the table: medians over the rounds."""
    if not runs:
        return [name, *[None] * 9, fault]

    def ms(step: str, percentile: str) -> float | None:
        found = [run[step]["latency_us"].get(percentile) for run in runs]
        return median([None if us is None else us / 1000 for us in found])

    is_ours = key == "resumed"
    disturbed = any(run[key]["waited_s"] > DISTURBED * run[key]["seconds"] for run in runs)
    late = any(run["late_s"] > 0 for run in runs) and is_ours
    overrun = any(run["overruns"] for run in runs)
    share = median([run["tape_share"] for run in runs]) or 0.0
    remarks = [f"{share:.0%} on the tape; each message arrived once" * is_ours]
    remarks += ["disturbed" * disturbed, "late" * late]
    remarks += ["overrun" * overrun, fault * is_ours]
    return [
        name,
        median([run[key]["seconds"] for run in runs]),
        median([run[key]["cpu_s"] for run in runs]),
        median([run["calm"]["core"] * run[key]["seconds"] for run in runs]),
        median([run[key]["bytes"] / 1e6 for run in runs]),
        ms("calm", "p99"),
        ms(key, "p50"),
        ms(key, "p99"),
        ms(key, "max"),
        median([(run["rss_highest"] - run["rss_before"]) / 2**20 for run in runs])
        if is_ours else None,
        "; ".join(filter(None, remarks)),
    ]  # fmt: skip


def resume_tables(
    plan: Plan, figures: dict[str, list[dict[str, Any]]], faults: dict[str, str]
) -> None:
    """Print the cost of resuming and of joining without a position."""
    rows = []
    for name, runs in figures.items():
        rows.append(resume_row(name, runs, "resumed", faults.get(name, "")))
        rows.append(resume_row("  join, no position", runs, "joined", ""))
    table(
        f"history: {plan.count:,} resume {plan.back_s} s of {TRADES_PER_S * MESSAGES} messages/s at"
        f" once, beside {plan.count:,} live ones; median of {max(map(len, figures.values()))}",
        ["resumed", "s", "CPU s", "calm CPU", "MB", "p99 before", "p50 ms", "p99 ms", "max ms",
         "RSS + MB", "remarks"],
        rows,
    )  # fmt: skip
    print("  peer: none is known that resumes by sequence")
    for name, runs in figures.items():
        seconds = median([run["resumed"]["seconds"] for run in runs])
        p99 = median([run["resumed"]["latency_us"]["p99"] / 1000 for run in runs])
        print(f"  {name}: all caught up {verdict(seconds, RESUME_S_BAR, unit=' s')}; "
              f"live p99 {verdict(p99, P99_MS_BAR, unit=' ms')}")  # fmt: skip


def run(*, quick: bool) -> None:
    """Measure, print the tables, write the JSON."""
    copies, rounds, storms = (12, 1, 1) if quick else (40, 5, 3)
    plan = Plan(100, 20, 2.5, 5, 3) if quick else Plan(500, 60, 4.0, 9, 12)
    if why := prepare.why_missing("python"):
        raise BenchError(f"no library for the resumer that checks each byte: {why}")
    shrunk, stores = store_rounds(copies, rounds)
    shrink_table(shrunk)
    store_table(stores)
    flow = history_resume.load(plan)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in WHERE}
    faults: dict[str, str] = {}
    for _ in range(storms):
        for name, flags in WHERE.items():
            try:
                figures[name].append(history_resume.measure(plan, flow, flags))
            except BenchError as error:
                faults[name] = str(error)
    resume_tables(plan, figures, faults)
    result = {"rounds": rounds, "storms": storms, "plan": plan._asdict(), "faults": faults}
    result |= {"blocks": shrunk, "stores": stores, "raw": figures}
    write("history", quick=quick, result=result)
    if faults:
        raise BenchError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
