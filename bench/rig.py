"""Foundation of all benchmarks: child processes, cores, CPU clocks, memory.

The server under test is pinned to core 0 and everything that loads it to core 1, so that a
server's figure never contains its load, and a machine with more cores gives the same figure.
Both have priority over the machine's other processes: a server that waits for its core finds
separate messages joined, and seems cheaper than it is.

CPU is read from each process' own CPU clock (``clock_getcpuclockid``): user and system time
of all its threads, in ns. It includes the kernel's work within the server's own calls, the
loopback's receive path among it, for every server alike.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
BUILD = BENCH / "build"
RESULTS = BENCH / "results"
PROJECT_PYTHON = ROOT / ".venv" / "bin" / "python"

SERVER_CORE = 0
LOAD_CORE = 1
NICENESS = "-15"  # priority over the machine's other processes, where permitted
ACK_MODES = ("quick", "delayed")  # of the receiver's sockets; receiver_acks.c
QUICK_MIN = 0.7  # prompt acknowledgements per segment: about 1 in quick mode, 0.5 in delayed
START_S = 20.0  # longest wait until a process is ready

_libc = ctypes.CDLL(None, use_errno=True)


class BenchError(Exception):
    """A benchmark has no figure; the text states the reason."""


class Child:
    """A child process: pinned to a core, controlled by lines of text, ended by its own pid.

    Standard error (and output, if ``silent``: it is not read then) goes to
    ``build/logs/NAME.log``; errors about the process quote its end.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        core: int,
        env: dict[str, str] | None = None,
        silent: bool = False,
    ) -> None:
        self.name = name
        self.command = [str(part) for part in command]
        self.log = BUILD / "logs" / f"{name}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._pending = b""
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(core), *self.command],
                stdin=subprocess.PIPE,
                stdout=log if silent else subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **(env or {})},
                start_new_session=True,  # Linux schedules sessions against each other, …
            )
        with contextlib.suppress(OSError):  # … so the niceness is set for the session
            Path(f"/proc/{self.process.pid}/autogroup").write_text(NICENESS)
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def tell(self, line: str) -> None:
        """Write one line to its standard input."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"{self.name} has ended: {self.last_words()}") from None

    def line(self, timeout_s: float) -> str | None:
        """Return the next line of its standard output, or None after ``timeout_s``."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return None
                data = os.read(self.process.stdout.fileno(), 65536)
                if not data:
                    raise BenchError(f"{self.name} has ended: {self.last_words()}")
                self._pending += data
        text, _, self._pending = self._pending.partition(b"\n")
        return text.decode()

    def expect(self, word: str, timeout_s: float = START_S) -> str:
        """Return the next line that begins with ``word``."""
        deadline = time.monotonic() + timeout_s
        while (text := self.line(max(0.0, deadline - time.monotonic()))) is not None:
            if text.startswith(word):
                return text
        raise BenchError(f"{self.name} did not say {word!r} in {timeout_s:g} s")

    def last_words(self) -> str:
        """Return exit status and the end of its standard error."""
        try:
            status: object = self.process.wait(2)
        except subprocess.TimeoutExpired:
            status = "still running"
        text = self.log.read_text(errors="replace").strip()
        return f"exit status {status}; {text[-600:] or 'nothing on standard error'}"

    def end(self, timeout_s: float = 5.0) -> int:
        """Terminate it; return its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
        finally:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


class Receiver(Child):
    """The load receiver (receiver.c describes its commands)."""

    def __init__(
        self,
        port: int,
        connections: int,
        *,
        path: str = "/ws-feed",
        subscribe: str = "",
        rate: float = 0,
        stamp: str = "",
        stalled: bool = False,
        eager: bool = True,
        spin: bool = False,
        large: int = 0,
        deflate: bool = False,
        ack: str = "",
        name: str = "receiver",
    ) -> None:
        command: list[str | Path] = [BUILD / "receiver", "--port", str(port), "--path", path]
        command += ["--connections", str(connections)]
        if subscribe:
            command += ["--subscribe", subscribe]
        if rate:
            command += ["--rate", str(rate)]
        if stamp:
            command += ["--stamp", stamp]
        if stalled:
            command += ["--stalled"]
        if eager:
            command += ["--eager"]
        if spin:
            command += ["--spin"]
        if large:
            command += ["--large", str(large)]
        if deflate:
            command += ["--deflate"]
        if ack:
            command += ["--ack", ack]
        super().__init__(name, command, core=LOAD_CORE)
        self.connections = connections

    def ask(self, order: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """Send one command and return its answer; ``report`` ends a late one."""
        self.tell(order)
        text = self.line(timeout_s)
        if text is None:
            self.tell("report")
            text = self.line(10)
        if text is None:
            raise BenchError(f"the receiver did not answer {order!r} in {timeout_s:g} s")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def join(self, state_messages: int = 0, timeout_s: float = 60.0) -> dict[str, Any]:
        """Connect and subscribe all; return the connect answer.

        Waits until each subscriber has ``state_messages`` (the initial state) and it is silent.
        """
        answer = self.ask("connect", timeout_s)
        if answer["open"] != self.connections:
            raise BenchError(
                f"only {answer['open']} of {self.connections} connections were accepted "
                f"in {timeout_s:g} s: {self.log.read_text(errors='replace')[-300:]}"
            )
        deadline = time.monotonic() + timeout_s
        while (settled := self.ask("settle 500", timeout_s))["min"] < state_messages:
            if time.monotonic() > deadline:
                raise BenchError(
                    f"after {timeout_s:g} s a subscriber had {settled['min']} messages of the "
                    f"initial state, not {state_messages}"
                )
        return answer


def timer_acks() -> int:
    """Return the acknowledgements that a timer sent, of all sockets since the machine's start."""
    return parse_netstat(Path("/proc/net/netstat").read_text())["DelayedACKs"]


