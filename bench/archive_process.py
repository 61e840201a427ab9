"""Measured process of ``archive``: a line of JSON for each step.

It runs in the project's venv. A simulated market of 400 products (ticker, matches, level2,
heartbeat) is made once and repeated with ids and times that continue to rise; the payloads repeat.
That does not help compression: a block holds half a minute, and the market is longer.
"""

import argparse
import gc
import json
import random
import resource
import shutil
import string
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from archive_beside import beside

from hedgehogd.domain import limits
from hedgehogd.domain.channel import HEARTBEAT, LEVEL2, MATCHES, TICKER, Topic
from hedgehogd.domain.instant import to_text
from hedgehogd.domain.message import Message, intern_topic, read_head
from hedgehogd.log.archive.check import Totals, check
from hedgehogd.log.archive.reader import Reader
from hedgehogd.log.archive.search import checkpoint_before, find_time
from hedgehogd.log.archive.writer import Sizes, Writer
from hedgehogd.protocol.csv import rows
from hedgehogd.protocol.frames import encode_text
from hedgehogd.simulator.market import Market
from hedgehogd.simulator.products import products_for

US = 1_000_000
PRODUCTS = 400
RATE = 0.53  # 2,500 messages a second of the four channels
START_NS = 1_790_000_000 * 10**9
CHANNELS = (TICKER, MATCHES, LEVEL2, HEARTBEAT)
DEPLOYMENT = "abcdef"
SEED = 7
BATCH = 64


def names(chance: random.Random) -> list[str]:
    """Return the names of the products that the simulator does not list by itself."""
    found: set[str] = set()
    while len(found) < PRODUCTS - 12:
        base = "".join(chance.choices(string.ascii_uppercase, k=chance.choice((3, 3, 4, 4, 5))))
        found.add(f"{base}-{chance.choice(('USD', 'USD', 'USD', 'EUR', 'GBP', 'USDC'))}")
    return sorted(found)


def simulated(seconds: int) -> tuple[list[Message], list[Message]]:
    """Return the messages of a market, with ids and receive times; and its books at the start."""
    chance = random.Random(SEED)
    products = products_for(names(chance))[:PRODUCTS]
    market = Market(SEED, START_NS, products, RATE)
    wanted = {(channel.name, product.id) for channel in CHANNELS for product in products}
    books = [
        Message(LEVEL2.topic(each.id), "snapshot", b"", payload)
        for each in products
        if (payload := market.initial_state(LEVEL2.name, each.id)) is not None
    ]
    messages: list[Message] = []
    received_us = id_ = 0
    for each in market.advance(START_NS + seconds * 10**9, wanted):
        if (each.channel, each.product_id) not in wanted:
            continue
        delay_us = 20_000 + int(chance.expovariate(1 / 3_000))
        received_us = max(received_us, each.time_ns // 1000 + delay_us)
        id_ = max(id_ + 1, received_us + int(chance.expovariate(1 / 300)))
        head = read_head(each.payload)
        messages.append(
            Message(
                intern_topic(each.channel, each.product_id), head.type, encode_text(each.payload),
                each.payload, head.sequence, head.trade_id, received_us=received_us, id=id_,
            )
        )  # fmt: skip
    return messages, books


def shift(messages: list[Message], by: int) -> None:
    """Move ids and receive times."""
    for message in messages:
        message.id += by
        message.received_us += by


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Return the number of records, the wall time and the CPU time."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return {
        "records": count,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
    }


