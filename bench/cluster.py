"""Cost of a load balancer and a second instance: one hedgehogd alone, then HAProxy in front.

The same load three times in one round: one instance that subscribers reach directly, and one and
two instances behind HAProxy. 500 subscribers want a ticker that arrives 40 times a second, each
time alone, so that no part joins messages. All instances and HAProxy (with the configuration of
``hedgehogd haproxy-config``) share core 0, load and feeder core 1, as in every benchmark: the
figure is the CPU of all of them per delivery, not the gain of two cores; "per CPU s" is the
number of deliveries per second of one core. Two instances read the feed twice, which shows only
with few subscribers.
"""

import contextlib
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import servers
import workload
from report import median, ratio, table, write
from rig import BUILD, ROOT, SERVER_CORE, BenchError, Child, Receiver, cpu_s, free_port, needs
from workload import Workload

SUBSCRIBERS = 500
PER_S = 40
LATE_S = 0.1
FIRST_PORT = 8000  # an instance's number is its port less this
SETUPS = {"1 alone": (1, False), "1 behind HAProxy": (1, True), "2 behind HAProxy": (2, True)}
ALONE = "1 alone"


@dataclass(frozen=True)
class Cluster:
    """Ready instances, and the port for subscribers.

    Attributes:
        instances: their processes.
        haproxy: None when subscribers reach the one instance directly.
        port: where subscribers connect.
        player: plays the workload when it receives "go".
    """

    instances: list[Child]
    haproxy: Child | None
    port: int
    player: Child


@contextmanager
def cluster(load: Workload, count: int, *, balanced: bool) -> Iterator[Cluster]:
    """Run ``count`` instances on one feed, behind HAProxy if ``balanced``."""
    feed_port = free_port()
    ports = [free_port() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        player = stack.enter_context(servers.feeder("upstream", feed_port, load))
        player.expect("ready")
        instances = [
            stack.enter_context(servers.instance(player, feed_port, port, load)) for port in ports
        ]
        if not balanced:
            yield Cluster(instances, None, ports[0], player)
            return
        port = free_port()
        haproxy = stack.enter_context(_haproxy(port, ports))
        yield Cluster(instances, haproxy, port, player)


@contextmanager
def _haproxy(port: int, ports: list[int]) -> Iterator[Child]:
    """Run HAProxy with our own configuration for these instances."""
    needs("haproxy")
    numbers = ",".join(str(each - FIRST_PORT) for each in ports)
    command = [*servers.daemon_command, "haproxy-config", "--instances", numbers]
    command += ["--bind", "127.0.0.1", "--port", str(port), "--statistics-port", str(free_port())]
    command += ["--unprivileged", "--connections-max", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"haproxy-config: {done.stderr.strip()}")
    path: Path = BUILD / "haproxy.cfg"
    path.write_text(done.stdout)
    with Child("haproxy", ["haproxy", "-db", "-f", path], core=SERVER_CORE, silent=True) as child:
        servers.wait_listening(child, port)
        yield child


def measure(load: Workload, count: int, *, balanced: bool) -> dict[str, Any]:
    """Play the workload once; return the raw figures."""
    with (
        cluster(load, count, balanced=balanced) as running,
        Receiver(running.port, SUBSCRIBERS, subscribe=load.subscribe, spin=True) as receiver,
    ):
        receiver.join(servers.state_of(load))
        receiver.ask("start")
        before = _cpu(running)
        running.player.tell("go")
        expected = len(load.messages)
        counts = receiver.ask(f"wait {expected} 5000", 3 * load.duration_s + 20)
        instances_s, haproxy_s = (
            now - then for now, then in zip(_cpu(running), before, strict=True)
        )
        running.player.expect("done")
    faults = []
    if (counts["min"], counts["max"]) != (expected, expected):
        faults.append(f"got {counts['min']}–{counts['max']} of {expected}")
    if counts["closes"] or counts["cut"]:
        faults.append(f"closed {sum(counts['closes'].values()) + counts['cut']}")
    if counts["last_s"] - load.duration_s > LATE_S:
        faults.append(f"late by {counts['last_s'] - load.duration_s:.1f} s")
    deliveries = counts["messages"]
    return {
        "deliveries_per_s": deliveries / max(counts["last_s"], 1e-9),
        "instances_us": instances_s / max(deliveries, 1) * 1e6,
        "haproxy_us": haproxy_s / max(deliveries, 1) * 1e6,
        "total_us": (instances_s + haproxy_s) / max(deliveries, 1) * 1e6,
        "core": (instances_s + haproxy_s) / max(counts["last_s"], 1e-9),
        "faults": faults,
        "receiver": counts,
    }


def _cpu(running: Cluster) -> tuple[float, float]:
    """Return the CPU of the instances and of HAProxy so far, in seconds."""
    instances_s = sum(cpu_s(child.pid) for child in running.instances)
    return instances_s, cpu_s(running.haproxy.pid) if running.haproxy else 0.0


def run(*, quick: bool) -> None:
    """Measure all setups in turn, print the table, write the JSON."""
    rounds = 1 if quick else 3
    load = workload.steady("cluster", seconds=5 if quick else 10, per_s=PER_S)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SETUPS}
    for number in range(1, rounds + 1):
        for name, (count, balanced) in SETUPS.items():
            figure = measure(load, count, balanced=balanced)
            figures[name].append(figure)
            said = "; ".join(figure["faults"]) or "all delivered"
            print(f"  cluster {number}/{rounds} {name}: {figure['total_us']:.2f} µs; {said}")
    alone = [run["total_us"] for run in figures[ALONE]]
    rows = []
    for name, runs in figures.items():
        mean = {
            key: median([run[key] for run in runs])
            for key in ("deliveries_per_s", "instances_us", "haproxy_us", "total_us", "core")
        }
        against = [ratio(run["total_us"], one) for run, one in zip(runs, alone, strict=True)]
        faults = sorted({fault for run in runs for fault in run["faults"]})
        rows.append(
            [
                name,
                mean["deliveries_per_s"],
                mean["instances_us"],
                mean["haproxy_us"],
                mean["total_us"],
                median(against),
                f"{mean['core']:.0%}",
                round(1e6 / mean["total_us"]),
                "; ".join(faults) or "all delivered",
            ]
        )
    table(
        f"cluster: {SUBSCRIBERS} subscribers × {PER_S} messages/s; CPU per delivery in µs; "
        f"median of {rounds}",
        [
            "setup",
            "deliveries/s",
            "instances",
            "HAProxy",
            "total",
            "÷ alone",
            "core",
            "per CPU s",
            "",
        ],
        rows,
    )
    write("cluster", quick=quick, result={"rounds": rounds, "raw": figures})
    if any(run["faults"] for runs in figures.values() for run in runs):
        raise BenchError("not all messages were delivered in time")
