"""Measured process of ``log``: a line of JSON a round.

It runs in the project's venv. The writer is this process, on the core of servers; three followers
are forked, on the core of the load. One part appends at a fixed rate and notes when each batch was
appended, sent and delivered; the peer's part sends the same packed batch as one datagram to each
of three processes that unpack it. The other part measures CPU: the writer appends without pauses
and wakes three sockets, and a reader in the same process reads each batch; the cost of reading the
clock is included.
"""

import argparse
import gc
import json
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import trio

from hedgehogd.domain import limits
from hedgehogd.domain.channel import LEVEL2, MATCHES, TICKER
from hedgehogd.domain.message import Message, intern_topic, read_head
from hedgehogd.log.directory import Directory
from hedgehogd.log.follower import Follower
from hedgehogd.log.lease import Candidate
from hedgehogd.log.reader import Reader
from hedgehogd.log.wakeups import Wakeups, bind_follower, drain
from hedgehogd.log.window import Window
from hedgehogd.protocol.entry import pack, unpack
from hedgehogd.protocol.frames import encode_text

CHANNELS = {"ticker": TICKER, "match": MATCHES, "l2update": LEVEL2}
FOLLOWERS = 3
SIZES = (1, 8, 64)
DATAGRAM_BYTES_MAX = 1 << 18
US = 1_000
PLAIN_SEND = Wakeups.send


def recorded(path: Path) -> list[Message]:
    """Return the recording's messages, without those that only begin a connection."""
    messages = []
    for line in path.read_bytes().splitlines():
        head = read_head(line)
        if head.type in CHANNELS:
            topic = intern_topic(CHANNELS[head.type].topic_channel, head.product_id)
            numbers = head.sequence, head.trade_id
            messages.append(Message(topic, head.type, encode_text(line), line, *numbers))
    return messages


def fresh(messages: list[Message], size: int, place: int) -> list[Message]:
    """Return the batch at a place, made now: a feed appends messages that it has just read."""
    received_us = time.time_ns() // 1000
    first = place * size % (len(messages) - size)
    return [
        Message(m.topic, m.type, encode_text(m.payload), m.payload, m.sequence, m.trade_id, m.also,
                received_us=received_us)
        for m in messages[first : first + size]
    ]  # fmt: skip


