"""``hedgehogd replay --speed 0`` of 400 products: its start, and messages a second.

The archive is that of ``archive``. The process serves it on core 0; on core 1 one client, in plain
Python, subscribes to all products and channels and counts the messages: each ticker, match and
heartbeat of the stretch must arrive. *Listening* is the time from the start of the process, *start*
that from the subscribe until the first of them, half a second of which ``replay`` waits for further
subscribes. The stretch begins at the beginning of the archive, and in its middle: there each book
comes first, made from its newest snapshot or checkpoint and the updates since.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import servers
from report import at_least, table, verdict, write
from rig import (
    BENCH,
    BUILD,
    LOAD_CORE,
    PROJECT_PYTHON,
    SERVER_CORE,
    BenchError,
    Child,
    cpu_s,
    free_port,
)

CHANNELS = ("ticker", "matches", "level2", "heartbeat")
PLACES = ("beginning", "middle")
RATE_BAR, START_S_BAR = 50_000.0, 1.0
LIMIT_S = 1_800.0


def written(directory: Path, seconds: int, raw_bytes: int) -> dict[str, Any]:
    """Write an archive; return its figures."""
    command: list[Any] = [PROJECT_PYTHON, BENCH / "archive_process.py", directory]
    command += ["--seconds", str(seconds), "--raw-bytes", str(raw_bytes), "--write-only"]
    with Child("archive", command, core=LOAD_CORE) as child:
        child.expect('{"step": "market"', LIMIT_S)
        found: dict[str, Any] = json.loads(child.expect("{", LIMIT_S))
    return found


def measure(archive: Path, since: str, messages: int) -> dict[str, Any]:
    """Replay from ``since``; return the raw figures.

    Raises:
        BenchError: not all messages arrived.
    """
    port = free_port()
    command: list[Any] = [*servers.daemon_command, "replay", "--history", archive]
    command += ["--since", since, "--speed", "0", "--port", str(port)]
    begin = time.monotonic()
    with Child("replay", command, core=SERVER_CORE, silent=True) as server:
        servers.wait_listening(server, port)
        listening_s = time.monotonic() - begin
        used_s = cpu_s(server.pid)
        client = [PROJECT_PYTHON, BENCH / "replay_process.py", str(port), str(messages), *CHANNELS]
        with Child("replay-client", client, core=LOAD_CORE) as child:
            found: dict[str, Any] = json.loads(child.expect("{", LIMIT_S))
        found |= {"listening_s": listening_s, "cpu_s": cpu_s(server.pid) - used_s}
    if found["fault"]:
        raise BenchError(f"messages: {found['fault']}")
    return found


def run(*, quick: bool) -> None:
    """Measure, print the table, write the JSON."""
    seconds, sizes = (40, [30_000_000]) if quick else (120, [500_000_000, 5_000_000_000])
    BUILD.mkdir(exist_ok=True)
    found: list[dict[str, Any]] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(dir=BUILD) as place:
            archive = written(Path(place), seconds, size)
            for name, (since, count) in zip(PLACES, archive["places"], strict=True):
                figures = measure(Path(place) / str(size), since, count)
                found.append({"size": size, "place": name, **figures})
    rows = []
    for each in found:
        per_s = each["messages"] / each["wall_s"]
        start = verdict(each["start_s"], START_S_BAR, unit=" s")
        all_messages = each["messages"] + each["before"]
        rows.append([
            f"{each['size'] / 1e9:.2f} GB, {each['place']}", each["products"], each["before"],
            each["messages"], 1000 * each["listening_s"], 1000 * each["start_s"], per_s,
            each["cpu_s"] / all_messages * 1e6, f"{at_least(per_s, RATE_BAR)}; start {start}",
        ])  # fmt: skip
    table(
        "replay --speed 0, all products and channels",
        [
            "payloads, from",
            "products",
            "of books before",
            "messages",
            "listening ms",
            "start ms",
            "per s",
            "CPU µs",
            "bar",
        ],
        rows,
    )
    write("replay", quick=quick, result={"raw": found})