def fill(
    directory: Path, messages: list[Message], books: list[Message], raw_bytes: int
) -> dict[str, Any]:
    """Write at least ``raw_bytes`` of payloads; sync once a second of the log's time."""
    raw = sum(len(message.payload) for message in messages)
    span = messages[-1].id - messages[0].id + 1_000
    copies = max(1, -(-raw_bytes // raw))
    slowest = 0.0
    writer = Writer(directory, DEPLOYMENT, checkpoint=lambda: books, sizes=Sizes())

    def write() -> int:
        nonlocal slowest
        for _ in range(copies):
            synced_us = messages[0].id
            for at in range(0, len(messages), BATCH):
                batch = messages[at : at + BATCH]
                writer.append(batch)
                # At full speed a second of wall time is some 20 s of the log.
                if batch[-1].id - synced_us >= 20 * US:
                    synced_us = batch[-1].id
                    begin = time.perf_counter()
                    writer.sync()
                    slowest = max(slowest, time.perf_counter() - begin)
                    while writer.work():
                        pass
            writer.sync()  # first: the writer holds the messages until then
            shift(messages, span)
        while writer.work():
            pass
        return copies * len(messages)

    figures: dict[str, Any] = timed(write)
    figures |= {"copies": copies, "raw": copies * raw, "disk": writer.size, "sync_s_max": slowest}
    writer.close()
    shift(messages, -copies * span)
    return figures


def places(messages: list[Message], copies: int) -> list[tuple[str, int]]:
    """Return the beginning and the middle of an archive as times.

    Each with the number of messages from there on, without those of books.
    """
    span = messages[-1].id - messages[0].id + 1_000
    found = []
    for place in (0, copies * len(messages) // 2):
        copy, at = divmod(place, len(messages))
        since_us = messages[at].received_us
        after = [m.received_us >= since_us for m in messages if m.topic.channel != "level2"]
        count = sum(after) + (copies - copy - 1) * len(after)
        found.append((to_text(since_us + copy * span), count))
    return found


def read(directory: Path, topics: frozenset[Topic] | None, records_max: int) -> dict[str, float]:
    """Read up to ``records_max`` records, page after page, with an empty cache."""

    def work() -> int:
        with closing(Reader(directory)) as reader:
            after_id = count = 0
            while count < records_max:
                page = reader.read(after_id, topics, 2_000)
                count += len(page.records)
                after_id = page.end_id
                if page.is_last:
                    break
            return count

    return timed(work)


def one_page(directory: Path, topics: frozenset[Topic] | None, after_id: int) -> dict[str, float]:
    """Read one page with a reader that has read one record."""
    with closing(Reader(directory)) as reader:
        reader.read(0, None, 1)
        return timed(lambda: len(reader.read(after_id, topics, 100).records))


def single_steps(
    directory: Path, quiet: Topic, busy: Topic
) -> Iterator[tuple[str, dict[str, float]]]:
    """Measure the steps that must not depend on the size of the archive."""
    yield "start", timed(lambda: Writer(directory, DEPLOYMENT).close() or 1)
    with closing(Reader(directory)) as reader:
        last_id = reader.last_id()
        first_id = reader.read(0, None, 1).end_id
    for name, after_id in (("first page", 0), ("deep page", (first_id + last_id) // 2)):
        yield name, one_page(directory, frozenset({quiet}), after_id)
        yield f"{name} of all", one_page(directory, None, after_id)

    def newest() -> int:
        with closing(Reader(directory)) as reader:
            return len(reader.read_back(2**62, frozenset({busy}), 100).records)

    yield "newest first", timed(newest)

    def replay_start() -> int:
        with closing(Reader(directory)) as reader:
            after_id = find_time(reader, (START_NS // 1000 + last_id) // 2)
            topics = [LEVEL2.topic(product_id) for product_id in ("BTC-USD", "ETH-USD")]
            books = [checkpoint_before(reader, topic, after_id) for topic in topics]
            assert all(books), "a book without a start"
            return len(reader.read(after_id, None, 1_000).records)

    yield "replay start", timed(replay_start)


def export(directory: Path, topic: Topic) -> dict[str, float]:
    """Write one product's day as CSV."""

    def work() -> int:
        with closing(Reader(directory)) as reader, Path("/dev/null").open("wb") as file:
            placement = reader.placement()
            after_id = count = 0
            while True:
                page = reader.read(after_id, frozenset({topic}), 2_000, placement)
                file.write(rows([r for r in page.records if isinstance(r, Message)]))
                count += len(page.records)
                after_id = page.end_id
                if page.is_last:
                    return count

    return timed(work)


def retention(directory: Path, messages: list[Message], copies: int) -> dict[str, Any]:
    """Append beside readers and live delivery, and drop segments."""
    by = copies * (messages[-1].id - messages[0].id + 1_000)
    shift(messages, by)
    try:
        return beside(directory, DEPLOYMENT, messages)
    finally:
        shift(messages, -by)


def verify(directory: Path) -> dict[str, float]:
    """Run the function of ``store check``."""

    def work() -> int:
        totals = Totals()
        damages = [each for each in check(directory, totals) if each.is_damage]
        assert not damages, damages[:3]
        return totals.messages

    return timed(work)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--raw-bytes", type=int, action="append", required=True)
    parser.add_argument("--plain", type=Path, help="write one copy as NDJSON for the peer")
    parser.add_argument("--write-only", action="store_true", help="leave the archives there")
    options = parser.parse_args()

    def report(name: str, figures: dict[str, Any]) -> None:
        print(json.dumps({"step": name, **figures}), flush=True)

    messages, books = simulated(options.seconds)
    counts = Counter(message.topic for message in messages if message.topic.channel == "level2")
    busy, quiet = Topic("level2", "BTC-USD"), counts.most_common()[-1][0]
    report("market", {
        "records": len(messages),
        "per_s": len(messages) / options.seconds,
        "raw": sum(len(message.payload) for message in messages),
        "books": sum(len(book.payload) for book in books),
    })  # fmt: skip
    if options.plain:
        with options.plain.open("w", encoding="utf-8") as file:
            for m in messages:
                row = [m.id, m.received_us, *m.topic, m.sequence, m.trade_id, m.payload.decode()]
                file.write(json.dumps(row) + "\n")
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX, 100, 100)
    for raw_bytes in options.raw_bytes:
        directory = options.directory / str(raw_bytes)
        try:
            written = fill(directory, messages, books, raw_bytes)
            if options.write_only:
                written["places"] = places(messages, written["copies"])
            report(f"write {raw_bytes}", written)
            if options.write_only:
                continue
            report(f"read {busy}", read(directory, frozenset({busy}), 10**9))
            report(f"read {quiet}", read(directory, frozenset({quiet}), 10**9))
            report("read all", read(directory, None, 1_500_000))
            topics = frozenset(message.topic for message in messages)
            report(f"read {len(topics)} topics", read(directory, topics, 1_500_000))
            for name, figures in single_steps(directory, quiet, busy):
                report(name, figures)
            report("export", export(directory, MATCHES.topic("BTC-USD")))
            report("store check", verify(directory))
            report("retention", retention(directory, messages, written["copies"]))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            report("end", {"rss_max": peak})
        finally:
            if not options.write_only:
                shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
