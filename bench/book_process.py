"""Measured process of ``book``: prints one line of JSON for each round.

It runs in the project's venv, because it needs the project's modules, with the peers' packages
last on the path.
"""

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hedgehogd.domain import limits
from hedgehogd.domain.amount import scaled
from hedgehogd.domain.book import Book, Change
from hedgehogd.domain.frozen_orders import book_parts
from hedgehogd.domain.level2 import l2update, read_snapshot, read_update, snapshot_parts
from hedgehogd.domain.order_event import from_full
from hedgehogd.domain.orders import OrderBook

LEVELS = 23_000  # a side; BTC-USD's whole book (46,000) was measured in 2026
NEAR_LEVELS = 40
RANDOM_CHANGES = 60_000
EVENTS = 30_000
RENDER_SLICE = 4_000
SEED = 1
TIME = "2021-04-02T01:29:51.329865Z"
Stream = list[tuple[str, list[Change]]]
Snapshots = dict[str, tuple[list[Any], list[Any]]]


def price(side: str, tick: int) -> str:
    return f"{60_000 + tick * (-0.5 if side == 'buy' else 0.5):.2f}"


def size(chance: random.Random) -> str:
    return f"{chance.random() * 2 + 0.00000001:.8f}"


def large(chance: random.Random) -> tuple[list[Any], list[Any]]:
    """Return the rows of a book of 46,000 levels."""
    return tuple(
        [[price(side, tick), size(chance)] for tick in range(1, LEVELS + 1)]
        for side in ("buy", "sell")
    )  # type: ignore[return-value]


def random_changes(chance: random.Random) -> Stream:
    """Return changes of that book: 70 % near the best; a third removals, none of them bare."""
    there = {(side, tick) for side in ("buy", "sell") for tick in range(1, LEVELS + 1)}
    stream: Stream = []
    for _ in range(RANDOM_CHANGES):
        side = chance.choice(("buy", "sell"))
        near = chance.random() < 0.7
        tick = 1 + int(chance.random() * (NEAR_LEVELS if near else LEVELS))
        amount = size(chance)
        if (side, tick) in there and chance.random() < 0.5:
            there.remove((side, tick))
            amount = "0"
        else:
            there.add((side, tick))
        stream.append(("BTC-USD", [(side, price(side, tick), amount)]))
    return stream


def recorded(path: Path) -> tuple[Snapshots, Stream]:
    """Return the recording's snapshots and updates."""
    snapshots: Snapshots = {}
    stream: Stream = []
    for line in path.read_bytes().splitlines():
        head = json.loads(line)
        if head["type"] == "snapshot":
            snapshots[head["product_id"]] = read_snapshot(line)
        elif head["type"] == "l2update":
            stream.append((head["product_id"], read_update(line)[0]))
    return snapshots, stream


def cpu_us(work: Callable[[], object]) -> float:
    begin = time.thread_time_ns()
    work()
    return (time.thread_time_ns() - begin) / 1e3


def apply_ours(snapshots: Snapshots, stream: Stream) -> float:
    books = {product_id: Book() for product_id in snapshots}
    for product_id, (bids, asks) in snapshots.items():
        books[product_id].load(bids, asks)

    def work() -> None:
        for product_id, changes in stream:
            if books[product_id].apply(changes):
                raise AssertionError("a bare removal")

    return cpu_us(work) / len(stream)


def apply_peer(snapshots: Snapshots, stream: Stream, key: Callable[[str], Any]) -> float:
    """Apply with SortedDicts, without any check, like a client that trusts the exchange."""
    from sortedcontainers import SortedDict  # noqa: PLC0415 - a peer may be missing

    books = {
        product_id: {
            side: SortedDict({key(row[0]): row[1] for row in rows})
            for side, rows in (("buy", bids), ("sell", asks))
        }
        for product_id, (bids, asks) in snapshots.items()
    }

    def work() -> None:
        for product_id, changes in stream:
            book = books[product_id]
            for side, text, amount in changes:
                if float(amount) == 0:
                    del book[side][key(text)]
                else:
                    book[side][key(text)] = amount

    return cpu_us(work) / len(stream)


def turns(parts: Iterator[object]) -> list[float]:
    """Exhaust an iterator; return the whole time and the longest turn in ms, and their number."""
    times = []
    ended = object()
    last: object = None
    while last is not ended:
        begin = time.thread_time_ns()
        last = next(parts, ended)
        times.append((time.thread_time_ns() - begin) / 1e6)
    return [sum(times), max(times), len(times)]


