"""Crash harness of the log's window: instances that are killed and stopped at random instants.

    python -m tests.log.harness --kills 200 --stops 200 --seed 1

Three instances compete for the lease and follow the log; each appends numbered records while it
is the writer. A witness follows and is never disturbed. The harness kills (SIGKILL) and stops
(SIGSTOP, later SIGCONT) instances at random instants, mostly the writer, leaves parts of entries
after the published end, and removes the sockets of followers. The instances stop and kill
themselves at the steps of appends and takeovers too, and take the lease from a healthy writer.
Wall clocks differ and step.

The oracle, from the files in which each instance notes its deliveries and publications:

* ids rise, and the terms do not fall;
* every instance delivered one piece of the witness' sequence, over all its lives;
* every record whose append returned is in that sequence, once, with its id;
* each writer's records are in its order, without a gap;
* every record's bytes are those that were appended.

It prints its seed and the pauses of delivery. ``--namespaces`` makes each instance process 1 of a
PID namespace of its own (root). ``--mutant NAME`` breaks the window on purpose; then it must fail.
"""

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import trio

from hedgehogd.domain.channel import Topic
from hedgehogd.domain.message import Message
from hedgehogd.log import directory as directory_module
from hedgehogd.log import follower as follower_module
from hedgehogd.log import lease as lease_module
from hedgehogd.log import window as window_module
from hedgehogd.log.allocation import Bounds
from hedgehogd.log.errors import Fenced, LogError
from hedgehogd.protocol.frames import encode_text
from tests.log import faults, namespaces

INSTANCES = 3
WITNESS = 0
TOPIC = Topic("ticker", "BTC-USD")
BOUNDS = Bounds(window_bytes_max=1 << 31, segment_bytes=16 * 1024)
APPEND_PAUSE_S = 0.01
SETTLED_S = 60.0
_US = 1_000_000


class Line(NamedTuple):
    """One note: the id of a record, its term, its writer, its number, and a time in ns."""

    id: int
    term: int
    writer: str
    number: int
    at_ns: int

    @property
    def record(self) -> tuple[int, int, str, int]:
        """The record without the time of the note."""
        return self[:4]


class Notes:
    """A file in which one instance notes records, each with one write."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, lines: list[Line]) -> None:
        """Write lines; a kill leaves a prefix of them."""
        text = "".join("{} {} {} {} {}\n".format(*line) for line in lines)
        os.write(self._file, text.encode())


def noted(path: Path) -> list[Line]:
    """Return the complete lines of a file; none if it does not exist."""
    return _lines(path.read_bytes()) if path.exists() else []


def last_noted(path: Path) -> Line | None:
    """Return the last complete line of a file, or None."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        end = file.read().partition(b"\n")[2] if file.tell() else file.read()
    lines = _lines(end)
    return lines[-1] if lines else None


def _lines(data: bytes) -> list[Line]:
    rows = (row.split() for row in data.decode().split("\n")[:-1])
    return [Line(int(a), int(b), c, int(d), int(e)) for a, b, c, d, e in rows]


def record(term: int, writer: str, number: int, size: int) -> Message:
    """Return a record that names its writer, with a checksum of its bytes."""
    text = b"%d %b %d " % (term, writer.encode(), number) + b"x" * size
    payload = text + b" %d" % zlib.crc32(text)
    return Message(TOPIC, "ticker", encode_text(payload), payload, number)


def read_record(message: Any) -> Line:
    """Return the note of a delivered record; raises ValueError if its bytes are wrong."""
    text, _, crc = message.payload.rpartition(b" ")
    if int(crc) != zlib.crc32(text) or message.frame != encode_text(message.payload):
        raise ValueError("a torn record was delivered")
    term, writer, number, _ = text.split(b" ", 3)
    return Line(message.id, int(term), writer.decode(), int(number), time.monotonic_ns())


