"""Cost of one subscriber that never reads for 500 that do; the aim is none.

Both runs play the same: tickers of BTC-USD at 100 a second, which all want, and tickers of 8 KB
of ETH-USD at the same rate, which only the stalled subscriber wants, so that its socket is full
within seconds and its backlog soon after. It does the handshake, subscribes, and never reads
again; then the daemon's policy decides. Shown are the latencies of the 500, and the daemon's
memory: before, at its highest, and at the end.
"""

import threading
from typing import Any

import servers
import workload
from report import median, table, write
from rig import BenchError, Receiver, rss_bytes
from workload import STAMP_KEY, Workload

SUBSCRIBERS = 500
PER_S = 100
FAT_BYTES = 8000
NOISE = 1.2  # p99 of two equal runs may differ by this factor and a ms
NOISE_MS = 1.0
GROWTH_BYTES_MAX = 16 * 2**20  # beyond the run without it; its backlog may have 4 MiB


def load(seconds: float) -> Workload:
    """Return both flows, in turn."""
    wanted = workload.steady("", seconds=seconds, per_s=PER_S)
    fat = [
        (due_us + 5000, workload.ticker(i + 1, product="ETH-USD", size=FAT_BYTES))
        for i, (due_us, _) in enumerate(wanted.messages)
    ]
    state = [*wanted.state, workload.ticker(0, product="ETH-USD")]
    return Workload("stalled", sorted(wanted.messages + fat), state, ("ticker",))


class Watch(threading.Thread):
    """Samples a process' memory every ``every_s`` seconds."""

    def __init__(self, pid: int, every_s: float = 0.2) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.every_s = every_s
        self.samples = [rss_bytes(pid)]
        self.ended = threading.Event()

    def run(self) -> None:
        """Sample until ended."""
        while not self.ended.wait(self.every_s):
            self.samples.append(rss_bytes(self.pid))


def measure(flows: Workload, *, stalled: bool) -> dict[str, Any]:
    """Play it once, with or without a stalled subscriber; return the raw figures."""
    expected = len(flows.messages) // 2
    text = workload.subscribe(["BTC-USD"], ("ticker",))
    with (
        servers.hedgehogd(flows, stamp=True) as running,
        Receiver(running.port, SUBSCRIBERS, subscribe=text, stamp=STAMP_KEY) as receiver,
        Receiver(
            running.port, 1, subscribe=flows.subscribe, stalled=True, name="receiver-stalled"
        ) as silent,
    ):
        receiver.join()
        if stalled:
            silent.join()
        receiver.ask("start")
        before = running.metrics()
        watch = Watch(running.server.pid)
        watch.start()
        running.player.tell("go")
        counts = receiver.ask(f"wait {expected} 5000", flows.duration_s * 2 + 30)
        watch.ended.set()
        watch.join()
        after = running.metrics()
    if (counts["min"], counts["max"]) != (expected, expected):
        raise BenchError(f"the 500 got {counts['min']}–{counts['max']} of {expected}")
    return {
        "stalled": stalled,
        "receiver": counts,
        "rss_before": watch.samples[0],
        "rss_highest": max(watch.samples),
        "rss_end": watch.samples[-1],
        "metrics_grown": {
            name: after[name] - before.get(name, 0.0)
            for name in after
            if after[name] != before.get(name, 0.0) and not name.startswith(("process", "python"))
        },
    }


def fate(runs: list[dict[str, Any]]) -> str:
    """Return the outcome for the stalled subscriber, by the daemon's count of subscribers."""
    closed = sum(run["metrics_grown"].get("hedgehogd_subscribers") == -1 for run in runs)
    return f"it was closed in {closed} of {len(runs)} runs"


def run(*, quick: bool) -> None:
    """Measure with and without in turn, print the table, write the JSON."""
    seconds, rounds = (12, 1) if quick else (30, 3)
    flows = load(seconds)
    figures: dict[bool, list[dict[str, Any]]] = {False: [], True: []}
    for _ in range(rounds):
        for stalled, runs in figures.items():
            runs.append(measure(flows, stalled=stalled))

    def ms(stalled: bool, key: str) -> float:
        found = [figure["receiver"]["latency_us"][key] for figure in figures[stalled]]
        return (median(found) or 0.0) / 1000

    def growth(stalled: bool) -> float:
        found = [figure["rss_highest"] - figure["rss_before"] for figure in figures[stalled]]
        return median(found) or 0.0

    table(
        f"stalled: {SUBSCRIBERS} subscribers, {PER_S} messages/s for {seconds} s; "
        f"median of {rounds}",
        ["stalled", "p50 ms", "p99 ms", "max ms", "MB before", "highest", "end", "remarks"],
        [
            [
                "one that never reads" if stalled else "none",
                *(ms(stalled, key) for key in ("p50", "p99", "max")),
                *(
                    (median([figure[key] for figure in runs]) or 0.0) / 2**20
                    for key in ("rss_before", "rss_highest", "rss_end")
                ),
                "all delivered; " + fate(runs) if stalled else "all delivered",
            ]
            for stalled, runs in figures.items()
        ],
    )
    same = ms(True, "p99") <= ms(False, "p99") * NOISE + NOISE_MS
    print(f"  p99: {'unchanged' if same else 'CHANGED'} (within × {NOISE:g} + {NOISE_MS:g} ms)")
    more = growth(True) - growth(False)
    held = "bounded" if more <= GROWTH_BYTES_MAX else "NOT BOUNDED"
    print(f"  memory: {held}, {more / 2**20:+.1f} MB to without (≤ {GROWTH_BYTES_MAX >> 20} MB)")
    write(
        "stalled", quick=quick, result={"rounds": rounds, "raw": [*figures[False], *figures[True]]}
    )
