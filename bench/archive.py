"""The archive: bytes on disk, speed, and growth with its size.

The market is simulated: 400 products, ticker, matches, level2 and heartbeat, 2,500 messages a
second, with a checkpoint of all books in each segment. It is written at full speed: a sync for
each 20 s of the market, as many messages as a second of wall time brings then. Reads begin with an
empty cache; the files are in the system's cache. ``archive_beside`` describes retention.

The peer is DuckDB's Parquet of the same rows, sorted by topic and by id, zstd, its row groups of
64 Ki rows as large as a block.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import at_least, table, verdict, write
from rig import BENCH, BUILD, LOAD_CORE, PROJECT_PYTHON, BenchError, Child

BYTES_BAR, BYTES_MOONSHOT = 30.0, 20.0
WRITE_BAR, ONE_BAR, ALL_BAR = 50_000.0, 200_000.0, 50_000.0  # records a second
START_S_BAR, RETENTION_MS_BAR = 1.0, 50.0
LIMIT_S = 3_600.0
SINGLE = (
    "start", "first page", "deep page", "first page of all", "deep page of all", "newest first",
    "replay start", "export", "store check",
)  # fmt: skip
_DUCKDB = """
import os, sys
import duckdb
source, target = sys.argv[1:]
duckdb.sql("SET enable_progress_bar = false")  # it would be on stdout
duckdb.sql(f'''CREATE TABLE message AS SELECT
    CAST(json->>'$[0]' AS BIGINT) id, CAST(json->>'$[1]' AS BIGINT) received_us,
    json->>'$[2]' channel, json->>'$[3]' product_id, CAST(json->>'$[4]' AS BIGINT) sequence,
    CAST(json->>'$[5]' AS BIGINT) trade_id, json->>'$[6]' payload
    FROM read_json_objects('{source}', format = 'newline_delimited')''')
for order in ("channel, product_id, id", "id"):
    duckdb.sql(f'''COPY (SELECT * FROM message ORDER BY {order}) TO '{target}'
        (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 65536)''')
    print(order.split(",")[0], os.path.getsize(target), flush=True)
"""


def parquet(plain: Path) -> dict[str, int] | str:
    """Return the bytes of DuckDB's Parquet by the order of its rows; or why it is missing."""
    python = BUILD / "duckdb" / "bin" / "python"
    try:
        if not python.exists():
            make = [sys.executable, "-m", "venv", BUILD / "duckdb"]
            subprocess.run(make, check=True, capture_output=True, timeout=120)
        install = [python, "-m", "pip", "install", "-q", "duckdb"]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
        command = [python, "-c", _DUCKDB, plain, plain.with_suffix(".parquet")]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        return f"DuckDB: {getattr(error, 'stderr', None) or error}"
    return {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}


def measured(directory: Path, seconds: int, sizes: list[int]) -> list[dict[str, Any]]:
    """Return the steps of the measured process, in order."""
    command: list[Any] = [PROJECT_PYTHON, BENCH / "archive_process.py", directory / "archives"]
    command += ["--seconds", str(seconds), "--plain", directory / "plain.ndjson"]
    for size in sizes:
        command += ["--raw-bytes", str(size)]
    steps: list[dict[str, Any]] = []
    with Child("archive", command, core=LOAD_CORE) as child:
        while sum(step["step"] == "end" for step in steps) < len(sizes):
            steps.append(json.loads(child.expect("{", LIMIT_S)))
            print(f"  {json.dumps(steps[-1])}", file=sys.stderr, flush=True)  # it takes minutes
    return steps


def rows_of(steps: list[dict[str, Any]]) -> list[list[object]]:
    """Return the lines of the table of speeds."""
    lines: list[list[object]] = []
    for step in steps:
        name, count = step["step"], step.get("records", 0)
        if name in {"market", "retention", "end", *SINGLE} or not count:
            continue
        per_s = count / step["wall_s"]
        bar = ONE_BAR if ":" in name else WRITE_BAR if name.startswith("write") else ALL_BAR
        remark = at_least(per_s, bar)
        if name.startswith("write"):
            each = step["disk"] / count
            remark += f"; {verdict(each, BYTES_BAR, BYTES_MOONSHOT, ' bytes each')}"
        lines.append([name, count, per_s, step["cpu_s"] / count * 1e6, remark])
    return lines