class Instance:
    """One life of an instance: a candidate, a writer while it has the lease, and a follower.

    Args:
        options: the harness' options.
        number: its number; the witness has 0 and is no candidate.
        life: the number of its life, from 1.
    """

    def __init__(self, options: argparse.Namespace, number: int, life: int) -> None:
        self._options = options
        self._number = number
        self._name = f"{number}.{life}"
        self._chance = Random(f"{options.seed} {self._name}")
        self._directory = directory_module.Directory(options.path / "window")
        self._published = Notes(options.path / f"published-{number}")
        self._delivered = Notes(options.path / f"delivered-{number}")
        self._count = 0
        self._clock_us = self._chance.randint(-3600, 3600) * _US

    async def run(self) -> None:
        """Run until the process is killed; return when the file ``end`` exists."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow)
            if self._number != WITNESS:
                nursery.start_soon(self._compete)
            while not (self._options.path / "end").exists():
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()

    async def _follow(self) -> None:
        earlier = last_noted(self._options.path / f"delivered-{self._number}")
        after = earlier.id if earlier else 0
        while True:
            try:
                follower = follower_module.Follower(self._directory)
                break
            except LogError:
                await trio.sleep(0.01)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.watch)
            while True:
                while records := follower.read(after, 200):
                    self._delivered.add([read_record(each) for each in records])
                    after = records[-1].id
                    await trio.lowlevel.checkpoint()
                await follower.wait()

    async def _compete(self) -> None:
        while True:
            candidate = lease_module.Candidate(
                self._directory, writer=self._number, lease_s=self._options.lease_s
            )
            page = await self._lease(candidate)
            writer = window_module.Window(self._directory, page, self._wall_us, BOUNDS)
            candidate.close()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        partial(window_module.keep_lease, writer, lease_s=self._options.lease_s)
                    )
                    nursery.start_soon(self._append, writer)
            except* Fenced:
                pass
            finally:
                writer.close()

    async def _lease(self, candidate: Any) -> Any:
        """Wait for the lease; now and then take it from a healthy writer."""
        while True:
            is_free = candidate.look()
            if is_free or self._chance.random() < self._options.usurp:
                with suppress(lease_module.LostLease):
                    return candidate.take()
            await trio.sleep(lease_module.LEASE_LOOK_S)

    async def _append(self, writer: Any) -> None:
        chance = self._chance
        while True:
            size = chance.choice((1, 1, 1, 1, 2, 8, 16)) if chance.random() < 0.97 else 0
            sizes = [chance.randint(0, 300)] * size or [chance.randint(10_000, 200_000)]
            batch = [
                record(writer.term, self._name, self._count + place, each)
                for place, each in enumerate(sizes)
            ]
            self._count += len(batch)
            writer.append(batch)
            now_ns = time.monotonic_ns()
            self._published.add(
                [
                    Line(each.id, writer.term, self._name, int(each.sequence or 0), now_ns)
                    for each in batch
                ]
            )
            await trio.sleep(chance.expovariate(1 / APPEND_PAUSE_S))

    def _wall_us(self) -> int:
        if self._chance.random() < 0.001:
            self._clock_us = self._chance.randint(-3600, 3600) * _US
        return time.time_ns() // 1000 + self._clock_us


class Life(NamedTuple):
    """A running instance: the process to signal, and the process to wait for."""

    pid: int
    parent: int


class Harness:
    """Start instances, disturb them, judge their notes.

    Attributes:
        fired: how often each fault was done.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._chance = Random(options.seed)
        self._lives: dict[int, Life] = {}
        self._born: Counter[int] = Counter()
        self._continue_at: dict[int, float] = {}
        self._directory = directory_module.Directory(options.path / "window")
        self.fired: Counter[str] = Counter()
        self.faults: list[tuple[str, int]] = []

    def run(self) -> None:
        """Do all faults, then wait until all instances have delivered the same."""
        for number in range(INSTANCES + 1):
            self._start(number)
        try:
            self._wait_first_record()
            while (
                self.fired["killed writer"] + self.fired["killed follower"] < self._options.kills
                or self.fired["stopped writer"] + self.fired["stopped follower"]
                < self._options.stops
            ):
                calm_s = 2 * self._options.lease_s + 1 if self._options.calm else 0.0
                self._rest(calm_s + self._chance.uniform(0.02, 0.8))
                self._disturb()
            self._settle()
        finally:
            for life in self._lives.values():
                with suppress(ProcessLookupError):
                    os.kill(life.pid, signal.SIGKILL)
            for life in self._lives.values():
                with suppress(ChildProcessError):
                    os.waitpid(life.parent, 0)

    def _wait_first_record(self) -> None:
        until = time.monotonic() + SETTLED_S
        while not all(
            last_noted(self._options.path / f"delivered-{number}")
            for number in range(INSTANCES + 1)
        ):
            if time.monotonic() > until:
                raise AssertionError("no record was delivered")
            self._rest(0.05)

    def _start(self, number: int) -> None:
        self._born[number] += 1
        if self._options.namespaces and number != WITNESS:
            self._lives[number] = self._start_in_namespace(number)
            return
        pid = os.fork()
        if not pid:
            live(self._options, number, self._born[number])
        self._lives[number] = Life(pid, pid)

    def _start_in_namespace(self, number: int) -> Life:
        """Start an instance that is process 1 of a PID namespace, below a process that waits."""
        read, write = os.pipe()
        parent = os.fork()
        if not parent:
            namespaces.enter()
            pid = os.fork()
            if not pid:
                namespaces.mount_proc()
                live(self._options, number, self._born[number])
            os.write(write, str(pid).encode())
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) % 256)
        pid = int(os.read(read, 20))
        os.close(read)
        os.close(write)
        return Life(pid, parent)

    def _rest(self, seconds: float) -> None:
        """Let the instances run; continue stopped ones and start dead ones when due."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for number, life in list(self._lives.items()):
                pid, status = os.waitpid(life.parent, os.WNOHANG)
                if pid:
                    self._check_end(status)
                    self.fired["killed itself"] += 1
                    self._start(number)
                elif self._is_stopped(life.pid):
                    due = self._continue_at.setdefault(
                        number,
                        time.monotonic() + self._chance.uniform(0, 2) * self._options.lease_s,
                    )
                    if time.monotonic() >= due:
                        self._continue_at.pop(number)
                        self.fired["continued"] += 1
                        os.kill(life.pid, signal.SIGCONT)
            time.sleep(0.005)

    def _check_end(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        if code not in {-signal.SIGKILL, 256 - signal.SIGKILL}:
            raise AssertionError(f"an instance ended with {code}")

    def _is_stopped(self, pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
        except (OSError, IndexError):
            return False

    def _writer(self) -> int:
        terms = self._directory.terms()
        page = self._directory.page(terms[-1]) if terms else None
        if page is None:
            return 1
        writer = page.fixed.writer
        page.close()
        return writer

    def _disturb(self) -> None:
        chance = self._chance
        if chance.random() < 0.05:
            self.fired["sockets removed"] += 1
            for name in self._directory.followers():
                self._directory.remove(name)
        writer = self._writer()
        is_due = not (self.fired["killed writer"] and self.fired["stopped writer"])
        is_due = is_due or chance.random() < 0.75
        number = writer if is_due else chance.randint(1, INSTANCES)
        role = "writer" if number == writer else "follower"
        life = self._lives[number]
        kills = self.fired["killed writer"] + self.fired["killed follower"]
        stops = self.fired["stopped writer"] + self.fired["stopped follower"]
        options = self._options
        left_kills, left_stops = max(0, options.kills - kills), max(0, options.stops - stops)
        if chance.random() * (left_kills + left_stops) < left_kills:
            os.kill(life.pid, signal.SIGKILL)
            self.faults.append((f"killed {role}", time.monotonic_ns()))
            os.waitpid(life.parent, 0)
            self._continue_at.pop(number, None)
            self.fired[f"killed {role}"] += 1
            if role == "writer" and chance.random() < 0.5:
                self._leave_torn_tail()
            if chance.random() < 0.3:
                time.sleep(chance.uniform(0, 0.15))
            self._start(number)
        elif not self._is_stopped(life.pid):
            os.kill(life.pid, signal.SIGSTOP)
            self.faults.append((f"stopped {role}", time.monotonic_ns()))
            stop_s = chance.uniform(0, 2) * options.lease_s
            if options.calm:
                stop_s = 1.8 * options.lease_s
            self._continue_at[number] = time.monotonic() + stop_s
            self.fired[f"stopped {role}"] += 1
            if chance.random() < 0.5:  # let the lease change before the next fault
                self._rest(options.lease_s)

    def _leave_torn_tail(self) -> None:
        """Write a part of an entry after the end of a writer that was killed."""
        terms = self._directory.terms()
        page = self._directory.page(terms[-1])
        if page is None:
            return
        segment, offset = page.end
        path = self._options.path / "window" / f"segment-{terms[-1]}-{segment}"
        if segment and not page.is_fenced and path.exists():
            seal = lease_module.measure(self._directory, page)
            if seal.place == page.end:
                with path.open("r+b") as file:
                    os.pwrite(file.fileno(), faults.torn_tail(self._chance, page.last_id), offset)
                self.fired["torn tail"] += 1
        page.close()

    def _settle(self) -> None:
        """End all faults; wait until every instance has delivered the last record."""
        self._options.quiet = True
        (self._options.path / "quiet").touch()
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until:
            self._rest(0.3)
            if self._is_settled():
                break
        else:
            raise AssertionError("an instance delivers nothing")
        (self._options.path / "end").touch()
        for life in self._lives.values():
            os.kill(life.pid, signal.SIGCONT)
        time.sleep(0.5)

    def _is_settled(self) -> bool:
        """Return True if each instance delivered a record in the last half second."""
        now_ns = time.monotonic_ns()
        lines = [
            last_noted(self._options.path / f"delivered-{number}")
            for number in range(INSTANCES + 1)
        ]
        return all(line is not None and now_ns - line.at_ns < 500_000_000 for line in lines)


def live(options: argparse.Namespace, number: int, life: int) -> None:
    """Be one life of an instance; never returns."""
    status = 1
    try:
        namespaces.die_with_parent()
        if options.namespaces and number != WITNESS and os.getpid() != 1:
            raise AssertionError("not process 1 of its namespace")
        if options.mutant:
            faults.mutate(options.mutant)
        if number != WITNESS and not (options.path / "quiet").exists():
            chance = Random(f"{options.seed} faults {number}.{life}")
            faults.arm(chance, options.share, options.lease_s)
        trio.run(Instance(options, number, life).run)
        status = 0
    except BaseException as error:  # noqa: BLE001  # the process ends here
        with (options.path / "errors").open("a") as file:
            file.write(f"instance {number}.{life}: {error!r}\n")
            for each in _leaves(error):
                traceback.print_exception(each, file=file)
    finally:
        os._exit(status)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def judge(path: Path) -> tuple[list[Line], list[str]]:
    """Return the witness' sequence, and all violations that the notes show."""
    wrong: list[str] = []
    if (path / "errors").exists():
        wrong.append((path / "errors").read_text()[:3000])
    truth = noted(path / f"delivered-{WITNESS}")
    ids = [line.id for line in truth]
    terms = [line.term for line in truth]
    wrong += ["ids do not rise"] * (sorted(set(ids)) != ids)
    wrong += ["terms fall"] * (sorted(terms) != terms)
    at = {line.record: place for place, line in enumerate(truth)}
    for number in range(1, INSTANCES + 1):
        got = [line.record for line in noted(path / f"delivered-{number}")]
        if not got or got[0] not in at:
            wrong.append(f"instance {number} did not begin where the witness did")
            continue
        first = at[got[0]]
        common = min(len(got), len(truth) - first)
        expected = [line.record for line in truth[first : first + common]]
        if got[:common] != expected:
            place = next(i for i in range(common) if got[i] != expected[i])
            wrong.append(f"instance {number} delivered {got[place]} in place of {expected[place]}")
        published = [line.record for line in noted(path / f"published-{number}")]
        lost = [each for each in published if each not in at and each[0] <= ids[-1]]
        wrong += [f"published, but not in the log: {lost[:3]} and {len(lost)} in all"] * bool(lost)
    numbers: dict[tuple[str, int], int] = {}
    for line in truth:
        key = (line.writer, line.term)
        if line.number != numbers.get(key, line.number - 1) + 1:
            wrong.append(f"{line} follows {numbers[key]} of its writer")
            break
        numbers[key] = line.number
    return truth, wrong


