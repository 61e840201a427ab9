"""Service for honest clients while one address uses every place that it can get.

For each attack of ``attacks.ATTACKS`` and each route, in one round: honest clients alone, then
the same beside 1,500 sockets of the attack, fewer where each does more. Attackers connect from
127.0.0.2, honest clients from 127.0.0.3, 30 a second: a quarter each reads a ticker, reads
history, sends a command with a body, and opens a WebSocket. The simulated exchange is a process
on the clients' core, as in the field it is another machine. The routes: ``direct``; ``no
limits``, which is direct without limits per address, so that only the door's places protect;
and ``HAProxy``, with 1,500 connections in all, as many as the attack has. The daemon's memory is
shown before the attack, at its highest, and 12 s after it.

Success is the share of honest clients that were served within 5 s; times are from connecting to
the end. The bar: all are served, and p99 is at most twice its value without the attack.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any

import servers
from attacks import ATTACKS, CHANNELS, PAIRS
from report import median, ratio, table, verdict, write
from rig import (
    BENCH,
    BUILD,
    LOAD_CORE,
    PROJECT_PYTHON,
    ROOT,
    SERVER_CORE,
    BenchError,
    Child,
    cpu_s,
    free_port,
    needs,
)
from stalled import Watch

SOCKETS = 1500
PER_S = 30.0
MB = ("MB before", "highest", "after")
AFTER_S = 12.0  # backlogs live for 10 s; then the allocator returns the freed memory
WARM_UP_S = 8.0  # records some history for the slow readers
RATIO_MAX = 2.0
FIRST_PORT = 8000  # an instance's number is its port less this
NO_LIMITS = ("--address-connections-max", "1000000", "--address-connections-per-s", "1000000")
ROUTES = ("direct", "no limits", "HAProxy")


@contextmanager
def daemon(*flags: str, holds_all: bool = False) -> Iterator[tuple[Child, int]]:
    """Run hedgehogd on a simulated exchange, with some history; yield it and its port.

    With ``holds_all`` it holds all topics of the attack from the start: its work for these topics
    must not count as the attack's.
    """
    rate, held = "10", ["--pairs", "BTC-USD"]
    if holds_all:
        rate, held = "1", ["--pairs", ",".join(PAIRS), "--channels", ",".join(CHANNELS)]
    exchange_port, port = free_port(), free_port()
    exchange = [*servers.daemon_command, "simulate", "--port", str(exchange_port)]
    exchange += ["--seed", "7", "--rate", rate]
    with (
        tempfile.TemporaryDirectory(prefix="hedgehogd-attack-") as folder,
        Child(f"exchange-{exchange_port}", exchange, core=LOAD_CORE, silent=True) as market,
    ):
        servers.wait_listening(market, exchange_port)
        command = [*servers.daemon_command, "--feed", f"ws://127.0.0.1:{exchange_port}/ws-feed"]
        command += [*held, "--history", folder]
        command += ["--port", str(port), *flags]
        with Child(f"hedgehogd-{port}", command, core=SERVER_CORE, silent=True) as server:
            servers.wait_listening(server, port)
            time.sleep(WARM_UP_S)
            yield server, port


@contextmanager
def attacked_daemon(name: str, *, holds_all: bool = False) -> Iterator[tuple[list[Child], int]]:
    """Run the attacked daemon on this route; yield its processes and the port."""
    with contextlib.ExitStack() as stack:
        flags = NO_LIMITS if name == "no limits" else ()
        if flags and not knows(NO_LIMITS[0]):
            flags = ()
        server, port = stack.enter_context(daemon(*flags, holds_all=holds_all))
        if name != "HAProxy":
            yield [server], port
            return
        needs("haproxy")
        public = free_port()
        command = [*servers.daemon_command, "haproxy-config", "--instances", str(port - FIRST_PORT)]
        command += ["--bind", "127.0.0.1", "--port", str(public), "--unprivileged"]
        command += ["--statistics-port", str(free_port()), "--connections-max", str(SOCKETS)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"haproxy-config: {done.stderr.strip()}")
        path: Path = BUILD / "haproxy-attack.cfg"
        path.write_text(done.stdout)
        haproxy = stack.enter_context(
            Child("haproxy", ["haproxy", "-db", "-f", path], core=SERVER_CORE, silent=True)
        )
        servers.wait_listening(haproxy, public)
        time.sleep(1.5)  # until its health checks mark the instance as up
        yield [server, haproxy], public


def knows(flag: str) -> bool:
    """Report whether the measured daemon has ``flag``; older ones have no limits."""
    command = [*servers.daemon_command, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return flag in done.stdout


def process(role: str, port: int, *arguments: object) -> Child:
    """Start the crowd or the honest clients, which have priority on the core that both share."""
    command = [PROJECT_PYTHON, BENCH / "attack_process.py", role, str(port), "1"]
    child = Child(f"attack-{role}", [*command, *map(str, arguments)], core=LOAD_CORE)
    if role == "crowd":
        with contextlib.suppress(OSError):
            Path(f"/proc/{child.pid}/autogroup").write_text("0")
    return child


def served(port: int, count: int) -> dict[str, Any]:
    """Run honest clients; return their figures."""
    with process("honest", port, count, PER_S) as honest:
        honest.expect("ready")
        honest.tell("go")
        line = honest.expect("served", count / PER_S + 20)
    figures: dict[str, Any] = json.loads(line.partition(" ")[2])
    return figures


def measure(way: str, attack: str, count: int, sockets: int) -> dict[str, Any]:
    """Measure one attack on one route; return the raw figures."""
    holds_all = getattr(ATTACKS[attack], "subscribes", False)
    with attacked_daemon(way, holds_all=holds_all) as (children, port):
        calm = served(port, count)
        watch = Watch(children[0].pid)
        watch.start()
        with process("crowd", port, attack, sockets) as crowd:
            crowd.expect("ready", 60)
            before = sum(cpu_s(child.pid) for child in children)
            began = time.monotonic()
            attacked = served(port, count)
            elapsed_s = time.monotonic() - began
            used_s = sum(cpu_s(child.pid) for child in children) - before
            rss = [watch.samples[0], max(watch.samples)]
            crowd.tell("stop")
            toll = json.loads(crowd.expect("toll").partition(" ")[2])
        time.sleep(AFTER_S)
        watch.ended.set()
        watch.join()
    return {
        "way": way,
        "rss": [*rss, watch.samples[-1]],
        "attack": attack,
        "calm": calm,
        "attacked": attacked,
        "toll": toll,
        "core": used_s / elapsed_s,
    }


def run(*, quick: bool, only: list[str] | None = None, ways: list[str] | None = None) -> None:
    """Measure the attacks on each route, print the table, write the JSON."""
    count, rounds = (240, 1) if quick else (600, 3)
    ways = ways or list(ROUTES)
    if unknown := [way for way in ways if way not in ROUTES]:
        raise BenchError(f"no route {', '.join(unknown)}; the routes are {', '.join(ROUTES)}")
    names = [name for name in ATTACKS if not only or any(part in name for part in only)]
    if "HAProxy" in ways and not shutil.which("haproxy"):
        ways = [way for way in ways if way != "HAProxy"]
    raw: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for name in names:
            for way in ways:
                sockets = getattr(ATTACKS[name], "sockets", SOCKETS)
                raw.setdefault((name, way), []).append(measure(way, name, count, sockets))
    rows, worst, failed = [], 0.0, 0.0
    for (name, way), runs in raw.items():
        success = min(each["attacked"]["success"] for each in runs)
        ratios = [ratio(each["attacked"]["p99_ms"], each["calm"]["p99_ms"]) for each in runs]
        worst, failed = max(worst, median(ratios) or 0.0), max(failed, 1 - success)
        failures = {k: v for each in runs for k, v in each["attacked"]["failures"].items()}
        slowest = [
            max(each["attacked"]["slowest_ms"].items(), key=itemgetter(1), default=("none", 0.0))
            for each in runs
        ]
        rows.append(
            [
                name,
                way,
                success * 100,
                median([each["calm"]["p99_ms"] for each in runs]),
                median([each["attacked"]["p99_ms"] for each in runs]),
                median(ratios),
                "/".join(sorted({visit for visit, _ in slowest})),
                median([each["toll"]["held_most"] for each in runs]),
                median([each["core"] for each in runs]),
                *((median([each["rss"][n] for each in runs]) or 0.0) / 2**20 for n in range(3)),
                ", ".join(f"{failure} × {count}" for failure, count in failures.items()),
            ]
        )
    table(
        f"attack: up to {SOCKETS} sockets of one address, {PER_S:g} honest clients a second; "
        f"median of {rounds}",
        [
            *("attack", "route", "served %", "calm p99 ms", "p99 ms", "ratio", "slowest", "held"),
            *("core", *MB, ""),
        ],
        rows,
    )
    print(f"  served: {verdict(100 * failed, 0.0, unit=' % were not')}")
    print(f"  p99 ÷ calm p99, the worst: {verdict(worst, RATIO_MAX)}")
    write("attack", quick=quick, result={"rounds": rounds, "raw": [*chain(*raw.values())]})
