"""1,000 late joiners of BTC-USD's book with its snapshot of 1.1 MB, beside other subscribers.

The feeder's exchange sends the snapshot, 46,000 levels, and then 20 l2updates of 8 changes and
100 tickers a second. The bystanders are 450 subscribers of the ticker and 50 of ticker and book.
After some seconds 1,000 joiners, which are connected already, subscribe to level2_batch in one
burst, or each as soon as it is connected; with permessage-deflate or without. Each must get a
whole snapshot and then all later updates, no joiner may be closed, and the bystanders must get
every message.

The time is that from the first subscribe sent to the last snapshot received whole. Latencies are
the bystanders', for messages sent between the first joiner's connect and that moment, and the
worse of the two groups; on the load's core their readers have priority over the joiners'. One
more joiner, which uses a foreign library, checks every byte (``joiner_process``).

The peer is ``websockets``, which sends one ready-made snapshot text to each joiner and makes
none; its messages carry their due time. Where it compresses, it does so for every joiner, and it
is measured once.
"""

import contextlib
import json
import os
import random
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import prepare
import servers
import workload
from report import median, ratio, table, verdict, write
from rig import BENCH, LOAD_CORE, BenchError, Child, Receiver, cpu_s, waited_s
from servers import Running
from stalled import Watch
from workload import STAMP_KEY, Workload

JOIN_S_BAR = 10.0
P99_MS_BAR = 100.0
LEVELS = 23_000  # on each side, as BTC-USD in the recordings
MIDDLE_CENTS = 7_757_500
TICKERS_PER_S = 100
UPDATES_PER_S = 20
CHANGES = 8
TICKER_OTHERS, BOOK_OTHERS = 450, 50
BEFORE_S = 4.0  # of load before the first join
LARGE_BYTES = 64 * 1024  # only a snapshot is this large, even compressed
PATIENCE_S = 120.0  # for the last joiner's snapshot
MARGIN_S = 1.0  # between the last snapshot and the updates that each joiner must get
DISTURBED = 0.05


def book(rng: random.Random) -> dict[str, list[list[str]]]:
    """Return both sides, best first: dense at the best, thin far away, sizes of all kinds."""
    sides = {}
    for name, sign in (("bids", -1), ("asks", 1)):
        cents, rows = MIDDLE_CENTS, []
        for depth in range(LEVELS):
            cents += sign * (1 + int(rng.expovariate(1 / min(200, 2 + depth / 20))))
            size = min(rng.lognormvariate(-2.5, 2), 900)
            rows.append([price_text(cents), f"{max(size, 1e-8):.8f}"])
        sides[name] = rows
    return sides


def price_text(cents: int) -> str:
    """Return a price as the exchange writes it."""
    return f"{cents // 100}.{cents % 100:02}"


def updates(sides: dict[str, list[list[str]]], count: int, rng: random.Random) -> list[bytes]:
    """Return l2updates of the hundred best levels: new sizes, removals and new levels."""
    near = {"buy": sides["bids"][:100], "sell": sides["asks"][:100]}
    gone: set[tuple[str, str]] = set()
    messages = []
    for number in range(count):
        changes = []
        for side, at in rng.sample([(side, at) for side in near for at in range(100)], CHANGES):
            price = near[side][at][0]
            size = f"{max(rng.lognormvariate(-2.5, 2), 1e-8):.8f}"
            if (side, price) in gone:
                gone.discard((side, price))
            elif rng.random() < 0.3:
                gone.add((side, price))
                size = "0.00000000"
            changes.append([side, price, size])
        message = {
            "type": "l2update",
            "product_id": "BTC-USD",
            "changes": changes,
            "time": f"2026-09-02T07:{number // 60000:02}:{number // 1000 % 60:02}."
            f"{number % 1000:03}000Z",
        }
        messages.append(json.dumps(message, separators=(",", ":")).encode())
    return messages


def load(seconds: float) -> Workload:
    """Return the book as state, tickers and updates."""
    rng = random.Random(7757500)
    sides = book(rng)
    flow = workload.steady("", seconds=seconds, per_s=TICKERS_PER_S)
    changes = updates(sides, round(seconds * UPDATES_PER_S), rng)
    batches = [
        (round(2500 + i * 1e6 / UPDATES_PER_S), payload) for i, payload in enumerate(changes)
    ]
    snapshot = {"type": "snapshot", "product_id": "BTC-USD", "asks": sides["asks"]} | {
        "bids": sides["bids"]
    }
    state = [*flow.state, json.dumps(snapshot, separators=(",", ":")).encode()]
    messages = sorted([*flow.messages, *batches])
    return Workload("joiners", messages, state, ("ticker", "level2_batch"))


@dataclass
class Case:
    """One row of the table, and its rounds' raw figures."""

    name: str
    is_ours: bool
    deflate: bool = False
    eager: bool = False
    rounds_max: int = 99
    figures: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""

    def start(self, flow: Workload) -> AbstractContextManager[Running]:
        """Start the server."""
        if self.is_ours:
            return servers.hedgehogd(flow, stamp=True)
        return servers.script("snapshots", flow, *["--deflate"] * self.deflate)


