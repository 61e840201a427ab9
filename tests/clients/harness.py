"""Shared parts of the tests of real clients: the programs, and their drivers.

A driver prints one JSON object per line; other lines on its stdout are the library's output.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.clients.environments import CannotMake, Environment
from tests.e2e.harness import free_port

START_S = 20  # until a program logs that it is ready
DRIVER_S = 30  # until a driver ends; none reads longer than 20 s


@dataclass(frozen=True)
class Relay:
    """A daemon fed by a simulated exchange, each in a process.

    Attributes:
        port: the daemon's.
        exchange_rest: the exchange's own REST, to compare with.
        logs: the logs of both.
    """

    port: int
    exchange_rest: str
    logs: tuple[Path, Path]

    @property
    def url(self) -> str:
        """Return the URL that a Coinbase client uses for its feed."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        """Return the URL that a Coinbase client uses for REST."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def program(log: Path, *arguments: str, ready: str) -> Iterator[None]:
    """Run hedgehogd until the block ends; enter when it has logged ``ready``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HEDGEHOGD_")}
    command = [sys.executable, "-m", "hedgehogd", *arguments]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env=environment)
    try:
        end = time.monotonic() + START_S
        while ready not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def relay(folder: Path, *, rate: float, seed: int) -> Iterator[Relay]:
    """Run an exchange and a daemon that it feeds."""
    exchange, daemon = free_port(), free_port()
    logs = folder / "exchange.log", folder / "daemon.log"
    # Two of the clients do not know modify_order: their books would become wrong without a fault.
    market = ("simulate", "--port", str(exchange), "--seed", str(seed), "--rate", str(rate))
    market += ("--no-modify-orders",)
    front = ("--feed", f"ws://127.0.0.1:{exchange}", "--port", str(daemon))
    leave = ("--drain-spread-s", "0", "--drain-timeout-s", "3")
    with (
        program(logs[0], *market, ready='"simulating"'),
        program(logs[1], *front, *leave, ready='"serving"'),
    ):
        yield Relay(daemon, f"http://127.0.0.1:{exchange}", logs)


def command_of(environment: Environment) -> list[str]:
    """Return the command of a client's driver; make its environment on first use.

    Skips the test with the reason if that is impossible. CI fails on any skipped test, so a
    missing client cannot go unnoticed there.
    """
    try:
        return environment.command()
    except CannotMake as error:
        pytest.skip(str(error))


@dataclass
class Driver:
    """A running client.

    Attributes:
        lines: the lines that the driver printed.
        output: the lines that the library printed.
        stderr: the text on stderr.
        ended: True when no more lines can follow.
    """

    lines: list[dict] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    stderr: str = ""
    ended: bool = False

    def of(self, kind: str) -> list[dict]:
        """Return the lines of one kind."""
        return [line for line in self.lines if line["kind"] == kind]

    def messages(self, *types: str) -> list[dict]:
        """Return the messages of these types that reached the client's user."""
        found = [line["message"] for line in self.of("message")]
        return [message for message in found if message["type"] in types]

    def answer(self, call: str) -> object:
        """Return the answer of a REST call."""
        return next(line["answer"] for line in self.of("answer") if line["call"] == call)

    async def wait_for(self, kind: str) -> dict:
        """Wait for the first line of a kind."""
        while not self.of(kind):
            assert not self.ended, f"the client ended without {kind}: {self.all_errors()}"
            await trio.sleep(0.02)
        return self.of(kind)[0]

    async def _read(self, stream: trio.abc.ReceiveStream) -> None:
        left = b""
        async for data in stream:
            *whole, left = (left + data).split(b"\n")
            for line in whole:
                if line.startswith(b"{"):
                    self.lines.append(json.loads(line))
                elif line:
                    self.output.append(line.decode())
        self.ended = True

    async def _read_stderr(self, stream: trio.abc.ReceiveStream) -> None:
        async for data in stream:
            self.stderr += data.decode()

    def all_errors(self) -> str:
        """Return all errors and output, for the message of a failing test."""
        errors = [str(line) for line in self.of("error")]
        return "\n".join([*errors, *self.output, self.stderr])


@asynccontextmanager
async def driving(command: list[str], *arguments: object) -> AsyncIterator[Driver]:
    """Run a driver; leave when it has ended by itself, with status 0."""
    driver = Driver()
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    process = await trio.lowlevel.open_process(
        [*command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    try:
        with trio.fail_after(DRIVER_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(driver._read, process.stdout)
                nursery.start_soon(driver._read_stderr, process.stderr)
                yield driver
                await process.wait()
    except* trio.TooSlowError:
        raise AssertionError(f"not done in {DRIVER_S} s: {driver.all_errors()}") from None
    finally:
        if process.poll() is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
    assert process.returncode == 0, driver.all_errors()


async def drive(command: list[str], *arguments: object) -> Driver:
    """Run a driver to its end."""
    async with driving(command, *arguments) as driver:
        pass
    return driver
