"""Measured process of ``history``: a line of JSON for compression, then one a round.

It runs in the project's venv, because it needs the project's modules. Everything is prepared
before the clock starts: copies of the shared recording in sequence, with times, sequences and
trade ids that continue to rise, split where the recorder would write.
"""

import argparse
import gc
import gzip
import itertools
import json
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec

from hedgehogd.domain import limits
from hedgehogd.domain.channel import LEVEL2, MATCHES, TICKER, Topic
from hedgehogd.history.block_codec import Kept, pack, unpack
from hedgehogd.history.reader import Reader
from hedgehogd.history.schema import FILE_NAME
from hedgehogd.history.writer import Entry, Writer
from hedgehogd.recovery.history_port import message_of

CHANNELS = {
    "ticker": TICKER,
    "match": MATCHES,
    "last_match": MATCHES,
    "snapshot": LEVEL2,
    "l2update": LEVEL2,
}
STATE = {"last_match", "snapshot"}  # first messages of a connection; the copies have none
US = 1_000_000
PEER_TABLES = """
PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
CREATE TABLE message (
    topic TEXT NOT NULL, received INTEGER NOT NULL, sequence INTEGER, trade_id INTEGER,
    payload BLOB NOT NULL
);
CREATE INDEX by_time ON message (topic, received);
"""
Batch = tuple[list[Entry], int]


def recorded(folder: Path) -> list[tuple[dict[str, Any], Entry]]:
    """Return the recording's messages, decoded and in the form that the recorder passes on."""
    lines = (folder / "feed.jsonl").read_bytes().splitlines()
    times = (folder / "feed.recv_ts.txt").read_text().split()
    found = []
    for line, text in zip(lines, times, strict=True):
        head = msgspec.json.decode(line)
        if head["type"] in CHANNELS:
            topic = CHANNELS[head["type"]].topic(head["product_id"])
            numbers = head.get("sequence"), head.get("trade_id")
            found.append((head, Entry(topic, int(float(text) * US), line, *numbers)))
    return found


def repeated(messages: list[tuple[dict[str, Any], Entry]], copies: int) -> list[Entry]:
    """Return ``copies`` of the recording as one."""
    spans: dict[tuple[str, str], int] = {}
    for product_id, rows in itertools.groupby(
        sorted((head for head, _ in messages), key=lambda head: str(head["product_id"])),
        key=lambda head: str(head["product_id"]),
    ):
        heads = list(rows)
        for name, more in (("sequence", 1), ("trade_id", 0)):
            numbers = [head[name] for head in heads if name in head]
            spans[product_id, name] = max(numbers) - min(numbers) + more
    length_us = messages[-1][1].received_us - messages[0][1].received_us + 3_000
    entries = [entry for _, entry in messages]
    first = {  # for each product the ticker of its greeting
        id(head) for head in {h["product_id"]: h for h, _ in reversed(messages)
        if h["type"] == "ticker"}.values()
    }  # fmt: skip
    for copy in range(1, copies):
        later = timedelta(microseconds=copy * length_us)
        for head, entry in messages:
            if head["type"] in STATE or id(head) in first:
                continue
            told = dict(head)
            moment = datetime.fromisoformat(told["time"]) + later
            told["time"] = f"{moment:%Y-%m-%dT%H:%M:%S.%f}Z"
            for name in ("sequence", "trade_id"):
                if name in told:
                    told[name] += copy * spans[entry.topic.product_id, name]
            entries.append(
                Entry(
                    entry.topic,
                    entry.received_us + copy * length_us,
                    msgspec.json.encode(told),
                    told.get("sequence"),
                    told.get("trade_id"),
                )
            )
    return entries