def parse_netstat(text: str) -> dict[str, int]:
    """Return the TcpExt counters in the text of ``/proc/net/netstat``."""
    names, values = (line.split()[1:] for line in text.splitlines() if line.startswith("TcpExt:"))
    return {name: int(value) for name, value in zip(names, values, strict=True)}


def ack_figures(counts: Mapping[str, Any], by_timer: int) -> dict[str, float]:
    """Return the kernel's counts of acknowledgements on a receiver's sockets with ``--ack``.

    Args:
        counts: the receiver's answer.
        by_timer: growth of `timer_acks` in the same time.

    Returns:
        ``acks_per_segment``: segments without data that were sent, per segment with data
        received. ``prompt_acks``: the same without those of a timer. ``acks_per_read``: those that
        a read sent itself, per read, from a sample of the reads.
    """
    acks = counts["acks"]
    segments = max(acks["segments"], 1)
    return {
        "acks_per_segment": acks["sent"] / segments,
        "prompt_acks": max(0, acks["sent"] - by_timer) / segments,
        "acks_per_read": acks["sampled_acks"] / max(acks["sampled_reads"], 1),
    }


def ack_fault(mode: str, figures: Mapping[str, float]) -> list[str]:
    """Return the remark that the sockets were not in ``mode``, if they were not.

    In quick mode each segment is acknowledged at once, in delayed mode every second one.
    """
    is_quick = figures["prompt_acks"] > QUICK_MIN
    return [] if is_quick == (mode == "quick") else [f"not {mode}"]


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    pids = [pid]
    for parent in pids:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            pids += [int(child) for child in path.read_text().split()]
    return pids


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process and its living descendants so far, in seconds."""
    total = 0.0
    for member in family(pid):
        clock = ctypes.c_int()
        if _libc.clock_getcpuclockid(member, ctypes.byref(clock)) == 0:
            total += time.clock_gettime(clock.value)
    return total


def waited_s(pid: int) -> float:
    """Return how long a process and its children were ready to run without a core, in s.

    Main threads only; its growth shows whether another process disturbed a run.
    """
    waits = (Path(f"/proc/{member}/schedstat").read_text().split()[1] for member in family(pid))
    return sum(int(wait) for wait in waits) / 1e9


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process and its living descendants."""
    total = 0
    for member in family(pid):
        for line in Path(f"/proc/{member}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) * 1024
    return total


def wait_idle(pid: int, timeout_s: float, *, quiet_s: float = 0.3, share: float = 0.05) -> None:
    """Wait until a process uses less than ``share`` of a core over ``quiet_s``."""
    deadline = time.monotonic() + timeout_s
    before = cpu_s(pid)
    while time.monotonic() < deadline:
        time.sleep(quiet_s)
        after = cpu_s(pid)
        if after - before < share * quiet_s:
            return
        before = after
    raise BenchError(f"the server was still busy after {timeout_s:g} s")


def free_port() -> int:
    """Return a port that was free a moment ago, below the range of outgoing connections."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in range(max(1024, low - 8000) + os.getpid() % 4000, low):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if probe.connect_ex(("127.0.0.1", port)) and port not in _given:
                _given.add(port)
                return port
    raise BenchError("no free port")


_given: set[int] = set()


def needs(*programs: str) -> None:
    """Raise unless all these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise BenchError(f"{program} is not installed")
