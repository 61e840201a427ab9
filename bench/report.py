"""Output of every benchmark: a table, and JSON."""

import datetime as dt
import json
import os
import platform
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import prepare
from rig import RESULTS, ROOT

REMARK_MAX = 60


def machine() -> dict[str, Any]:
    """Return a description of the measuring machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> dict[str, Any]:
    """Return the measured commit, and whether the tree differed from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}


def write(name: str, *, quick: bool, result: Mapping[str, Any]) -> None:
    """Write ``results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "benchmark": name,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        **commit(),
        "command": " ".join(["bench/run", *sys.argv[1:]]),
        "quick": quick,
        "machine": machine(),
        "peers": prepare.versions(),
        **result,
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    print(f"  → {path.relative_to(ROOT)}\n", flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; a remark (last column) that is too long becomes a note below it."""
    texts = [[_text(cell) for cell in row] for row in rows]
    notes = []
    for row in texts:
        if len(row[-1]) > REMARK_MAX:
            notes.append(row[-1])
            row[-1] = f"{row[-1].splitlines()[0][: REMARK_MAX - 10]}… [{len(notes)}]"
    widths = [max(len(column), *(len(row[i]) for row in texts)) for i, column in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if i in (0, len(columns) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    print(f"\n{title}\n")
    print("  " + line(columns))
    print("  " + "  ".join("─" * width for width in widths))
    for row in texts:
        print("  " + line(row))
    for number, note in enumerate(notes, 1):
        print(f"\n  [{number}] " + "\n      ".join(note.splitlines()))
    print(flush=True)


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.2f}" if abs(cell) < 100 else f"{cell:,.0f}"
    if isinstance(cell, int):
        return f"{cell:,}"
    return str(cell)


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are not None, or None."""
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None


def spread(values: Sequence[float | None]) -> str | None:
    """Return the median of the values that are not None with their range, or None."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    middle = _text(float(statistics.median(found)))
    if len(found) == 1:
        return middle
    return f"{middle} ({_text(float(min(found)))}–{_text(float(max(found)))})"


def ratios(values: Sequence[float | None], others: Sequence[float | None]) -> list[float | None]:
    """Return value ÷ other for each round, the same minute of the machine."""
    return [ratio(value, other) for value, other in zip(values, others, strict=False)]


def faults(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs' ``faults``, each with its number of runs if not all have it."""
    found = Counter(fault for run in runs for fault in run["faults"])
    return "; ".join(
        fault if times == len(runs) else f"{fault} ({times}/{len(runs)})"
        for fault, times in sorted(found.items())
    )


def is_sound(*servers: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether most runs of each server have no fault: only then a median is judged."""
    return all(2 * sum(bool(run["faults"]) for run in runs) < len(runs) for runs in servers)


def judged(
    value: float | None,
    bar: float,
    moonshot: float,
    *servers: Sequence[Mapping[str, Any]],
    unit: str = "",
) -> str:
    """Return the `verdict`, or that the servers' runs allow none."""
    if value is not None and not is_sound(*servers):
        return f"{value:.2f}{unit}, NOT JUDGED: half of the runs or more have remarks"
    return verdict(value, bar, moonshot, unit)


def ratio(value: float | None, other: float | None) -> float | None:
    """Return value ÷ other, or None if one of them is None or zero."""
    return value / other if value is not None and other else None


def verdict(value: float | None, bar: float, moonshot: float | None = None, unit: str = "") -> str:
    """Return whether a figure reaches its bar and moonshot, where less is better."""
    if value is None:
        return "not measured"
    if moonshot is not None and value <= moonshot:
        return f"{value:.2f}{unit}, moonshot reached (≤ {moonshot:.4g})"
    return f"{value:.2f}{unit}, " + (
        f"passes (≤ {bar:.4g})" if value <= bar else f"FAILS (> {bar:.4g})"
    )


def at_least(value: float | None, bar: float) -> str:
    """Return whether a figure reaches its bar, where more is better."""
    if value is None:
        return "not measured"
    return f"{'passes (≥' if value >= bar else 'FAILS (<'} {bar:,.10g})"