def single_rows(steps: list[dict[str, Any]], sizes: list[int]) -> list[list[object]]:
    """Return the lines of the steps that are done once, for each size."""
    found: dict[str, list[float]] = {}
    for step in steps:
        if step["step"] in SINGLE:
            found.setdefault(step["step"], []).append(step["wall_s"] * 1000)
    bars = {"start": START_S_BAR * 1000, "replay start": START_S_BAR * 1000}
    lines: list[list[object]] = []
    for name in SINGLE:
        values = found.get(name, [])
        if len(values) == len(sizes):
            remark = verdict(max(values), bars[name], unit=" ms") if name in bars else ""
            lines.append([name, *values, remark])
    return lines


def retention_tables(steps: list[dict[str, Any]], sizes: list[int]) -> None:
    """Print the delays beside retention, and the sizes beside a reader that waits."""
    found = [step for step in steps if step["step"] == "retention"]
    rows: list[list[object]] = []
    disk: list[list[object]] = []
    for size, step in zip(sizes, found, strict=True):
        name = f"{size / 1e9:.2f} GB, {step['segments']} dropped"
        for part, delays in step["delays_s"].items():
            beside, other = delays["beside"], delays["else"]
            more = None if beside is None else 1000 * max(0.0, beside - (other or 0.0))
            shown = [None if value is None else 1000 * value for value in (beside, other)]
            rows.append([f"{name}: {part}", *shown, verdict(more, RETENTION_MS_BAR, unit=" ms")])
        is_bounded = step["files"] <= step["counted"] and step["held"] <= step["before"]
        sizes_mb = [step[key] / 1e6 for key in ("before", "dropped", "files", "counted", "held")]
        disk.append([name, step["appended"], *sizes_mb, "passes" if is_bounded else "FAILS"])
    table(
        "archive: longest delay, ms, beside the drop of a segment and else",
        ["", "beside", "else", "more than else"],
        rows,
    )
    table(
        "archive: MB beside one reader that waits; bar: files ≤ counted, held ≤ before",
        ["", "appended", "before", "dropped", "files", "counted", "held by it", "bar"],
        disk,
    )


def run(*, quick: bool) -> None:
    """Measure, print the tables, write the JSON."""
    seconds, sizes = (40, [30_000_000]) if quick else (120, [500_000_000, 5_000_000_000])
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as place:
        steps = measured(Path(place), seconds, sizes)
        peer = parquet(Path(place) / "plain.ndjson")
    market = next(step for step in steps if step["step"] == "market")
    table(
        f"archive: {market['per_s']:,.0f} messages/s of 400 products, "
        f"{market['raw'] / market['records']:.0f} bytes each; books {market['books'] / 1e6:.1f} MB",
        ["step", "records", "per s", "CPU µs", "bar"],
        rows_of(steps),
    )
    if isinstance(peer, str):
        print(f"  peer: {peer}")
    else:
        for order, size in peer.items():
            print(f"  DuckDB's Parquet, rows by {order}: {size / market['records']:.1f} bytes each")
    table(
        "archive: steps once, ms, by bytes of payloads",
        ["step", *(f"{size / 1e9:.2f} GB" for size in sizes), "bar"],
        single_rows(steps, sizes),
    )
    retention_tables(steps, sizes)
    print(f"  highest memory: {max(s['rss_max'] for s in steps if 'rss_max' in s) / 2**20:.0f} MB, "
          f"of which the market's messages are the most")  # fmt: skip
    write("archive", quick=quick, result={"steps": steps, "parquet": peer})
    if isinstance(peer, str):
        raise BenchError(peer)