def once(work: Callable[[], object]) -> list[float]:
    ms = cpu_us(work) / 1e3
    return [ms, ms, 1]


def book_turns(bids: list[Any], asks: list[Any]) -> dict[str, list[float]]:
    book = Book()
    found = {"book: load 46,000 levels": turns(book.load_parts(bids, asks))}
    found["book: freeze"] = once(book.freeze)
    frozen = book.freeze()
    payload = b"".join(snapshot_parts("BTC-USD", frozen))
    found[f"book: write a snapshot of {len(payload) / 1e6:.1f} MB"] = turns(
        snapshot_parts("BTC-USD", frozen, levels_per_slice=RENDER_SLICE)
    )
    found["book: decode that snapshot"] = once(lambda: read_snapshot(payload))
    return found


def events(chance: random.Random, sequence: int) -> list[bytes]:
    """Return messages of full: half open near the best, half done, a tenth matched before."""
    messages: list[dict[str, Any]] = []
    opened: list[str] = []
    while len(messages) < EVENTS:
        if len(opened) < 100 or chance.random() < 0.5:
            side = chance.choice(("buy", "sell"))
            opened.append(f"{chance.getrandbits(128):032x}")
            at = price(side, chance.randrange(1, NEAR_LEVELS))
            message = {"type": "open", "side": side, "price": at, "remaining_size": size(chance)}
            messages.append({**message, "order_id": opened[-1], "time": TIME})
        else:
            order_id = opened.pop(chance.randrange(len(opened)))
            if chance.random() < 0.2:
                message = {"type": "match", "maker_order_id": order_id, "size": "0.00000001"}
                messages.append({**message, "side": "buy", "price": "60000.00", "time": TIME})
            messages.append({"type": "done", "order_id": order_id, "reason": "canceled"})
    for message in messages:
        sequence += 1
        message |= {"product_id": "BTC-USD", "sequence": sequence}
    return [json.dumps(message, separators=(",", ":")).encode() for message in messages]


def orders_figures(
    bids: list[Any], asks: list[Any], payloads: list[bytes]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    rows = [
        [[*row, f"{side}{at:08d}-78cb-44cb-a3e5-9f8e56e82b4a"] for at, row in enumerate(levels)]
        for side, levels in (("b", bids), ("a", asks))
    ]
    book = OrderBook()
    found = {"orders: load 46,000 orders": turns(book.load_parts(*rows, 100))}
    found["orders: freeze"] = once(book.freeze)
    frozen = book.freeze()
    found["orders: write level 3"] = turns(book_parts(frozen, rows_per_slice=RENDER_SLICE))
    found["orders: write level 2"] = turns(book_parts(frozen, level=2, rows_per_slice=RENDER_SLICE))
    read = [event for event in map(from_full, payloads) if event is not None]

    def work() -> None:
        for event in read:
            book.apply(event)

    apply_us = cpu_us(work) / len(read)
    decode_us = cpu_us(lambda: [from_full(payload) for payload in payloads]) / len(payloads)
    return found, {"decode": decode_us, "apply": apply_us}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("packages", nargs="*")
    parser.add_argument("--rounds", type=int, required=True)
    options = parser.parse_args()
    sys.path += options.packages
    chance = random.Random(SEED)
    rows = large(chance)
    streams = {
        "recording": recorded(options.recording),
        "46,000 levels": ({"BTC-USD": rows}, random_changes(chance)),
    }
    payloads = events(chance, 100)
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX, 100, 100)
    for _ in range(options.rounds):
        figures: dict[str, Any] = {"apply_us": {}, "decode_us": {}}
        for name, (snapshots, stream) in streams.items():
            costs = {"hedgehogd": apply_ours(snapshots, stream)}
            try:
                costs["decimal"] = apply_peer(snapshots, stream, Decimal)
                costs["int"] = apply_peer(snapshots, stream, scaled)
            except ImportError:
                pass  # the table states the reason
            texts = [l2update(product_id, changes, TIME) for product_id, changes in stream]
            decode = cpu_us(lambda texts=texts: [read_update(text) for text in texts])
            figures["apply_us"][name] = costs
            figures["decode_us"][name] = decode / len(texts)
        order_turns, figures["orders_us"] = orders_figures(*rows, payloads)
        figures["turns_ms"] = book_turns(*rows) | order_turns
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