def batches(entries: Iterable[Entry]) -> list[Batch]:
    """Return each write: the messages received within ``HISTORY_FLUSH_S``, and its time."""
    width_us = int(limits.HISTORY_FLUSH_S * US)
    return [
        (list(rows), (number + 1) * width_us)
        for number, rows in itertools.groupby(entries, lambda entry: entry.received_us // width_us)
    ]


def plain(kept: list[Kept]) -> bytes:
    """Return the input of a peer's compression: payloads and receive times."""
    places = [0, *(each.place for each in kept)]
    times = ",".join([str(b - a) for a, b in itertools.pairwise(places)])
    return b"\n".join([*(each.payload for each in kept), times.encode()])


def compression(messages: list[tuple[dict[str, Any], Entry]]) -> dict[str, dict[str, float]]:
    """Return bytes by channel: raw, in our blocks, in plain zlib's, and as one gzip."""
    found: dict[str, dict[str, float]] = {}
    whole: dict[str, list[Kept]] = defaultdict(list)
    pending: dict[Topic, list[Kept]] = {}

    def seal(topic: Topic) -> None:
        kept = pending.pop(topic)
        begin = time.thread_time()
        block = pack(topic, kept)
        packed = time.thread_time()
        if unpack(topic, block) != kept:
            raise AssertionError(f"a block of {topic} differs from the packed messages")
        row = found.setdefault(topic.channel, dict.fromkeys(
            ("messages", "blocks", "raw", "ours", "zlib", "gzip", "pack_s", "unpack_s"), 0
        ))  # fmt: skip
        row["unpack_s"] += time.thread_time() - packed
        row["pack_s"] += packed - begin
        row["messages"] += len(kept)
        row["blocks"] += 1
        row["raw"] += sum(len(each.payload) for each in kept)
        row["ours"] += len(block)
        row["zlib"] += len(zlib.compress(plain(kept)))

    for _, entry in messages:
        kept = pending.get(entry.topic)
        if kept and (
            entry.received_us - kept[0].place >= limits.BLOCK_AGE_S * US
            or sum(len(each.payload) for each in kept) >= limits.BLOCK_BYTES
        ):
            seal(entry.topic)
        each = Kept(entry.received_us, entry.payload)
        pending.setdefault(entry.topic, []).append(each)
        whole[entry.topic.channel].append(each)
    for topic in list(pending):
        seal(topic)
    for channel, kept in whole.items():
        found[channel]["gzip"] = len(gzip.compress(plain(kept)))
    total = {name: sum(row[name] for row in found.values()) for name in next(iter(found.values()))}
    everything = [Kept(entry.received_us, entry.payload) for _, entry in messages]
    total["gzip"] = len(gzip.compress(plain(everything)))
    return {**found, "all": total}


def status(name: str) -> int:
    """Return a figure of this process' memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(name)


def timed(work: Callable[[], int]) -> dict[str, float]:
    """Return the number of messages, the time and CPU used, and the growth of memory."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): reset the highest RSS
    rss, cpu, wall = status("VmRSS"), time.process_time(), time.perf_counter()
    messages = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    grown = max(0, status("VmHWM") - rss)
    return {"messages": messages, "wall_s": wall, "cpu_s": cpu, "rss_grown": grown}


def write_ours(folder: Path, written: list[Batch]) -> int:
    writer = Writer(folder, {})
    kept = sum(writer.write(entries, now_us) for entries, now_us in written)
    writer.close()
    return kept


def write_peer(file: Path, written: list[Batch]) -> int:
    """Write a row for each message, in the same transactions."""
    connection = sqlite3.connect(file, isolation_level=None)
    connection.executescript(PEER_TABLES)
    for entries, _ in written:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO message VALUES (?, ?, ?, ?, ?)",
            [(str(e.topic), e.received_us, e.sequence, e.trade_id, e.payload) for e in entries],
        )
        connection.execute("COMMIT")
    connection.close()
    return sum(len(entries) for entries, _ in written)


def read_ours(folder: Path, topic: Topic, check: list[bytes] | None = None) -> int:
    """Read all of one topic with a reader that has an empty cache."""
    reader = Reader(folder)
    after = count = 0
    while True:
        page = reader.page([topic], after)
        count += len(page.messages)
        after = page.end
        if check is not None:
            check += [message.payload for message in page.messages]
        if page.is_last:
            reader.close()
            return count


def read_peer(file: Path, topic: Topic, *, whole: bool) -> int:
    """Read its rows; ``whole``: make each a message ready to send, as hedgehogd's reader does."""
    connection = sqlite3.connect(file)
    count = 0
    query = "SELECT received, payload FROM message WHERE topic = ? ORDER BY received"
    for received_us, payload in connection.execute(query, (str(topic),)):
        if whole:
            message_of(topic, payload, received_us)
        count += 1
    connection.close()
    return count


def busiest(entries: list[Entry]) -> dict[str, Topic]:
    """Return each channel's topic with the most messages."""
    counts: dict[Topic, int] = defaultdict(int)
    for entry in entries:
        counts[entry.topic] += 1
    return {topic.channel: topic for topic in sorted(counts, key=counts.__getitem__)}


def one_round(written: list[Batch], topics: dict[str, Topic]) -> dict[str, Any]:
    """Write both stores and read them back."""
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent / "build") as place:
        ours, peer = Path(place), Path(place, "rows.sqlite")
        figures: dict[str, Any] = {
            "write": timed(lambda: write_ours(ours, written)),
            "write_peer": timed(lambda: write_peer(peer, written)),
            "disk": (ours / FILE_NAME).stat().st_size,
            "disk_peer": peer.stat().st_size,
            "read": {},
        }
        if figures["write"]["messages"] != figures["write_peer"]["messages"]:
            raise AssertionError("the store does not have all messages")
        for channel, topic in topics.items():
            figures["read"][channel] = {
                "topic": str(topic),
                "ours": timed(lambda topic=topic: read_ours(ours, topic)),
                "rows": timed(lambda topic=topic: read_peer(peer, topic, whole=False)),
                "messages": timed(lambda topic=topic: read_peer(peer, topic, whole=True)),
            }
            found: list[bytes] = []
            read_ours(ours, topic, found)
            if found != [e.payload for entries, _ in written for e in entries if e.topic == topic]:
                raise AssertionError(f"{topic} is read differently from how it was written")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--copies", type=int, required=True)
    options = parser.parse_args()
    messages = recorded(options.recording)
    print(json.dumps(compression(messages)), flush=True)
    entries = repeated(messages, options.copies)
    written, topics = batches(entries), busiest(entries)
    raw = sum(len(entry.payload) for entry in entries)
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX, 20, 100)
    for _ in range(options.rounds):
        figures = one_round(written, topics)
        print(json.dumps({**figures, "raw": raw, "transactions": len(written)}), flush=True)


if __name__ == "__main__":
    main()
