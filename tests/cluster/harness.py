"""A real HAProxy, with hedgehogd's own configuration, in front of real instances."""

import contextlib
import csv
import io
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from hedgehogd.commands.haproxy import Cluster, haproxy_config
from tests.e2e.harness import PATIENCE_S, HttpStream, free_port
from tests.ports import share

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin") or "haproxy"


def get(port: int, path: str) -> bytes:
    """Return the body of a local server's answer to a GET; blocks."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read()


def wait_until(is_so: Callable[[], object], condition: str) -> None:
    """Block until ``is_so()`` is true; a server that does not answer yet counts as false."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            if is_so():
                return
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S} s: {condition}")


def free_numbers(count: int) -> tuple[int, ...]:
    """Return numbers of instances with free ports, ten at most.

    No other process of pytest-xdist draws them, nor their ports, if their count divides 100.
    """
    firsts = share(range(1100, 20000, 10))
    for first in random.sample(firsts, len(firsts)):
        numbers = tuple(range(first, first + count))
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            for number in numbers:
                for base in (8000, 9000):
                    stack.enter_context(socket.create_server(("127.0.0.1", base + number)))
            return numbers
    raise AssertionError("no free ports")


class Proxy:
    """HAProxy as master and worker, on ports of its own."""

    def __init__(self, folder: Path, numbers: tuple[int, ...], **changes: object) -> None:
        values = {"bind": ("127.0.0.1",), "port": free_port(), "https_port": free_port(),
            "statistics_port": free_port(), "connections_max": 2000, **changes}  # fmt: skip
        self.cluster = Cluster(numbers, unprivileged=True, **values)
        self.port = self.cluster.port
        self._file = folder / f"haproxy-{self.port}.cfg"
        self._log = folder / f"haproxy-{self.port}.log"
        self._file.write_text(haproxy_config(self.cluster))
        with self._log.open("w") as log:
            self.master = subprocess.Popen(
                [HAPROXY, "-W", "-f", self._file], stdout=log, stderr=subprocess.STDOUT
            )
        try:
            wait_until(lambda: get(self.cluster.statistics_port, "/;csv"), "HAProxy answers")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Terminate it; its alerts may concern only instances that a test stopped."""
        log = self._log.read_text()
        self.master.terminate()
        self.master.wait(PATIENCE_S)
        alerts = [line for line in log.splitlines() if "[ALERT]" in line]
        assert not [line for line in alerts if "has no server available" not in line], log

    def reload(self) -> None:
        """Reload the configuration, as ``systemctl reload haproxy`` does."""
        self.master.send_signal(signal.SIGUSR2)

    def workers(self) -> list[int]:
        """Return the worker processes, new and old."""
        path = Path(f"/proc/{self.master.pid}/task/{self.master.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def memory_kib(self) -> int:
        """Return the resident memory of the workers."""
        status = [Path(f"/proc/{pid}/status").read_text() for pid in self.workers()]
        return sum(int(text.partition("VmRSS:")[2].split()[0]) for text in status)

    def servers(self, backend: str = "ready") -> dict[int, dict[str, str]]:
        """Return the statistics of the servers of ``backend``, by the instance's number."""
        text = get(self.cluster.statistics_port, "/;csv").decode().removeprefix("# ")
        rows = [row for row in csv.DictReader(io.StringIO(text)) if row["pxname"] == backend]
        return {int(row["svname"]): row for row in rows if row["svname"].isdecimal()}

    def up(self, backend: str = "ready") -> set[int]:
        """Return the instances that get new streams: up, by a completed check.

        HAProxy writes ``* L7OK`` from the begin of the next check until its end.
        """
        rows = self.servers(backend).items()
        return {
            number for number, row in rows
            if row["status"] == "UP" and row["check_status"].removeprefix("* ") == "L7OK"
        }  # fmt: skip

    def downs(self, backend: str = "ready") -> dict[int, int]:
        """Return how often HAProxy found each instance down."""
        return {number: int(row["chkdown"]) for number, row in self.servers(backend).items()}

    def wait_all_up(self) -> None:
        """Block until every instance gets new streams."""
        instances = set(self.cluster.instances)
        wait_until(lambda: self.up("ready") == self.up("living") == instances, "all are up")