class Writer:
    """A window in a directory of its own, on a file system in memory."""

    def __init__(self, folder: str) -> None:
        self.path = Path(tempfile.mkdtemp(dir=folder))
        self.directory = Directory(self.path)
        candidate = Candidate(self.directory)
        candidate.look()
        self.window = Window(self.directory, candidate.take(), lambda: time.time_ns() // 1000)

    def close(self) -> None:
        self.window.close()
        self.directory.close()
        shutil.rmtree(self.path)


def fork(body: Callable[[int], None], core: int) -> tuple[int, int]:
    """Run ``body`` with a pipe's writing end in a child; return its process id and the pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(read)
            os.sched_setaffinity(0, {core})
            body(write)
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    return pid, read


def answer(pipe: int) -> Any:
    """Return all that a child wrote, decoded."""
    data = b""
    while piece := os.read(pipe, 1 << 20):
        data += piece
    os.close(pipe)
    return json.loads(data)


def follow_log(path: Path, size: int, count: int, pipe: int) -> None:
    """Follow the log; answer with the time at which each batch was there, in ns."""

    async def run() -> None:
        directory = Directory(path)
        follower = Follower(directory)
        os.write(pipe, b" ")
        after, times, read_s, records_read = follower.reader.after_id, [], 0.0, 0
        while len(times) < count:
            await follower.wait()
            began = time.thread_time()
            records = follower.read(after, 1_000)
            read_s += time.thread_time() - began
            if records:
                after = records[-1].id
                records_read += len(records)
                times += [time.monotonic_ns()] * (records_read // size - len(times))
        follower.close()
        os.write(pipe, json.dumps([times, read_s / records_read * 1e6]).encode())

    trio.run(run)


def follow_datagrams(path: Path, _size: int, count: int, pipe: int) -> None:
    """Receive packed batches as datagrams; answer likewise."""

    async def run() -> None:
        directory = Directory(path)
        sock, _ = bind_follower(directory)
        os.write(pipe, b" ")
        times: list[int] = []
        while len(times) < count:
            await trio.lowlevel.wait_readable(sock)
            with suppress(BlockingIOError):
                unpack(sock.recv(DATAGRAM_BYTES_MAX))
                times.append(time.monotonic_ns())
        os.write(pipe, json.dumps([times, 0.0]).encode())

    trio.run(run)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def log_append(writer: Writer, sent: list[int]) -> Callable[[list[Message]], int]:
    """Return the window's append; before it wakes its followers it notes the time."""

    def stamped(wakeups: Wakeups) -> None:
        sent.append(time.monotonic_ns())  # the batch is published
        PLAIN_SEND(wakeups)

    writer.window.renew()
    Wakeups.send = stamped  # type: ignore[method-assign]

    def append(batch: list[Message]) -> int:
        return writer.window.append(batch)

    return append


def datagram_append(writer: Writer, sent: list[int]) -> Callable[[list[Message]], int]:
    """Return the peer of an append: pack the batch, send it to each process."""
    sockets = []
    for name in writer.directory.followers():
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.connect(writer.directory.socket_path(name))
        sockets.append(sock)

    def append(batch: list[Message]) -> int:
        entry = pack(batch)
        sent.append(time.monotonic_ns())
        for sock in sockets:
            sock.send(entry)
        return 0

    return append


def paced(
    options: argparse.Namespace, messages: list[Message], size: int, *, is_log: bool
) -> dict[str, float]:
    """Append at a rate; return times in µs."""
    writer = Writer(options.folder)
    count, core = options.count, options.follower_core
    body = follow_log if is_log else follow_datagrams
    children = [fork(partial(body, writer.path, size, count), core) for _ in range(FOLLOWERS)]
    for _, pipe in children:
        os.read(pipe, 1)
    sent: list[int] = []
    append = log_append(writer, sent) if is_log else datagram_append(writer, sent)
    calls, due = [], time.monotonic() + 0.05
    begun: list[int] = []
    for place in range(count):
        due += 1 / options.rate
        time.sleep(max(0.0, due - time.monotonic()))
        batch = fresh(messages, size, place)
        began = time.monotonic_ns()
        append(batch)
        calls.append((time.monotonic_ns() - began) / US)
        begun.append(began)
    answers = [answer(pipe) for _, pipe in children]
    for pid, _ in children:
        os.waitpid(pid, 0)
    Wakeups.send = PLAIN_SEND  # type: ignore[method-assign]
    writer.close()
    delays = [(a - b) / US for times, _ in answers for a, b in zip(times, sent, strict=True)]
    wholes = [(a - b) / US for times, _ in answers for a, b in zip(times, begun, strict=True)]
    commits = [(a - b) / US for a, b in zip(sent, begun, strict=True)]
    return {
        "call_p50": statistics.median(calls),
        "commit_p50": statistics.median(commits),
        "commit_p99": percentile(commits, 0.99),
        "wakeup_p50": statistics.median(delays),
        "wakeup_p99": percentile(delays, 0.99),
        "whole_p50": statistics.median(wholes),
        "read_us": statistics.median(each for _, each in answers),
    }


def cpu(folder: str, messages: list[Message], size: int, count: int) -> dict[str, float]:
    """Append and read without pauses; return the CPU of each a message, in µs."""
    writer = Writer(folder)
    sockets = [bind_follower(writer.directory)[0] for _ in range(FOLLOWERS)]
    writer.window.renew()
    reader = Reader(writer.directory)
    write_s = read_s = 0.0
    for place in range(count):
        batch = fresh(messages, size, place)
        began = time.thread_time()
        writer.window.append(batch)
        write_s += time.thread_time() - began
        for sock in sockets:
            drain(sock)
        began = time.thread_time()
        records = reader.read(reader.after_id, 1_000)
        read_s += time.thread_time() - began
        assert len(records) == size
    reader.close()
    for sock in sockets:
        sock.close()
    writer.close()
    done = count * size
    return {"writer_us": write_s / done * 1e6, "reader_us": read_s / done * 1e6}


def main() -> None:
    """Measure rounds, or append only, for a trace of the system calls."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--folder", default="/dev/shm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=600, help="batches of each paced run")
    parser.add_argument("--rate", type=float, default=300.0, help="batches a second")
    parser.add_argument("--follower-core", type=int, default=1)
    parser.add_argument("--append", type=int, help="only append that many batches of 8")
    options = parser.parse_args()
    messages = recorded(options.recording)
    gc.collect()
    gc.freeze()
    gc.set_threshold(limits.GC_NEW_OBJECTS_MAX)
    if options.append:
        writer = Writer(options.folder)
        sys.stderr.write("appending\n")
        for place in range(options.append):
            writer.window.append(fresh(messages, 8, place))
        sys.stderr.write("appended\n")
        writer.close()
        return
    for _ in range(options.rounds):
        found: dict[str, Any] = {}
        for size in SIZES:
            for name, is_log in (("log", True), ("datagram", False)):
                found.setdefault(name, {})[size] = paced(options, messages, size, is_log=is_log)
            found.setdefault("cpu", {})[size] = cpu(
                options.folder, messages, size, max(200, 20_000 // size)
            )
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