def bystanders(running: Running, channels: tuple[str, ...], count: int) -> Receiver:
    """Start a group of bystanders, with priority over the joiners on the load's core."""
    text = workload.subscribe(["BTC-USD"], channels)
    name = "receiver-" + "-".join(channels)
    receiver = Receiver(running.port, count, subscribe=text, stamp=STAMP_KEY, name=name)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(receiver.pid, os.SCHED_FIFO, os.sched_param(5))
    return receiver


def worse(counts: list[dict[str, Any]]) -> dict[str, int]:
    """Return each percentile's larger value of the groups."""
    found = [one["latency_us"] for one in counts if "latency_us" in one]
    if not found:
        raise BenchError("the bystanders got no message meanwhile")
    return {key: max(one[key] for one in found) for key in found[0]}


def storm(joiners: Receiver, keeper: Child | None, *, eager: bool) -> dict[str, Any]:
    """Let all joiners join; return the observations of their receiver."""
    joiners.ask("start")
    if keeper is not None:
        keeper.tell("join")
    connected = joiners.ask("connect", PATIENCE_S)
    if connected["open"] != joiners.connections:
        raise BenchError(f"only {connected['open']} of {joiners.connections} joiners connected")
    if not eager:
        joiners.ask("subscribe")
    answer = joiners.ask(f"large {round(PATIENCE_S * 1000)}", PATIENCE_S + 10)
    answer["connect_s"] = connected["seconds"]
    large = answer["large"]
    if large["connections"] != joiners.connections:
        raise BenchError(
            f"{large['connections']} of {joiners.connections} joiners got a whole snapshot; "
            f"open {answer['open']}, closes {answer['closes']}, cut {answer['cut']}"
        )
    return answer


def measure(case: Case, flow: Workload, count: int) -> dict[str, Any]:
    """Run one storm; return the raw figures.

    Raises:
        BenchError: a subscriber did not receive all due messages.
    """
    book_text = workload.subscribe(["BTC-USD"], ("level2_batch",))
    tickers = sum(payload.startswith(b'{"type":"ticker"') for _, payload in flow.messages)
    update_times = [due for due, payload in flow.messages if b'"l2update"' in payload[:24]]
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(case.start(flow))
        groups = [
            (stack.enter_context(bystanders(running, channels, members)), expected)
            for channels, members, expected in (
                (("ticker",), TICKER_OTHERS, tickers),
                (("ticker", "level2_batch"), BOOK_OTHERS, len(flow.messages)),
            )
        ]
        joiners = stack.enter_context(
            Receiver(
                running.port,
                count,
                subscribe=book_text,
                eager=case.eager,
                large=LARGE_BYTES,
                deflate=case.deflate,
                name="receiver-joiners",
            )
        )
        keeper = None
        if case.is_ours:
            command = [prepare.PEER_PYTHON, BENCH / "joiner_process.py", str(running.port)]
            command += [flow.write(), book_text, *["--deflate"] * case.deflate]
            keeper = stack.enter_context(Child("joiner", command, core=LOAD_CORE))
            keeper.expect("ready")
        for place, (receiver, _) in enumerate(groups):
            receiver.join(place + 2 * case.is_ours)
        for receiver, _ in groups:
            receiver.ask("start")
        pid = running.server.pid
        before = running.metrics() if case.is_ours else {}
        begun = time.monotonic()
        running.player.tell("go")
        time.sleep(BEFORE_S)
        calm = worse([receiver.ask("window") for receiver, _ in groups])
        watch = Watch(pid, every_s=0.05)
        watch.start()
        used_s, starved_s, storm_begun = cpu_s(pid), waited_s(pid), time.monotonic()
        joined = storm(joiners, keeper, eager=case.eager)
        for receiver, _ in groups:
            receiver.ask("shut")
        used_s, starved_s = cpu_s(pid) - used_s, waited_s(pid) - starved_s
        whole_s = time.monotonic() - storm_begun
        over_us = (time.monotonic() - begun + MARGIN_S) * 1e6
        time.sleep(max(0.0, flow.duration_s - (time.monotonic() - begun)))
        finals = [
            receiver.ask(f"wait {expected} 5000", flow.duration_s + 60)
            for receiver, expected in groups
        ]
        rest = joiners.ask("settle 500")
        watch.ended.set()
        watch.join()
        after = running.metrics() if case.is_ours else {}
        kept = json.loads(keeper.expect("{", 60)) if keeper is not None else {"fault": ""}
    for final, (receiver, expected) in zip(finals, groups, strict=True):
        if (final["min"], final["max"]) != (expected, expected):
            raise BenchError(f"the bystanders got {final['min']}–{final['max']} of {expected}")
        if final["open"] != receiver.connections:
            raise BenchError(f"{receiver.connections - final['open']} bystanders were closed")
    if rest["open"] != count:
        raise BenchError(f"joiners were closed: {rest['closes']}, cut {rest['cut']}")
    if rest["large"]["frames"] != count:
        raise BenchError(f"{count} joiners got {rest['large']['frames']} snapshots")
    due = sum(update_us > over_us for update_us in update_times)
    if rest["large"]["after_min"] < due:
        raise BenchError(f"a joiner got {rest['large']['after_min']} updates, {due} were due")
    if kept["fault"]:
        raise BenchError(f"the joiner that checks each byte: {kept['fault']}; {kept}")
    if kept.get("levels", LEVELS * 2) < LEVELS * 2 - 200:
        raise BenchError(f"the snapshot had {kept['levels']} levels")
    return {
        "joined": joined,
        "join_s": joined["large"]["last_s"],
        "connect_s": joined["connect_s"],
        "latency_before_us": calm,
        "latency_us": worse(finals),
        "cpu_s": used_s,
        "waited_s": starved_s,
        "storm_s": whole_s,
        "rss_before": watch.samples[0],
        "rss_highest": max(watch.samples),
        "after": rest["large"],
        "others": finals,
        "keeper": kept,
        "metrics_grown": {
            name: value - before.get(name, 0.0)
            for name, value in after.items()
            if value != before.get(name, 0.0) and not name.startswith(("process", "python"))
        },
    }


