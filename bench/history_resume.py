"""The measurement of ``history``: hundreds of resuming subscribers at once, beside live ones.

A busy market of one product: 100 trades a second, each a match and a ticker. Its first part is
played at ten times its pace to a daemon that records history and has no subscribers yet; then
the live subscribers join the ticker, and the rest is played at its own pace. First as many
subscribers as will resume join without a position, for comparison, and leave. Then the resumers,
which are connected already, subscribe to both channels in one burst, with the sequence of a
minute before.

Each must get every later message once: message counts verify it for all, and one more resumer,
which uses a foreign library, compares every byte (``resumer_process``). The time is that from
the first subscribe until the slowest resumer has as many messages as the live subscribers and
its notice that it has caught up (checked every 50 ms). Latencies are those of the live
subscribers, for messages sent meanwhile; on the load's core their reader has priority over the
resumers'.

From the tape: all messages are in the daemon's memory. From disk: the daemon's memory is
the smallest that can be configured, and holds about the newest 2,500 messages; the rest is on
disk.
"""

import contextlib
import json
import random
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

import prepare
import servers
import workload
from joiners import bystanders
from rig import BENCH, BUILD, LOAD_CORE, BenchError, Child, Receiver, cpu_s, waited_s
from stalled import Watch
from workload import Workload

TRADES_PER_S = 100
MESSAGES = 2  # of a trade
FAST = 10  # the first part is played so many times faster than its own pace
SEQUENCE, TRADE_ID = 135437581000, 1087540000  # of trade 0, as in workload.ticker
CHANNELS = ("ticker", "matches")
LOOK_S = 0.05
PATIENCE_S = 60.0
LEAVE_S = 1.0  # for the subscribers that joined without a position
CONNECT_S = 2.5  # for the resumers
GREETING = 2  # session and subscriptions, on /ws
STATE = 2  # last ticker and last match
TAPE_FORMS, TAPE_OBJECTS_BYTES = 4, 330  # the tape's estimate of a message's memory
WHERE = {"from the tape": (), "from disk": ("--tape-bytes-max", str(2**20))}


class Plan(NamedTuple):
    """Lengths and counts of one run.

    Attributes:
        count: number of resumers, of plain joiners and of live subscribers.
        back_s: age of the resumers' position.
        gap_s: silence, in which the live subscribers join.
        before_s: time from then to the storm.
        after_s: time of market after it.
    """

    count: int
    back_s: int
    gap_s: float
    before_s: int
    after_s: int

    @property
    def first(self) -> int:
        """Trades before the silence."""
        return (self.back_s + 1) * TRADES_PER_S

    @property
    def position(self) -> int:
        """Last trade that the resumers have received."""
        return self.first + (self.before_s - self.back_s) * TRADES_PER_S

    @property
    def steady_from_s(self) -> float:
        """Start of the part at its own pace."""
        return self.first / TRADES_PER_S / FAST + self.gap_s

    def due_s(self, number: int) -> float:
        """Return the due time of a trade; numbers start at 1."""
        if number <= self.first:
            return number / TRADES_PER_S / FAST
        return self.steady_from_s + (number - self.first) / TRADES_PER_S


def match(number: int, rng: random.Random, kind: str = "match") -> bytes:
    """Return the match that the ticker of the same number reports."""
    maker, taker = (uuid.UUID(int=rng.getrandbits(128), version=4) for _ in range(2))
    return (
        f'{{"type":"{kind}","trade_id":{TRADE_ID + number},"maker_order_id":"{maker}",'
        f'"taker_order_id":"{taker}","side":"sell","size":"{rng.randrange(10**8) / 1e8:.8f}",'
        f'"price":"{77000 + number % 997}.{number % 100:02}","product_id":"BTC-USD",'
        f'"sequence":{SEQUENCE + 3 * number},"time":"2026-09-02T07:44:10.{number:06}Z"}}'
    ).encode()


def load(plan: Plan) -> Workload:
    """Return the market."""
    rng = random.Random(7757500)
    messages = []
    for number in range(1, plan.first + (plan.before_s + plan.after_s) * TRADES_PER_S + 1):
        due_us = round(plan.due_s(number) * 1e6)
        messages += [(due_us, match(number, rng)), (due_us, workload.ticker(number))]
    state = [workload.ticker(0), match(0, rng, "last_match")]
    return Workload("history", messages, state, CHANNELS)


def resume_text(sequence: int) -> str:
    """Return the subscribe of a subscriber that received everything up to ``sequence``."""
    channels = [
        {"name": name, "product_ids": ["BTC-USD"], "since": {"BTC-USD": sequence}}
        for name in CHANNELS
    ]
    return json.dumps({"type": "subscribe", "channels": channels}, separators=(",", ":"))


def burst(
    pid: int, group: Receiver, live: Receiver, wanted: Callable[[int], int], keeper: Child | None
) -> dict[str, float]:
    """Have a connected group subscribe; return the time until each member had ``wanted``.

    ``wanted`` maps the live subscribers' message count to the count that is due.
    """
    used_s, starved_s = cpu_s(pid), waited_s(pid)
    begin = time.monotonic()
    group.ask("subscribe")
    if keeper is not None:
        keeper.tell("resume")
    while True:
        have = live.ask("report")["min"]
        answer = group.ask("report")
        seconds = time.monotonic() - begin
        if answer["min"] >= wanted(have):
            break
        if answer["open"] < group.connections or seconds > PATIENCE_S:
            raise BenchError(
                f"after {seconds:.1f} s the slowest had {answer['min']} of {wanted(have)} messages;"
                f" open {answer['open']}, closes {answer['closes']}, cut {answer['cut']}"
            )
        time.sleep(LOOK_S)
    return {
        "seconds": seconds,
        "cpu_s": cpu_s(pid) - used_s,
        "waited_s": waited_s(pid) - starved_s,
        "bytes": answer["bytes"],
    }


