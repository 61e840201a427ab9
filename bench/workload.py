"""The messages of the benchmarks, and their due times.

A workload is written to two files, which every server and the feeder read: a *schedule* (for
each message its due time in µs in 8 bytes, its length in 4, both little-endian, and its
payload), and the *state*, one message a line: the exchange's first messages after a subscribe
(snapshots, last matches). State is never counted.
"""

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rig import BUILD, ROOT, BenchError

HEAD = struct.Struct("<QI")
STAMP_KEY = '"bench_ns":"'  # 19 digits of CLOCK_MONOTONIC in ns follow it
RECORDINGS = ROOT.parent / "shared" / "recordings"
STATE_TYPES = ("snapshot", "last_match", "ticker")
BOOK_LEVELS = 500  # of each side, in a synthetic snapshot


@dataclass(frozen=True)
class Workload:
    """Messages with their due times, and the state that precedes them.

    Attributes:
        name: names its files.
        messages: (due time in µs from the start, payload), in order.
        state: payloads of the initial state.
        channels: the Coinbase channels it belongs to.
    """

    name: str
    messages: list[tuple[int, bytes]]
    state: list[bytes]
    channels: tuple[str, ...]

    @property
    def duration_s(self) -> float:
        """Seconds from the start to the last message."""
        return self.messages[-1][0] / 1e6

    @property
    def payload_bytes(self) -> int:
        """Sum of all payloads."""
        return sum(len(payload) for _, payload in self.messages)

    @property
    def state_topics(self) -> set[tuple[str, str]]:
        """Type and product of the messages that make up the state of each topic."""
        heads = (json.loads(payload) for payload in self.state)
        return {(head["type"], head["product_id"]) for head in heads if head["type"] in STATE_TYPES}

    @cached_property
    def products(self) -> list[str]:
        """The products of the workload, sorted."""
        found = {json.loads(payload)["product_id"] for payload in self.state}
        return sorted(found | {json.loads(payload)["product_id"] for _, payload in self.messages})

    def write(self) -> Path:
        """Write both files; return the schedule's path (the state's ends in .state)."""
        path = BUILD / "workloads" / f"{self.name}.schedule"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            b"".join(HEAD.pack(due_us, len(data)) + data for due_us, data in self.messages)
        )
        path.with_suffix(".state").write_bytes(b"".join(data + b"\n" for data in self.state))
        return path

    @property
    def subscribe(self) -> str:
        """A Coinbase subscribe message for all of it."""
        return subscribe(self.products, self.channels)


def subscribe(products: list[str], channels: tuple[str, ...]) -> str:
    """Return a Coinbase subscribe message."""
    return json.dumps(
        {"type": "subscribe", "product_ids": products, "channels": list(channels)},
        separators=(",", ":"),
    )


def ticker(number: int, *, product: str = "BTC-USD", size: int = 350) -> bytes:
    """Return a ticker of about ``size`` bytes with room for a send time."""
    text = (
        f'{{"type":"ticker","sequence":{135437581000 + 3 * number},"product_id":"{product}",'
        f'"price":"{77000 + number % 997}.{number % 100:02}","open_24h":"78609.92",'
        f'"volume_24h":"7336.73471395","low_24h":"76366.12","high_24h":"78635.01",'
        f'"best_bid":"77572.87","best_ask":"77575.85",'
        f'"side":"sell","time":"2026-09-02T07:44:10.{number % 1000000:06}Z",'
        f'"trade_id":{1087540000 + number},"last_size":"0.00000009"'
    )
    stamp = f",{STAMP_KEY}{0:019}"
    room = size - len(text) - len(stamp) - len('"}') - len(',"pad":""')
    pad = f',"pad":"{"x" * room}"' if room > 0 else ""
    return f'{text}{pad}{stamp}"}}'.encode()


def l2update(number: int, *, product: str = "BTC-USD") -> bytes:
    """Return an l2update of about 135 bytes, one change at a level of `snapshot`."""
    side, sign = ("sell", 1) if number % 2 else ("buy", -1)
    cents = 7757500 + sign * (1 + number * 7 % BOOK_LEVELS)
    return (
        f'{{"type":"l2update","product_id":"{product}","changes":[["{side}",'
        f'"{cents // 100}.{cents % 100:02}","0.{number % 99999999 + 1:08}"]],'
        f'"time":"2026-09-02T07:44:10.{number % 1000000:06}Z"}}'
    ).encode()


def snapshot(product: str = "BTC-USD") -> bytes:
    """Return a book around 77575.00 with ``BOOK_LEVELS`` levels, one cent apart, on each side."""

    def side(sign: int) -> list[list[str]]:
        cents = [7757500 + sign * step for step in range(1, BOOK_LEVELS + 1)]
        return [[f"{price // 100}.{price % 100:02}", "0.50000000"] for price in cents]

    book = {"type": "snapshot", "product_id": product, "asks": side(1), "bids": side(-1)}
    return json.dumps(book, separators=(",", ":")).encode()


def steady(name: str, *, seconds: float, per_s: float, product: str = "BTC-USD") -> Workload:
    """Return tickers of 350 bytes at equal intervals, each due alone."""
    count = max(1, round(seconds * per_s))
    messages = [(round(i * 1e6 / per_s), ticker(i + 1, product=product)) for i in range(count)]
    return Workload(name, messages, [ticker(0, product=product)], ("ticker",))


def recording(seconds: float | None = None) -> Workload:
    """Return the real recording of 2021-04-17: 10 products over 30.8 s, at its own times.

    The subscriptions messages are left out; everything up to the last message of a product's
    initial state (the first 67 ms) is state. ``seconds`` keeps only the beginning.
    """
    folders = sorted(RECORDINGS.glob("cryptofeed-2021-*"))
    if not folders:
        raise BenchError(f"the recording is missing: {RECORDINGS}/cryptofeed-2021-*")
    lines = (folders[0] / "feed.jsonl").read_bytes().splitlines()
    times_s = [float(text) for text in (folders[0] / "feed.recv_ts.txt").read_text().split()]
    types = [json.loads(line)["type"] for line in lines]
    first = 1 + max(i for i, type_ in enumerate(types) if type_ in ("snapshot", "last_match"))
    state = [lines[i] for i in range(first) if types[i] != "subscriptions"]
    messages = [
        (round((times_s[i] - times_s[first]) * 1e6), lines[i])
        for i in range(first, len(lines))
        if types[i] != "subscriptions"
    ]
    if seconds is not None:
        messages = [message for message in messages if message[0] <= seconds * 1e6]
    return Workload("recording", messages, state, ("ticker", "matches", "level2_batch"))
