"""The program as a process: its signals, its exit status, its log."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.e2e.harness import PATIENCE_S, free_port, next_of, subscribe, websocket

pytestmark = pytest.mark.e2e


def command(*arguments: str) -> list[str]:
    """Return the command line of this Python's hedgehogd."""
    return [sys.executable, "-m", "hedgehogd", *arguments]


@asynccontextmanager
async def process(*arguments: str, ready: str) -> AsyncIterator[tuple[trio.Process, list[str]]]:
    """Run hedgehogd until the block ends; enter when ``ready`` has been logged."""
    lines: list[str] = []
    proc = await trio.lowlevel.open_process(command(*arguments), stderr=subprocess.PIPE)
    seen = trio.Event()

    async def read() -> None:
        left = ""
        async for data in proc.stderr:
            *whole, left = (left + data.decode()).split("\n")
            lines.extend(whole)
            if any(ready in line for line in whole):
                seen.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        try:
            with trio.fail_after(PATIENCE_S):
                await seen.wait()
            yield proc, lines
        finally:
            if proc.poll() is None:
                proc.kill()
            with trio.CancelScope(shield=True):
                await proc.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_0_after_notices_to_all(number: int) -> None:
    """systemd sends SIGTERM; a terminal sends SIGINT."""
    port = free_port()
    arguments = ("--feed", "demo", "--port", str(port), "--drain-spread-s", "0.2")
    async with process(*arguments, ready='"serving"') as (proc, lines):
        async with websocket(port, "/ws") as client:
            await client.send_message(subscribe(["BTC-USD"], ["ticker"]))
            await next_of(client, "ticker")
            os.kill(proc.pid, number)
            closing = await next_of(client, "closing")
        with trio.fail_after(PATIENCE_S):
            status = await proc.wait()

    assert status == 0
    assert "BTC-USD" in closing["position"]["ticker"]
    assert all(json.loads(line)["event"] for line in lines if line)
    assert not [line for line in lines if "Traceback" in line]


async def test_a_second_process_with_the_same_port_has_its_exit_status() -> None:
    """It reports the error in one line, with the status of a bad configuration."""
    port = free_port()
    async with process("--feed", "demo", "--port", str(port), ready='"serving"'):
        second = await trio.run_process(
            command("--feed", "demo", "--port", str(port)), capture_stderr=True, check=False
        )

    assert second.returncode == 78
    assert f"hedgehogd: cannot listen on 127.0.0.1 port {port}: " in second.stderr.decode()
    assert second.stderr.decode().count("\n") == 1


async def test_tail_prints_a_simulators_messages() -> None:
    """The two other commands, used together."""
    port = free_port()
    async with process("simulate", "--port", str(port), "--seed", "7", ready='"simulating"'):
        tail = await trio.run_process(
            command("tail", f"ws://127.0.0.1:{port}", "--pairs", "BTC-USD", "--count", "4"),
            capture_stdout=True,
            capture_stderr=True,
        )

    types = re.findall(r'"type":"(\w+)"', tail.stdout.decode())
    assert len(tail.stdout.splitlines()) == 4
    assert {"last_match", "ticker", "subscriptions"} <= set(types)