class Machine:
    """One exchange, some instances that read it, and HAProxy in front of them."""

    def __init__(self, folder: Path, count: int, *flags: str, **changes: object) -> None:
        self._folder = folder
        self._flags = flags
        self._processes: dict[object, subprocess.Popen[bytes]] = {}
        self._exchange_port = free_port()
        self.numbers = free_numbers(count)
        self._logs = itertools.count()
        self._changes = changes
        self.proxy: Proxy | None = None
        self.port = 0

    def run(self) -> None:
        """Start all processes; block until all are ready."""
        (self._folder / "run").mkdir(mode=0o700)
        self.start_exchange()
        for number in self.numbers:
            self.start(number)
        for number in self.numbers:
            self.wait_ready(number)
        self.proxy = Proxy(self._folder, self.numbers, **self._changes)
        self.port = self.proxy.port
        self.proxy.wait_all_up()

    def _run(self, name: object, *arguments: str) -> None:
        with (self._folder / f"{name}-{next(self._logs)}.log").open("w") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "hedgehogd", *arguments], stderr=log
            )

    def start_exchange(self) -> None:
        """Start the simulated exchange on the same port with the same market."""
        where = ("--port", str(self._exchange_port))
        self._run("exchange", "simulate", *where, "--seed", "5", "--rate", "8")
        wait_until(lambda: get(self._exchange_port, "/products"), "the exchange answers")

    def stop_exchange(self) -> None:
        """Kill the exchange."""
        exchange = self._processes.pop("exchange")
        exchange.kill()
        exchange.wait(PATIENCE_S)

    def start(self, number: int) -> None:
        """Start an instance."""
        feed = f"ws://127.0.0.1:{self._exchange_port}"
        me = ("--instance", str(number), "--runtime-dir", str(self._folder / "run"))
        self._run(number, *me, "--feed", feed, *self._flags)

    def wait_ready(self, number: int) -> None:
        """Block until an instance has its feed."""
        wait_until(lambda: b"live" in get(8000 + number, "/readyz"), f"instance {number} is ready")

    def signal(self, number: int, what: signal.Signals) -> None:
        """Send an instance a signal."""
        self._processes[number].send_signal(what)

    async def end_of(self, number: int) -> int:
        """Wait for an instance's end and return its exit status."""
        process = self._processes.pop(number)
        with trio.fail_after(PATIENCE_S):
            return await trio.to_thread.run_sync(process.wait)

    def restore(self) -> None:
        """Start missing processes; block until all are ready again."""
        if "exchange" not in self._processes:
            self.start_exchange()
        for number in self.numbers:
            if number not in self._processes:
                self.start(number)
        for number in self.numbers:
            self.wait_ready(number)
        self.proxy.wait_all_up()

    def stop(self) -> None:
        """Stop all processes; none may have logged a bug."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait(PATIENCE_S)
        if self.proxy is not None:
            self.proxy.stop()
        for log in self._folder.glob("*.log"):
            assert "Traceback" not in log.read_text(), log.read_text()


@contextlib.contextmanager
def machine(folder: Path, count: int, *flags: str, **changes: object) -> Iterator[Machine]:
    """Run a whole cluster."""
    cluster = Machine(folder, count, *flags, **changes)
    try:
        cluster.run()
        yield cluster
    finally:
        cluster.stop()


def instance_of(stream: HttpStream) -> int:
    """Return the instance that serves a stream: its session id begins with the number."""
    return int(stream.headers["hedgehog-session"].partition(".")[0])


async def eventually(is_so: Callable[[], object], condition: str) -> None:
    """Wait until ``is_so()`` is true; a server that does not answer counts as false."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            with contextlib.suppress(OSError):
                if is_so():
                    return
            await trio.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S} s: {condition}")


def alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