def connect(stack: contextlib.ExitStack, port: int, count: int, text: str, name: str) -> Receiver:
    """Connect a group to ``/ws`` that subscribes on command."""
    receiver = Receiver(port, count, path="/ws", subscribe=text, eager=False, name=name)
    stack.enter_context(receiver)
    receiver.ask("start")
    answer = receiver.ask("connect", PATIENCE_S)
    if answer["open"] != count:
        raise BenchError(f"only {answer['open']} of {count} of {name} connected")
    return receiver


def measure(plan: Plan, flow: Workload, flags: tuple[str, ...]) -> dict[str, Any]:
    """Run one storm; return the raw figures.

    Raises:
        BenchError: a subscriber did not receive all due messages.
    """
    sequence = SEQUENCE + 3 * plan.position
    text = resume_text(sequence)
    skipped = plan.position * MESSAGES  # messages that the resumers had
    due = len(flow.messages) - skipped + GREETING + 1
    tickers = len(flow.messages) // MESSAGES - plan.first
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(dir=BUILD))
        flags = ("--history", place, *flags)
        running = stack.enter_context(servers.hedgehogd(flow, stamp=True, flags=flags))
        pid, port = running.server.pid, running.port
        command = [prepare.PEER_PYTHON, BENCH / "resumer_process.py", str(port)]
        command += [flow.write(), text, str(sequence)]
        keeper = stack.enter_context(Child("resumer", command, core=LOAD_CORE))
        keeper.expect("ready")
        live = stack.enter_context(bystanders(running, ("ticker",), plan.count))
        begun = time.monotonic()

        def sleep_to(at_s: float) -> None:
            time.sleep(max(0.0, at_s - (time.monotonic() - begun)))

        running.player.tell("go")
        sleep_to(plan.due_s(plan.first) + 0.3)
        live.join(2)
        live.ask("start")
        if time.monotonic() - begun > plan.steady_from_s:
            raise BenchError("the live subscribers were not connected in time")
        sleep_to(plan.steady_from_s + 0.5)
        live.ask("window")
        calm_begun, calm_used_s = time.monotonic(), cpu_s(pid)
        sleep_to(plan.steady_from_s + plan.before_s / 3)
        calm_share = (cpu_s(pid) - calm_used_s) / (time.monotonic() - calm_begun)
        calm = live.ask("window")["latency_us"]
        with contextlib.ExitStack() as plain_stack:
            plain_text = workload.subscribe(["BTC-USD"], CHANNELS)
            plain = connect(plain_stack, port, plan.count, plain_text, "receiver-plain")
            joined = burst(pid, plain, live, lambda _: GREETING + STATE, None)
        joined["latency_us"] = live.ask("window").get("latency_us", {})
        time.sleep(LEAVE_S)
        sleep_to(plan.steady_from_s + plan.before_s - CONNECT_S)
        resumers = connect(stack, port, plan.count, text, "receiver-resumers")
        late_s = time.monotonic() - begun - plan.steady_from_s - plan.before_s
        sleep_to(plan.steady_from_s + plan.before_s)
        before = running.metrics()
        watch = Watch(pid, every_s=0.05)
        watch.start()
        live.ask("window")
        resumed = burst(
            pid,
            resumers,
            live,
            lambda have: (plan.first + have) * MESSAGES - skipped + GREETING + 1,
            keeper,
        )
        live.ask("shut")
        watch.ended.set()
        watch.join()
        after = running.metrics()
        sleep_to(flow.duration_s)
        final = live.ask(f"wait {tickers} 5000", PATIENCE_S)
        rest = resumers.ask(f"wait {due} 5000", PATIENCE_S)
        kept = json.loads(keeper.expect("{", PATIENCE_S))
    missed = flow.messages[skipped : skipped + plan.back_s * TRADES_PER_S * MESSAGES]
    weight = sum(TAPE_FORMS * len(payload) + TAPE_OBJECTS_BYTES for _, payload in missed)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    gaps = grown["hedgehogd_resume_gaps_total"]
    for name, group, counts, wanted in (
        ("the live subscribers", live, final, tickers),
        ("resumers", resumers, rest, due),
    ):
        if counts["open"] != group.connections:
            raise BenchError(f"{name} were closed: {counts['closes']}, cut {counts['cut']}")
        if (counts["min"], counts["max"]) != (wanted, wanted):
            raise BenchError(f"{name} got {counts['min']}–{counts['max']} of {wanted}")
    if kept["fault"] or gaps:
        raise BenchError(f"the checking resumer: {kept['fault']}; {gaps:g} gaps; {kept}")
    return {
        "resumed": {**resumed, "latency_us": final["latency_us"]},
        "joined": joined,
        "calm": {"latency_us": calm, "core": calm_share},
        "late_s": late_s,
        "tape_share": min(1.0, before["hedgehogd_tape_bytes"] / weight),
        "replayed": grown["hedgehogd_resume_messages_total"],
        "overruns": after["hedgehogd_history_overruns_total"],
        "rss_before": watch.samples[0],
        "rss_highest": max(watch.samples),
        "resumer": kept,
        "others": final,
    }
