"""Cost of an idle WebSocket subscriber: resident memory, and CPU of its handshake.

After 100 subscribers that warm the server up, N more connect, 64 handshakes at a time. The
handshake figure is the server's CPU until all are open and it is idle again; then each sends a
Coinbase subscribe message (its cost is shown apart; the peers ignore it). Memory is the
growth of the resident set from before they connected to a second after. The kernel's memory for
a socket is not included; it is the same for all servers.
"""

import time
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import servers
import workload
from report import median, ratio, table, verdict, write
from rig import BenchError, Receiver, cpu_s, rss_bytes, wait_idle
from servers import Running

WARM = 100
OURS = "hedgehogd"
SERVERS = {
    OURS: servers.hedgehogd,
    "Quart-trio": partial(servers.script, "quart"),
    "websockets": partial(servers.script, "websockets"),
    "picows": partial(servers.script, "picows"),
    "ws (Node)": partial(servers.script, "ws"),
}


def measure(starting: AbstractContextManager[Running], count: int) -> dict[str, Any]:
    """Connect ``count`` subscribers once; return the raw figures."""
    text = workload.subscribe(["BTC-USD"], ("ticker",))
    with (
        starting as running,
        Receiver(running.port, WARM, subscribe=text, name="receiver-warm") as warm,
        Receiver(running.port, count, subscribe=text, eager=False) as receiver,
    ):
        pid = running.server.pid
        warm.join()
        wait_idle(pid, 20)
        memory, begun = rss_bytes(pid), cpu_s(pid)
        answer = receiver.ask("connect", 60)
        if answer["open"] != count:
            raise BenchError(f"only {answer['open']} of {count} connections were accepted")
        wait_idle(pid, 20)
        connected = cpu_s(pid)
        receiver.ask("subscribe")
        wait_idle(pid, 20)
        subscribed = cpu_s(pid)
        time.sleep(1)
        counts = receiver.ask("report")
        grown = rss_bytes(pid) - memory
    return {
        "subscribers": count,
        "bytes_per_subscriber": grown / count,
        "handshake_us": (connected - begun) / count * 1e6,
        "subscribe_us": (subscribed - connected) / count * 1e6,
        "handshakes_per_s": count / answer["seconds"],
        "open_at_the_end": counts["open"],
        "receiver": counts,
    }


def run(*, quick: bool) -> None:
    """Measure all servers in turn, print the table, write the JSON."""
    count, rounds = (1000, 1) if quick else (3000, 2)
    idle = workload.steady("connections", seconds=1, per_s=1)
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in SERVERS}
    faults: dict[str, str] = {}
    for _ in range(rounds):
        for name, start in SERVERS.items():
            try:
                figures[name].append(measure(start(idle), count))
            except BenchError as error:
                faults[name] = str(error)

    def of(name: str, key: str) -> float | None:
        return median([figure[key] for figure in figures[name]])

    rows = []
    for name, runs in figures.items():
        memory, handshake = of(name, "bytes_per_subscriber"), of(name, "handshake_us")
        gone = sum(count - figure["open_at_the_end"] for figure in runs)
        if gone:
            faults[name] = f"{gone} closed before the end"
        rows.append(
            [
                name,
                memory / 1024 if memory is not None else None,
                ratio(of(OURS, "bytes_per_subscriber"), memory),
                handshake,
                ratio(of(OURS, "handshake_us"), handshake),
                of(name, "subscribe_us"),
                faults.get(name, ""),
            ]
        )
    table(
        f"connections: {count:,} idle WebSocket subscribers; median of {rounds}",
        ["server", "KB each", "hedgehogd ÷", "handshake µs", "hedgehogd ÷", "subscribe µs", ""],
        rows,
    )
    memory = of(OURS, "bytes_per_subscriber")
    print(f"  memory: {verdict(memory / 1024 if memory is not None else None, 12, 6, ' KB')}")
    print(f"  handshake: {verdict(of(OURS, 'handshake_us'), 500, 200, ' µs')}")
    write("connections", quick=quick, result={"rounds": rounds, "raw": figures, "faults": faults})
