"""Processes of ``exchange``, in the project's venv.

    exchange_process.py make SCHEDULE SECONDS
    exchange_process.py compare SCHEDULE ARCHIVE

``make`` writes the schedule and the state of a simulated market of 400 products (workload.py).
``compare`` reads an archive and prints a line of JSON: how many of the schedule's messages it has,
topic by topic and byte for byte, and how many gaps.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from archive_process import names
from peers.schedule import HEAD, load

from hedgehogd.domain.channel import LEVEL2, MATCHES, TICKER, Topic
from hedgehogd.domain.message import Message, read_head
from hedgehogd.domain.record import GapRecord, Record
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.reader import Reader
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import products_for

PRODUCTS = 400
RATE = 0.434  # 2,100 messages a second of the three channels; the feeder adds 400 heartbeats
START_NS = 1_790_000_000 * 10**9
CHANNELS = (TICKER, MATCHES, LEVEL2)
SEED = 7
CHANNEL_OF = {"ticker": TICKER, "match": MATCHES, "last_match": MATCHES, "l2update": LEVEL2}


def make(schedule: Path, seconds: int) -> None:
    """Write the schedule and the state."""
    products = products_for(names(Random(SEED)))[:PRODUCTS]  # a market
    market = Market(SEED, START_NS, products, RATE)
    wanted = {(channel.name, product.id) for channel in CHANNELS for product in products}
    state = [market.initial_state(*each) for each in sorted(wanted)]
    with schedule.with_suffix(".state").open("wb") as file:
        file.writelines(payload + b"\n" for payload in state if payload is not None)
    due_us = 0
    with schedule.open("wb") as file:
        for each in market.advance(START_NS + seconds * 10**9, wanted):
            if (each.channel, each.product_id) in wanted:
                due_us = max(due_us, (each.time_ns - START_NS) // 1000)
                file.write(HEAD.pack(due_us, len(each.payload)) + each.payload)


def topic_of(payload: bytes) -> Topic | None:
    """Return the topic of a message of the schedule; None for other types."""
    head = read_head(payload)
    channel = CHANNEL_OF.get(head.type)
    return None if channel is None else channel.topic(head.product_id)


def records(directory: Path) -> Iterator[Record]:
    """Yield the records of an archive, in order."""
    with closing(Reader(directory)) as reader:
        after_id = -1
        while True:
            page = reader.read(max(after_id, 0))
            yield from page.records
            if page.end_id <= after_id:
                return
            after_id = page.end_id


def compare(schedule: Path, directory: Path) -> dict[str, int]:
    """Compare the archive with the schedule and the state before it."""
    sent: dict[Topic, list[bytes]] = defaultdict(list)
    for _, payload in load(str(schedule)):
        topic = topic_of(payload)
        assert topic is not None
        sent[topic].append(payload)
    found: dict[Topic, list[bytes]] = defaultdict(list)
    figures = {"messages": 0, "heartbeats": 0, "gaps": 0, "missing": 0, "superfluous": 0}
    for record in records(directory):
        figures["gaps"] += isinstance(record, GapRecord)
        if isinstance(record, Message):
            figures["messages"] += 1
            topic = topic_of(record.payload)
            figures["heartbeats"] += record.type == "heartbeat"
            if topic is not None:
                found[topic].append(record.payload)
    for topic, payloads in sent.items():
        kept = found[topic]
        begin = len(kept) - len(payloads)  # the state precedes
        if begin < 0 or kept[begin:] != payloads:
            in_archive = set(kept)
            figures["missing"] += sum(payload not in in_archive for payload in payloads) or 1
        figures["superfluous"] += max(0, begin - 1)
    totals = Totals()
    figures["damaged"] = sum(each.is_damage for each in check(directory, totals))
    figures["scheduled"] = sum(map(len, sent.values()))
    return figures


def main() -> None:
    """Make or compare."""
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["make", "compare"])
    parser.add_argument("schedule", type=Path)
    parser.add_argument("argument")
    options = parser.parse_args()
    if options.mode == "make":
        make(options.schedule, int(options.argument))
    else:
        print(json.dumps(compare(options.schedule, Path(options.argument))), flush=True)


if __name__ == "__main__":
    main()
