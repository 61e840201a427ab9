"""Order books: CPU per level2 change, and the longest turn of the loop.

Two streams of l2updates, one change a message: the recording of ten products, and random
changes of a book of 46,000 levels, 70 % near the best and 30 % anywhere. Decoding (msgspec) and
applying are timed apart. The peer is the usual book of a client: ``sortedcontainers.SortedDict``
with Decimal keys; a second one has hedgehogd's whole-number keys, to measure the structure alone.
Neither does hedgehogd's further work: checking every amount before any change is applied, and
naming bare removals.

Then the long turns: a snapshot of 46,000 levels loaded in slices, frozen, and one of 1 MB
written in slices of 4,000 levels; the same for single orders. Figures are medians over the
rounds; of slices, the median of each round's longest. CPU time of the thread, cycle collector
set as the daemon sets it.
"""

import json
from typing import Any

import prepare
from report import median, ratio, table, verdict, write
from rig import BENCH, LOAD_CORE, PROJECT_PYTHON, ROOT, BenchError, Child
from workload import RECORDINGS

LIMIT_S = 600.0
CHANGE_US_BAR = 3.0
SLICE_MS_BAR = 5.0
FREEZE_MS_BAR = 2.0
OURS = "hedgehogd"
NAMES = {
    OURS: OURS,
    "decimal": "SortedDict, Decimal keys",
    "int": "SortedDict, whole-number keys",
}


def measure(*, quick: bool) -> list[dict[str, Any]]:
    """Return the rounds' figures, from a process of the project's Python."""
    folders = sorted(RECORDINGS.glob("cryptofeed-2021-*"))
    if not folders:
        raise BenchError(f"the recording is missing: {RECORDINGS}/cryptofeed-2021-*")
    packages = [str(path) for path in (prepare.BUILD / "venv" / "lib").glob("*/site-packages")]
    command = [PROJECT_PYTHON, BENCH / "book_process.py", folders[0] / "feed.jsonl", *packages]
    count = 2 if quick else 9
    with Child("book", [*command, "--rounds", str(count)], core=LOAD_CORE) as child:
        return [json.loads(child.expect("{", LIMIT_S)) for _ in range(count)]


def changes_table(rounds: list[dict[str, Any]]) -> None:
    """Print the cost of a change for hedgehogd and the peers."""
    rows = []
    for stream in ("recording", "46,000 levels"):
        for key, name in NAMES.items():
            us = median([one["apply_us"][stream].get(key) for one in rounds])
            times = median(
                [ratio(one["apply_us"][stream].get(key), one["apply_us"][stream][OURS])
                 for one in rounds]
            )  # fmt: skip
            decode = median([one["decode_us"][stream] for one in rounds]) if key == OURS else None
            remark = verdict(us, CHANGE_US_BAR) if key == OURS else ""
            if us is None:
                remark = prepare.why_missing("python") or "not measured"
            rows.append([stream, name, decode, us, times, remark])
    table(
        f"book: CPU per l2update of one change; median of {len(rounds)}",
        ["stream", "book", "decode µs", "apply µs", "÷ ours", "bar"],
        rows,
    )


def turns_table(rounds: list[dict[str, Any]]) -> None:
    """Print whole times and longest turns."""
    bars = {"book: freeze": FREEZE_MS_BAR, "orders: freeze": FREEZE_MS_BAR}
    rows = []
    for name in rounds[0]["turns_ms"]:
        whole, longest = (median([one["turns_ms"][name][i] for one in rounds]) for i in (0, 1))
        sliced = rounds[0]["turns_ms"][name][2] > 1
        bar = bars.get(name, SLICE_MS_BAR if sliced else None)
        remark = "" if bar is None else verdict(longest, bar)
        rows.append([name, rounds[0]["turns_ms"][name][2], whole, longest, remark])
    table("book: long turns", ["step", "turns", "whole ms", "longest ms", "bar"], rows)
    rows = [[name, median([one["orders_us"][name] for one in rounds]), ""]
            for name in rounds[0]["orders_us"]]  # fmt: skip
    table("orders: CPU per event of full", ["step", "µs", "remarks"], rows)


def run(*, quick: bool) -> None:
    """Measure, print the tables, write the JSON."""
    if not ROOT.joinpath("hedgehogd", "domain", "book.py").exists():
        raise BenchError("no hedgehogd/domain/book.py")
    rounds = measure(quick=quick)
    changes_table(rounds)
    turns_table(rounds)
    write("book", quick=quick, result={"rounds": len(rounds), "raw": rounds})