def pauses(truth: list[Line], events: list[tuple[str, int]]) -> dict[str, list[float]]:
    """Return the pause of delivery at the witness after each fault, in s, by kind.

    It is the longest pause among those that begin at most 50 ms after the fault: records in
    flight are delivered first.
    """
    found: dict[str, list[float]] = {}
    times = [line.at_ns for line in truth]
    for kind, at_ns in events:
        first = bisect_right(times, at_ns)
        last = bisect_right(times, at_ns + 50_000_000)
        steps = [b - a for a, b in pairwise(times[max(0, first - 1) : last + 1])]
        if steps:
            found.setdefault(kind, []).append(max(steps) / 1e9)
    return found


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="python -m tests.log.harness")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--lease-s", type=float, default=2.0)
    parser.add_argument("--share", type=float, default=0.0005, help="of steps with a fault inside")
    parser.add_argument("--usurp", type=float, default=0.002, help="of looks that take the lease")
    parser.add_argument("--calm", action="store_true", help="one fault at a time, for pauses")
    parser.add_argument("--namespaces", action="store_true")
    parser.add_argument("--mutant", choices=faults.MUTANTS)
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(3))
    return options


def main(arguments: list[str]) -> int:
    """Run the harness; return 1 if a rule was violated."""
    options = parse(arguments)
    memory = Path("/dev/shm")
    options.path = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    print(f"seed {options.seed}", flush=True)
    harness = Harness(options)
    try:
        began = time.monotonic()
        try:
            harness.run()
            ended: list[str] = []
        except AssertionError as error:
            ended = [str(error)]
        truth, wrong = judge(options.path)
        wrong = ended + wrong
        print(f"{dict(sorted(harness.fired.items()))} in {time.monotonic() - began:.0f} s")
        print(f"{len(truth)} records in {len({line.term for line in truth})} terms")
        for kind, each in sorted(pauses(truth, harness.faults).items()):
            print(f"pause of delivery, {kind}: median {statistics.median(each):.3f} s, "
                  f"longest {max(each):.3f} s of {len(each)}")  # fmt: skip
        for text in wrong:
            print(f"WRONG: {text}")
        if not truth:
            wrong.append("nothing was delivered")
    finally:
        shutil.rmtree(options.path, ignore_errors=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