def row(case: Case) -> list[object]:
    """Return a case's line of the table: medians over its rounds."""
    runs = case.figures
    if not runs:
        return [case.name, *[None] * 11, case.fault]

    def middle(*keys: str, divisor: float = 1.0) -> float | None:
        values = []
        for run in runs:
            value: Any = run
            for key in keys:
                value = value.get(key, 0.0)
            values.append(value / divisor)
        return median(values)

    grown = median([(run["rss_highest"] - run["rss_before"]) / 2**20 for run in runs])
    disturbed = any(run["waited_s"] > DISTURBED * run["storm_s"] for run in runs)
    made = middle("metrics_grown", "hedgehogd_snapshots_made_total") if case.is_ours else None
    shared = middle("metrics_grown", "hedgehogd_snapshot_joiners_total") if case.is_ours else None
    remarks = ["all whole, none closed", "disturbed" * disturbed, case.fault]
    return [
        case.name,
        middle("connect_s"),
        middle("join_s"),
        middle("joined", "large", "bytes_max", divisor=1e6),
        middle("latency_before_us", "p99", divisor=1000),
        middle("latency_us", "p50", divisor=1000),
        middle("latency_us", "p99", divisor=1000),
        middle("latency_us", "max", divisor=1000),
        middle("cpu_s"),
        grown,
        None if made is None else round(made),
        None if shared is None else round(shared),
        "; ".join(filter(None, remarks)),
    ]


def run(*, quick: bool) -> None:
    """Measure all in turn, print the table, write the JSON."""
    count, seconds, rounds = (200, 10, 1) if quick else (1000, 20, 3)
    flow = load(seconds)
    burst = Case("hedgehogd, in one burst", True)
    deflated = Case("hedgehogd, deflate", True, deflate=True)
    peer = Case("websockets", False)
    peer_deflated = Case("websockets, deflate", False, deflate=True, rounds_max=1)
    eager = Case("hedgehogd, as they connect", True, eager=True)
    cases = [burst, eager, deflated, peer, peer_deflated]
    for number in range(rounds):
        for case in cases:
            if number >= case.rounds_max:
                continue
            try:
                case.figures.append(measure(case, flow, count))
            except BenchError as error:
                case.fault = str(error)

    table(
        f"joiners: {count:,} of a book of {max(map(len, flow.state)) / 1e6:.2f} MB, beside "
        f"{TICKER_OTHERS + BOOK_OTHERS} bystanders; median of {rounds}",
        ["server", "connect s", "join s", "MB each", "p99 before", "p50 ms", "p99 ms", "max ms",
         "CPU s", "RSS + MB", "made", "given", "remarks"],
        [row(case) for case in cases],
    )  # fmt: skip
    ratios: dict[str, float | None] = {}
    for theirs, ours in ((peer, burst), (peer_deflated, deflated)):
        pairs = zip(theirs.figures, ours.figures, strict=False)
        ratios[theirs.name] = median([ratio(a["join_s"], b["join_s"]) for a, b in pairs])
        times = ratios[theirs.name]
        said = "not measured" if times is None else f"{times:.2f} × our time"
        print(f"  {theirs.name}: {said}")
    for case in (burst, eager, deflated):
        join_s = median([one["join_s"] for one in case.figures])
        p99 = median([one["latency_us"]["p99"] / 1000 for one in case.figures])
        print(f"  {case.name}: join {verdict(join_s, JOIN_S_BAR, unit=' s')}; "
              f"others' p99 {verdict(p99, P99_MS_BAR, unit=' ms')}")  # fmt: skip
    raw = {case.name: case.figures for case in cases}
    faults = {case.name: case.fault for case in cases if case.fault}
    write(
        "joiners",
        quick=quick,
        result={"joiners": count, "rounds": rounds, "ratios": ratios, "raw": raw, "faults": faults},
    )
    failed = [f"{case.name}: {case.fault}" for case in cases if case.is_ours and case.fault]
    if failed:
        raise BenchError("; ".join(failed))
