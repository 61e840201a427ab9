"""History: hundreds of subscribers resume a busy minute at once; ``history_resume`` describes it.

``archive`` measures writing, reading and the size; ``replay`` the replay of history.
"""

from typing import Any

import history_resume
import prepare
from history_resume import MESSAGES, TRADES_PER_S, WHERE, Plan
from report import median, table, verdict, write
from rig import BenchError

RESUME_S_BAR, P99_MS_BAR = 10.0, 100.0
DISTURBED = 0.05


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
    storms = 1 if quick else 3
    plan = Plan(100, 20, 2.5, 5, 3) if quick else Plan(500, 60, 4.0, 9, 12)
    if why := prepare.why_missing("python"):
        raise BenchError(f"no library for the resumer that checks each byte: {why}")
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
    result = {"storms": storms, "plan": plan._asdict(), "faults": faults, "raw": figures}
    write("history", quick=quick, result=result)
    if faults:
        raise BenchError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
