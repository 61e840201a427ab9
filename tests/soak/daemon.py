"""The daemon under test: a process of its own, and its memory, files and tasks."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import trio

from tests.e2e.harness import free_port
from tests.soak.trend import Sample

ROOT = Path(__file__).parents[2]
_START_S = 60.0
_STOP_S = 30.0
_ANSWER_S = 30.0
_BACKLOG_BYTES_MAX = 256 * 1024  # small, so that slow subscribers reach it
_TAPE_BYTES_MAX = 4 * 1024 * 1024  # small, so that the tape is full within the warm-up
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class SoakedDaemon:
    """A hedgehogd without history, and the simulated exchange that feeds it.

    The exchange is a separate process: the market's own memory must not count as the relay's.

    Attributes:
        port: its port.
    """

    def __init__(self, folder: Path, rate: float, seed: int, *, plants_leak: bool) -> None:
        self.port = free_port()
        self._log = folder / "daemon.log"
        self._socket = folder / "1.sock"
        exchange_port = free_port()
        market = (("--port", exchange_port), ("--seed", seed), ("--rate", rate))
        options = (
            ("--feed", f"ws://127.0.0.1:{exchange_port}"),
            ("--pairs", "BTC-USD,ETH-USD"), ("--channels", "ticker,matches,level2"),
            ("--history", "none"), ("--port", self.port), ("--instance", 1),
            ("--runtime-dir", folder), ("--log-format", "json"),
            ("--tape-bytes-max", _TAPE_BYTES_MAX), ("--backlog-bytes-max", _BACKLOG_BYTES_MAX),
        )  # fmt: skip
        module = "tests.soak.planted" if plants_leak else "hedgehogd"
        self._exchange = _start(folder / "exchange.log", "hedgehogd", "simulate", *_words(market))
        self._process = _start(self._log, module, *_words(options))

    @property
    def is_running(self) -> bool:
        """False when it has ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return its log."""
        return self._log.read_text(errors="replace")

    def bugs(self) -> list[str]:
        """Return the lines that it logged as bugs."""
        return [line for line in self.log().splitlines() if '"bug' in line or "Traceback" in line]

    async def wait_ready(self) -> None:
        """Wait until it has its feed.

        Raises:
            trio.TooSlowError: it has none in time.
        """
        with trio.fail_after(_START_S):
            while b'"reason":"live"' not in await self._get("/readyz"):
                await trio.sleep(0.2)

    async def sample(self, at_s: float) -> Sample:
        """Return its memory, open files and tasks now.

        Raises:
            OSError: it does not run.
        """
        metrics = (await self._get("/metrics")).decode()
        values = dict(
            line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("hedgehogd")
        )
        proc = Path(f"/proc/{self._process.pid}")
        return Sample(
            at_s,
            int((proc / "statm").read_text().split()[1]) * _PAGE_BYTES,
            len(list((proc / "fd").iterdir())),
            int(float(values["hedgehogd_tasks"])),
            int(float(values["hedgehogd_messages_in_total"])),
        )

    def stop(self) -> int:
        """Stop it and its exchange; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            self._exchange.kill()
            self._exchange.wait()

    async def _get(self, path: str) -> bytes:
        """Return the answer to a GET on the runtime socket; empty while the socket is missing."""
        try:
            with trio.fail_after(_ANSWER_S):
                stream = await trio.open_unix_socket(str(self._socket))
        except OSError:
            if not self.is_running:
                raise
            return b""
        answer = b""
        async with stream:
            with trio.fail_after(_ANSWER_S):
                await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                while data := await stream.receive_some():
                    answer += data
        return answer


def _words(options: Iterable[tuple[str, object]]) -> Iterator[str]:
    return (str(word) for option in options for word in option)


def _start(log: Path, module: str, *arguments: str) -> subprocess.Popen[bytes]:
    # One arena, and pages returned early, so that malloc's own rise is small beside the bar.
    quiet_malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with log.open("w") as file:
        return subprocess.Popen(
            # The kernel ends it when this process ends for any reason.
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **quiet_malloc},
            stderr=file,
            stdin=subprocess.DEVNULL,
        )


def source_address(number: int) -> tuple[str, int]:
    """Return a loopback address of its own for ``number``, with any port."""
    return (f"127.0.{number // 250 % 250 + 1}.{number % 250 + 1}", 0)


async def connect(port: int, number: int) -> trio.SocketStream:
    """Connect to ``port`` from the address of ``number``.

    Raises:
        OSError: the connection is refused.
    """
    sock = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        await sock.bind(source_address(number))
        await sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
