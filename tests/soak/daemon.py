"""The daemon under test: a process of its own, and what it holds."""

import os
import signal
import socket
import subprocess
import sys
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
    """A hedgehogd on a demo market, without history.

    Attributes:
        port: where it serves.
    """

    def __init__(self, folder: Path, rate: float, seed: int, *, plants_leak: bool) -> None:
        self.port = free_port()
        self._log = folder / "daemon.log"
        self._socket = folder / "1.sock"
        program = (
            [sys.executable, "-m", "tests.soak.planted"]
            if plants_leak
            else [sys.executable, "-m", "hedgehogd"]
        )
        options = (
            ("--feed", "demo"), ("--demo-rate", str(rate)), ("--demo-seed", str(seed)),
            ("--pairs", "BTC-USD,ETH-USD"), ("--channels", "ticker,matches,level2"),
            ("--history", "none"), ("--port", str(self.port)), ("--instance", "1"),
            ("--runtime-dir", str(folder)), ("--log-format", "json"),
            ("--tape-bytes-max", str(_TAPE_BYTES_MAX)),
            ("--backlog-bytes-max", str(_BACKLOG_BYTES_MAX)),
        )  # fmt: skip
        # One arena, and pages given back early: what is left of malloc's own is below 0.1 MiB an
        # hour, so that a rise is the daemon's.
        quiet_malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*program, *(word for option in options for word in option)],
                cwd=ROOT,
                env={**os.environ, **quiet_malloc},
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    @property
    def is_running(self) -> bool:
        """False when it has ended."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return what it logged."""
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
            while b'"ready":true' not in await self._get("/readyz"):
                await trio.sleep(0.2)

    async def sample(self, at_s: float) -> Sample:
        """Return what it holds now.

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
        """End it; return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _get(self, path: str) -> bytes:
        """Return the answer to a GET on the runtime socket; nothing while there is none."""
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
